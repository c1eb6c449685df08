"""The read model: written with each flush, equal to the events, and rebuilt from nothing but them."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from decimal import Decimal
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.utils import timezone

from billing.enums import Aggregation
from billing.models import Customer, Meter
from tests.usage.conftest import make_meter, report
from usage import flush, holding, quarters, tasks, voiding
from usage.invariants import violations
from usage.models import FlushRun, IngestBatch, QuarterReading, QuarterUsage, RunHour
from usage.voiding import EventKey


def kept(**filters: object) -> list[tuple[str, str, str, str, Decimal, int]]:
    """The rows of the read model that add up, in the order of their keys."""
    return [
        (
            row.subject,
            row.meter.slug,
            f"{row.quarter_start:%d %H:%M}",
            row.model,
            row.quantity,
            row.event_count,
        )
        for row in QuarterUsage.objects.filter(**filters)
        .select_related("meter")
        .order_by("subject", "meter__slug", "quarter_start", "model")
    ]


def everything() -> list[list[tuple]]:
    return [
        list(model.objects.order_by("pk").values_list())
        for model in (QuarterUsage, QuarterReading, RunHour)
    ]


@pytest.fixture
def running(meters) -> dict[str, Meter]:
    """Meters whose values do not add up."""
    made = {}
    for aggregation in (Aggregation.MAX, Aggregation.UNIQUE, Aggregation.LATEST):
        meter = make_meter(aggregation.value, aggregation.value, required=False)
        Meter.objects.filter(pk=meter.pk).update(aggregation=aggregation)
        made[aggregation.value] = meter
    return made


@pytest.mark.integration
def test_a_run_adds_what_its_events_came_to(store, acme, now):
    quarter = now.replace(minute=30, second=0)
    store(
        report("a", at=now, input_tokens=1, model="m-1"),
        report("b", at=quarter, input_tokens=2, model="m-1"),
        report("c", at=quarter - timedelta(microseconds=1), input_tokens=4, model="m-1"),
        report("d", at=now, input_tokens=8, model="m-2"),
        report("e", at=now, input_tokens=16),
        report("f", at=now, subject="stranger", input_tokens=32, cached_tokens=3),
    )
    flush.flush_batches(now=now)
    store(report("g", at=now, input_tokens=64, model="m-1"))
    flush.flush_batches(now=now)

    assert kept(meter__slug__endswith="tokens") == [
        ("acme", "input_tokens", "20 12:15", "m-1", 4, 1),
        ("acme", "input_tokens", "20 12:30", "", 16, 1),
        ("acme", "input_tokens", "20 12:30", "m-1", 67, 3),
        ("acme", "input_tokens", "20 12:30", "m-2", 8, 1),
        ("stranger", "cached_tokens", "20 12:30", "", 3, 1),
        ("stranger", "input_tokens", "20 12:30", "", 32, 1),
    ]
    assert kept(meter__slug="llm_calls", model="m-1") == [
        ("acme", "llm_calls", "20 12:15", "m-1", 1, 1),
        ("acme", "llm_calls", "20 12:30", "m-1", 3, 3),
    ]
    assert sorted(RunHour.objects.values_list("hour", "run_id")) == [
        (now.replace(minute=0, second=0), run_id)
        for run_id in sorted(FlushRun.objects.values_list("pk", flat=True))
    ]


@pytest.mark.integration
def test_a_void_counts_with_its_sign_and_what_never_stood_leaves_no_row(store, source, acme, now):
    store(report("a", at=now, input_tokens=5), report("b", at=now, input_tokens=7))
    flush.flush_batches(now=now)
    store(report("c", at=now - timedelta(hours=1), input_tokens=9))
    voided = [EventKey(source.pk, "a"), EventKey(source.pk, "c")]
    voiding.void(voided, author="a person", reason="a mistake", now=now)
    flush.flush_batches(now=now)

    assert kept() == [
        ("acme", "input_tokens", "20 12:30", "", 7, 1),
        ("acme", "llm_calls", "20 12:30", "", 1, 1),
    ]


@pytest.mark.integration
def test_releasing_held_usage_adds_nothing(store, meters, now):
    store(report("a", at=now, subject="late", input_tokens=7))
    flush.flush_batches(now=now)
    before = everything()
    Customer.objects.create(external_id="late", stripe_customer_id="cus_late")

    assert holding.release(now=now) == 2
    tasks.flush_due()

    assert everything() == before
    assert before[0] != []


@pytest.mark.integration
def test_values_that_do_not_add_up_are_kept_apart(store, source, acme, running, now):
    def at(seconds: int) -> datetime:
        return now + timedelta(seconds=seconds)

    store(
        report("a", at=at(0), input_tokens=1, max=5, unique="ann", latest=1),
        report("b", at=at(1), input_tokens=1, max=9, unique="bob", latest=2),
        report("c", at=at(2), input_tokens=1, max=5, unique="ann"),
    )
    flush.flush_batches(now=now)
    voiding.void([EventKey(source.pk, "b")], author="a person", reason="a mistake", now=now)
    flush.flush_batches(now=now)

    found = QuarterReading.objects.order_by("number", "event_count")
    assert list(found.filter(meter=running["max"]).values_list("number", "event_count")) == [
        (5, 2),
        (9, 0),
    ]
    assert sorted(found.filter(meter=running["unique"]).values_list("number", "event_count")) == [
        (0, 0),
        (0, 2),
    ]
    assert list(
        found.filter(meter=running["latest"]).values_list("number", "occurred_at", "event_count")
    ) == [(1, at(0), 1), (2, at(1), 0)]


@pytest.mark.integration
def test_rebuilding_ends_where_the_flushes_did(store, source, acme, running, now):
    for number in range(12):
        at = now - timedelta(minutes=17 * number)
        store(
            report(f"e-{number}", at=at, input_tokens=number, max=number, unique=f"u-{number % 3}",
                   latest=number, model=f"m-{number % 2}"),
        )  # fmt: skip
        if number == 5:
            keys = [EventKey(source.pk, "e-2"), EventKey(source.pk, "e-5")]
            voiding.void(keys, author="a person", reason="a mistake", now=now)
        if number in (3, 6, 10):
            flush.flush_batches(now=now)
    expected = everything()
    # A row that came to 0 says nothing, and is not written again.
    expected[0] = [row for row in expected[0] if any(row[-2:])]
    for model in (QuarterUsage, RunHour):
        model.objects.all().delete()
    QuarterReading.objects.update(event_count=99)
    out = StringIO()

    for _ in range(2):
        call_command("rebuild_usage", stdout=out)

    found = everything()
    assert [row for row in found[0] if any(row[-2:])] == expected[0]
    assert found[1:] == expected[1:]
    assert violations() == ()
    rows = QuarterUsage.objects.count() + QuarterReading.objects.count()
    assert out.getvalue() == f"4 hours rebuilt, {rows} rows\n" * 2


@pytest.mark.integration
def test_some_hours_are_rebuilt_alone(store, acme, now):
    hour = now.replace(minute=0, second=0)
    for number in range(3):
        store(report(f"e-{number}", at=hour - timedelta(hours=number), input_tokens=1))
    flush.flush_batches(now=now)
    QuarterUsage.objects.update(quantity=50)

    done = quarters.rebuild(since=hour - timedelta(hours=1), until=hour)

    assert done == quarters.Rebuilt(hour_count=1, row_count=2)
    assert [row[4] for row in kept(meter__slug="input_tokens")] == [50, 1, 50]


@pytest.mark.integration
@pytest.mark.parametrize("instant", ["2026-11-20T12:30Z", "2026-11-20T12:00", "noon"])
def test_a_rebuild_takes_whole_hours(db, instant):
    with pytest.raises(CommandError, match="argument --since"):
        call_command("rebuild_usage", "--since", instant)


TAMPERING = {
    "RM1": (
        "UPDATE usage_quarterusage SET quantity = quantity + 1 WHERE subject = 'acme'",
        "DELETE FROM usage_quarterusage WHERE subject = 'acme'",
        "UPDATE usage_quarterusage SET subject = 'ghost' WHERE subject = 'acme'",
    ),
    "RM2": (
        "UPDATE usage_quarterreading SET event_count = event_count + 1",
        "DELETE FROM usage_quarterreading",
    ),
}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("invariant", "tampering"),
    [(name, statement) for name, statements in TAMPERING.items() for statement in statements],
)
def test_a_read_model_that_is_not_the_events_is_found_and_mended(
    store, acme, running, now, invariant, tampering
):
    for days in (5, 0):
        at = now - timedelta(days=days)
        store(report(f"e-{days}", at=at, input_tokens=3, max=2), at=at)
        flush.flush_batches(now=at)
    assert violations() == ()
    with connection.cursor() as cursor:
        cursor.execute(tampering)
        assert cursor.rowcount

    assert [each.invariant.id for each in violations()] == [invariant]
    quarters.rebuild()
    assert violations() == ()


@pytest.mark.integration
def test_the_nightly_comparison_leaves_old_usage_alone(store, acme, now):
    for days in (5, 0):
        at = now - timedelta(days=days)
        store(report(f"e-{days}", at=at, input_tokens=3), at=at)
        flush.flush_batches(now=at)

    QuarterUsage.objects.filter(quarter_start__lt=now - timedelta(days=4)).update(quantity=50)

    assert violations() == ()


# --- several at once ------------------------------------------------------------------------------


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_flushes_of_the_same_quarters_at_once_neither_deadlock_nor_lose(store):
    subjects = [f"c-{number}" for number in range(20)]
    for batch in range(24):
        ordered = subjects if batch % 2 else subjects[::-1]
        store(
            *(report(f"{batch}-{each}", at=None, subject=each, input_tokens=1) for each in ordered)
        )
    start = threading.Barrier(3)
    failures: list[Exception] = []

    def flusher() -> None:
        start.wait()
        try:
            while flush.flush_batches(now=timezone.now(), event_limit=20).batch_count:
                pass
        except Exception as error:  # noqa: BLE001 - told by the test
            failures.append(error)
        connections.close_all()

    threads = [threading.Thread(target=flusher) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while flush.flush_batches(now=timezone.now()).batch_count:
        pass

    assert failures == []
    rows = QuarterUsage.objects.filter(meter__slug="input_tokens")
    assert sorted(rows.values_list("subject", "quantity", "event_count")) == sorted(
        (each, 24, 24) for each in subjects
    )


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_run_that_fails_leaves_nothing_for_the_next(store, monkeypatch):
    store(report("a", at=None, subject="c", input_tokens=1))
    monkeypatch.setattr(quarters, "ADD_HOURS", "SELECT 1 / 0")
    with pytest.raises(Exception, match="division by zero"):
        flush.flush_batches(now=timezone.now())
    monkeypatch.undo()

    flush.flush_batches(now=timezone.now())
    with transaction.atomic():
        # Within one transaction, too, each run adds its own only.
        store(report("b", at=None, subject="c", input_tokens=10))
        flush.flush_batches(now=timezone.now())
        store(report("c", at=None, subject="c", input_tokens=100))
        flush.flush_batches(now=timezone.now())

    total = sum(
        QuarterUsage.objects.filter(meter__slug="input_tokens").values_list("quantity", flat=True)
    )
    assert total == 111
    assert not IngestBatch.objects.filter(run=None).exists()
