"""Writing events: whichever way they are written, the same is stored."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.usage.conftest import report
from usage import storing
from usage.models import EventConflict, IngestBatch, UsageEvent
from usage.reports import CONFLICT, ReportedEvent, Row, Stored, row_of

pytestmark = pytest.mark.integration


def row(event: ReportedEvent) -> Row:
    return row_of(event)


def reported(event_id: str, *, at, data_json: str = '{"input_tokens": 10}', **changes) -> Row:
    fields = {"event_id": event_id, "type": "llm.call", "subject": "acme", "occurred_at": at}
    return row(ReportedEvent(**(fields | changes), data={"input_tokens": 10}, data_json=data_json))


@pytest.fixture
def copied_from_two(monkeypatch):
    monkeypatch.setattr(storing, "COPY_FROM", 2)


@dataclass
class Written:
    """What one batch left, without the ids that a second one cannot have."""

    events: list[tuple]
    batches: list[tuple]


def written() -> Written:
    return Written(
        list(
            UsageEvent.objects.order_by("event_id").values_list(
                "event_id", "type", "subject", "occurred_at", "received_at", "data", "voids"
            )
        ),
        list(IngestBatch.objects.values_list("event_count", "checksum", "received_at", "run")),
    )


AWKWARD = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(AWKWARD, min_size=2, max_size=4, unique=True), spaces=st.sampled_from([
    '{"a": "%s"}', '{\n\t"a":\r\n "%s"}',
]), value=st.sampled_from(["\\\\", "\\n", "\\t", "é\u2028", "\\u0041", "\\\\.", "N"]))  # fmt: skip
def test_copied_and_inserted_are_the_same(source, now, monkeypatch, names, spaces, value):
    rows = [
        reported(name, at=now, subject=name, type=name, data_json=spaces % value) for name in names
    ]
    found = []
    for copy_from in (2, 1_000):
        monkeypatch.setattr(storing, "COPY_FROM", copy_from)
        with transaction.atomic():
            assert storing.insert(source_id=source.pk, rows=rows, now=now) == set(names)
            found.append(written())
            transaction.set_rollback(True)

    assert found[0] == found[1]
    assert len(found[0].events) == len(names)


def test_a_copy_with_one_known_event_stores_the_others_and_leaves_no_trace_of_itself(
    store, now, copied_from_two
):
    store(report("a", at=now))

    outcomes = store(report("b", at=now), report("a", at=now), report("c", at=now, input_tokens=3))

    assert outcomes == [Stored.ACCEPTED, Stored.DUPLICATE, Stored.ACCEPTED]
    assert sorted(UsageEvent.objects.values_list("event_id", flat=True)) == ["a", "b", "c"]
    assert sorted(IngestBatch.objects.values_list("event_count", flat=True)) == [1, 2]


def test_a_copy_is_told_conflicts_apart_within_itself(store, now, copied_from_two):
    outcomes = store(
        report("a", at=now), report("a", at=now), report("a", at=now, input_tokens=3),
        report("b", at=now),
    )  # fmt: skip

    assert outcomes == [Stored.ACCEPTED, Stored.DUPLICATE, CONFLICT, Stored.ACCEPTED]
    assert EventConflict.objects.get().payload["data"] == {"input_tokens": 3}


def test_a_copied_event_without_a_time_occurred_when_it_was_stored(store, now, copied_from_two):
    store(report("a", at=None), report("b", at=None))

    assert set(UsageEvent.objects.values_list("occurred_at", "received_at")) == {(now, now)}


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_two_copies_of_the_same_events_at_once_store_each_once(source, now):
    """F04: the one that comes second waits, and finds all of them stored."""
    rows = [reported(f"e-{number:04}", at=now) for number in range(300)]
    both_open = threading.Barrier(2)
    new: list[int] = []

    def write(ordered):
        try:
            with transaction.atomic():
                connection.ensure_connection()
                both_open.wait(10)
                new.append(len(storing.insert(source_id=source.pk, rows=ordered, now=now)))
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(each,)) for each in (rows, rows[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(new) == [0, 300]
    assert UsageEvent.objects.count() == 300
    assert list(IngestBatch.objects.values_list("event_count", flat=True)) == [300]
