"""Two flushers, and a recount beside them, on the running values of one customer."""

from __future__ import annotations

import threading

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from billing.enums import Aggregation
from billing.models import Customer, Meter, PeriodBoundary
from tests.usage.conftest import make_meter, report
from usage import flush, running_upkeep
from usage.models import RunningValue, Submission
from usage.running import lock

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]


def make_meters() -> Customer:
    for aggregation, value_property in (
        (Aggregation.UNIQUE, "user"),
        (Aggregation.MAX, "seats"),
        (Aggregation.LATEST, "seats"),
    ):
        meter = make_meter(aggregation.value, value_property, required=False)
        Meter.objects.filter(pk=meter.pk).update(aggregation=aggregation)
    return Customer.objects.create(external_id="acme", stripe_customer_id="cus_acme")


def test_concurrent_flushers_lose_no_name_and_freeze_no_second_twice(transactional_db, store):
    """F21: each waits for the other's value instead of moving on from an old one."""
    customer = make_meters()
    now = timezone.now()
    for number in range(60):
        store(
            report(f"{number:02}", at=now, input_tokens=1, user=f"u{number % 40}", seats=number),
            at=now,
        )
    start = threading.Barrier(4)
    errors: list[Exception] = []

    def flusher() -> None:
        try:
            start.wait()
            while flush.flush_batches(now=now, event_limit=3).batch_count:
                running_upkeep.tend(clock=lambda: now, seconds=5)
        except Exception as error:  # noqa: BLE001 - told by the test
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=flusher) for _ in range(4)]
    for thread in threads:
        thread.start()
    PeriodBoundary.objects.create(customer=customer, at=now)
    for thread in threads:
        thread.join()
    while flush.flush_batches(now=now).batch_count:
        pass
    running_upkeep.tend(clock=lambda: now, seconds=30)

    assert errors == []
    values = RunningValue.objects.filter(period_start=now).values_list("meter__slug", "value")
    assert dict(values) == {"unique": 40, "max": 59, "latest": 59}
    for slug in ("unique", "max", "latest"):
        seconds = list(
            Submission.objects.filter(meter__slug=slug)
            .order_by("pk")
            .values_list("timestamp", flat=True)
        )
        assert seconds == sorted(set(seconds))


def is_anyone_waiting() -> bool:
    with connection.cursor() as cursor:
        # Not `pg_stat_activity`, which stands still inside a transaction.
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        waiting: bool = cursor.fetchone()[0]
        return waiting


def test_a_flusher_waits_for_the_value_another_is_moving_on(transactional_db, store):
    """F21: moved on from the value before it, one of two new names would be lost."""
    make_meters()
    now = timezone.now()
    store(report("first", at=now, input_tokens=1, user="first", seats=1), at=now)
    flush.flush_batches(now=now)
    store(report("second", at=now, input_tokens=1, user="second", seats=1), at=now)
    before = RunningValue.objects.get(meter__slug="unique")

    def other_flusher() -> None:
        try:
            flush.flush_batches(now=now)
        finally:
            connections.close_all()

    other = threading.Thread(target=other_flusher)
    with transaction.atomic():
        [mine] = lock({(before.customer_id, before.meter_id, before.period_start)}, now=now)
        other.start()
        while other.is_alive() and not is_anyone_waiting():
            pass
        mine.value += 1
        mine.save()
    other.join()

    before.refresh_from_db()
    assert before.value == 3
