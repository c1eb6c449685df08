"""`manage.py backfill`: late usage from a file."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command

from billing.models import PeriodBoundary, Source
from usage.backfilling import Fate
from usage.models import Backfill, UsageEvent

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

HOUR = timedelta(hours=1)


@pytest.fixture
def run(source, meters, acme, now, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("usage.management.commands.backfill.database_clock", lambda: now)

    def run(content: bytes | str, *arguments: str, source: str = "gateway") -> str:
        file = tmp_path / "events.json"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        call_command(
            "backfill",
            str(file),
            "--source",
            source,
            "--reason",
            "the exporter was down",
            "--by",
            "ada",
            *arguments,
        )
        return capsys.readouterr().out

    return run


def event(event_id, *, at, **data):
    return {
        "id": event_id,
        "type": "llm.call",
        "subject": "acme",
        "time": at.isoformat(),
        "data": data or {"input_tokens": 10},
    }


@pytest.mark.parametrize(
    "written", [json.dumps, lambda rows: "\n\n".join(json.dumps(row) for row in rows) + "\n"]
)
def test_an_array_or_lines_of_events_are_told_then_stored(run, acme, now, written):
    PeriodBoundary.objects.create(customer=acme, at=now - HOUR, closed_at=now, recut_at=now)
    content = written(
        [event("a", at=now - 2 * HOUR, input_tokens=1_000), event("b", at=now, input_tokens=7)]
    )

    foretold = run(content, "--dry-run")

    before = "… to 2026-11-20 11:30:15 UTC"
    after = "2026-11-20 11:30:15 to … UTC"
    assert foretold.splitlines() == [
        "2 events would be stored. Nothing was stored: this is a dry run.",
        *(
            f"acme · {meter} · {period} · {units} in 1 event · no invoice yet · {fate.sentence}"
            for meter, period, units, fate in (
                ("input_tokens", before, "+1,000", Fate.HELD_LATE),
                ("input_tokens", after, "+7", Fate.BILLED),
                ("llm_calls", before, "+1", Fate.HELD_LATE),
                ("llm_calls", after, "+1", Fate.BILLED),
            )
        ),
    ]
    assert not UsageEvent.objects.exists()
    done = run(content)
    assert done.splitlines()[0] == "2 events stored."
    assert done.splitlines()[1:] == foretold.splitlines()[1:]
    assert (Backfill.objects.get().author, UsageEvent.objects.count()) == ("ada", 2)


def test_a_refused_event_is_told_and_fails_the_command(run, now, capsys):
    with pytest.raises(SystemExit):
        run(json.dumps([event("a", at=now), event("b", at=now - timedelta(days=40))]))

    assert capsys.readouterr().out.splitlines()[-1] == (
        "event 1: time is more than 34 days in the past"
    )
    assert UsageEvent.objects.get().event_id == "a"


@pytest.mark.parametrize("name", ["nobody", "meterkeeper:corrections"])
def test_a_source_that_reports_no_events_is_refused(run, now, name):
    Source.objects.get_or_create(name="meterkeeper:corrections")

    with pytest.raises(CommandError, match="There is no source"):
        run(json.dumps([event("a", at=now)]), source=name)

    assert not UsageEvent.objects.exists()


def test_a_file_that_cannot_be_read_is_refused(run, now, tmp_path):
    with pytest.raises(CommandError, match="is no JSON array"):
        run("[1, 2")
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("backfill", str(tmp_path / "gone"), source="gateway", reason="r", by="ada")
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(CommandError, match="Say who"):
        call_command(
            "backfill", str(tmp_path / "empty.json"), source="gateway", reason=" ", by="ada"
        )
