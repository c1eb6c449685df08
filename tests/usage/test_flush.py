"""Events become submissions: each unit once, in its own cell, frozen."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, OperationalError, connection

from billing.models import Case, Customer, Meter, MeterVersion, PeriodBoundary
from tests.factories.usage import make_submission
from tests.usage.conftest import make_meter, report
from usage import flush, holding, tasks
from usage.enums import HeldReason
from usage.folding import fold
from usage.models import FlushRun, HeldUsage, IngestBatch, Submission, SubmissionState
from usage.quantities import MAX_VALUE

pytestmark = pytest.mark.integration


def values(**filters) -> dict[str, Decimal]:
    """What was made, by meter."""
    made: dict[str, Decimal] = {}
    for slug, value in Submission.objects.filter(**filters).values_list("meter__slug", "value"):
        made[slug] = made.get(slug, Decimal(0)) + value
    return made


def test_one_event_feeds_every_meter_that_reads_it(store, acme, now):
    store(
        report("a", at=now, input_tokens=10, cached_tokens=4), report("b", at=now, input_tokens=5)
    )

    result = flush.flush_batches(now=now)

    assert result == flush.FlushResult(
        batch_count=1, event_count=2, submission_count=3, held_count=0
    )
    assert values() == {"input_tokens": 15, "cached_tokens": 4, "llm_calls": 2}


def test_a_submission_is_frozen_as_stripe_will_get_it(store, acme, meters, now):
    store(
        report("a", at=now - timedelta(minutes=20), input_tokens=10),
        report("b", at=now.replace(microsecond=900_000), input_tokens=5),
        report("c", at=now - timedelta(minutes=10), input_tokens=1),
    )

    flush.flush_batches(now=now + timedelta(hours=3))

    submission = Submission.objects.get(meter=meters.input)
    assert submission.timestamp == now.replace(microsecond=0)
    assert submission.window_start == submission.segment_start == now.replace(minute=0, second=0)
    assert (submission.event_count, submission.value) == (3, 16)
    assert json.loads(submission.payload) == {
        "event_name": "mk_input_tokens",
        "identifier": submission.identifier,
        "payload": {"stripe_customer_id": "cus_acme", "value": "16"},
        "timestamp": int(now.timestamp()),
    }
    standing = submission.standing
    assert (standing.state, standing.attempt_count, standing.next_action_at) == (
        "ready",
        0,
        now + timedelta(hours=3),
    )


def test_a_second_flush_finds_nothing(store, acme, now):
    store(report("a", at=now))
    flush.flush_batches(now=now)

    assert flush.flush_batches(now=now) == flush.FlushResult()
    assert FlushRun.objects.count() == 1
    assert Submission.objects.count() == 2


@pytest.mark.parametrize(
    ("instant", "hour"),
    [
        ("2026-11-20T11:59:59.999999Z", "2026-11-20T11:00:00Z"),
        ("2026-11-20T12:00:00Z", "2026-11-20T12:00:00Z"),
        ("2026-11-20T12:29:59+05:30", "2026-11-20T06:00:00Z"),
        ("2026-10-31T23:59:59Z", "2026-10-31T23:00:00Z"),
    ],
)
def test_cells_are_utc_hours_start_included(store, acme, meters, now, instant, hour):
    store(report("a", at=datetime.fromisoformat(instant)))

    flush.flush_batches(now=now)

    assert Submission.objects.get(meter=meters.input).window_start == datetime.fromisoformat(hour)


def test_cells_are_kept_apart_by_customer_and_hour(store, acme, meters, now):
    Customer.objects.create(external_id="other", stripe_customer_id="cus_other")
    store(
        report("a", at=now, input_tokens=1),
        report("b", at=now - timedelta(hours=1), input_tokens=2),
        report("c", at=now, input_tokens=4, subject="other"),
    )

    flush.flush_batches(now=now)

    made = Submission.objects.filter(meter=meters.input).order_by("value")
    assert [(s.customer.external_id, s.window_start.hour, s.value) for s in made] == [
        ("acme", 12, 1),
        ("acme", 11, 2),
        ("other", 12, 4),
    ]


def test_a_cell_is_cut_at_each_billing_boundary(store, acme, meters, now):
    hour = now.replace(minute=0, second=0)
    for minutes in (0, 15, 45):
        PeriodBoundary.objects.create(customer=acme, at=hour + timedelta(minutes=minutes))
    other = Customer.objects.create(external_id="other", stripe_customer_id="cus_other")
    PeriodBoundary.objects.create(customer=other, at=hour + timedelta(minutes=30))
    at_boundary = hour + timedelta(minutes=15)
    store(
        report("1", at=hour, input_tokens=1),
        report("2", at=at_boundary - timedelta(microseconds=1), input_tokens=2),
        report("4", at=at_boundary, input_tokens=4),
        report("8", at=hour + timedelta(minutes=44), input_tokens=8),
        report("16", at=hour + timedelta(minutes=59), input_tokens=16),
        at=hour + timedelta(hours=1),
    )

    flush.flush_batches(now=hour + timedelta(hours=1))

    made = Submission.objects.filter(meter=meters.input).order_by("segment_start")
    assert [((s.segment_start - hour).seconds // 60, s.value) for s in made] == [
        (0, 3),
        (15, 12),
        (45, 16),
    ]
    assert all(s.segment_start <= s.timestamp for s in made)
    assert {s.window_start for s in made} == {hour}


def test_a_meter_counts_only_within_its_definition(store, acme, meters, now):
    MeterVersion.objects.filter(meter=meters.input).update(
        effective_from=now - timedelta(minutes=10), effective_until=now - timedelta(minutes=5)
    )
    ages = {"before": 600.000001, "start": 600, "inside": 400, "end": 300, "after": 10}
    store(
        *(
            report(name, at=now - timedelta(seconds=age), input_tokens=1)
            for name, age in ages.items()
        )
    )

    flush.flush_batches(now=now)

    assert values() == {"input_tokens": 2, "llm_calls": 5}


def test_usage_that_waited_for_weeks_is_read_by_the_definition_of_its_time(store, acme, now):
    """Too old for Stripe by then, it still has to be seen."""
    store(report("a", at=now - timedelta(days=31), input_tokens=7))
    MeterVersion.objects.update(effective_until=now - timedelta(days=30))

    flush.flush_batches(now=now + timedelta(days=10))

    assert values() == {"input_tokens": 7, "llm_calls": 1}


def test_the_scale_makes_whole_numbers_of_decimals(store, acme, now):
    seconds = make_meter("seconds", "seconds", required=False)
    Meter.objects.filter(pk=seconds.pk).update(scale=3)
    store(
        report("a", at=now, input_tokens=0, seconds="0.125"),
        report("b", at=now, input_tokens=0, seconds=2),
    )

    flush.flush_batches(now=now)

    assert values(meter=seconds) == {"seconds": 2125}


def test_a_total_beyond_fifteen_digits_is_split(store, acme, meters, now):
    store(*(report(str(i), at=now, input_tokens=MAX_VALUE) for i in range(3)))

    flush.flush_batches(now=now)

    parts = Submission.objects.filter(meter=meters.input).order_by("part")
    assert [(s.part, s.value, s.event_count) for s in parts] == [
        (0, MAX_VALUE, 3),
        (1, MAX_VALUE, 0),
        (2, MAX_VALUE, 0),
    ]


def test_a_runaway_total_does_not_keep_the_others_from_being_flushed(acme, meters, now):
    """F24, F113: more parts than a small integer counts."""
    run = FlushRun.objects.create(batch_count=0, event_count=0, meter_versions=[])
    frozen = make_submission(customer=acme, meter=meters.input, at=now, run=run)

    Submission.objects.create(
        **{
            field.attname: getattr(frozen, field.attname)
            for field in Submission._meta.concrete_fields
        }
        | {"id": None, "identifier": "another", "part": 200_000}
    )

    assert run.submissions.count() == 2


def test_a_run_takes_whole_batches_up_to_its_limit(store, acme, now):
    for batch in range(3):
        store(report(f"{batch}-1", at=now), report(f"{batch}-2", at=now))

    runs = [flush.flush_batches(now=now, event_limit=4) for _ in range(3)]

    assert [run.event_count for run in runs] == [4, 2, 0]


def test_a_batch_larger_than_the_limit_is_still_taken(store, acme, now):
    store(*(report(str(i), at=now) for i in range(5)))

    assert flush.flush_batches(now=now, event_limit=1).event_count == 5


def test_usage_of_an_unknown_customer_is_held_and_others_go_on(store, acme, meters, now):
    store(report("a", at=now, subject="nobody", input_tokens=7), report("b", at=now))

    result = flush.flush_batches(now=now)

    assert (result.submission_count, result.held_count) == (2, 2)
    held = HeldUsage.objects.get(meter=meters.input)
    assert (held.subject, held.reason, held.event_count, held.released_at) == (
        "nobody",
        HeldReason.UNKNOWN_CUSTOMER,
        1,
        None,
    )


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("customer", HeldReason.CUSTOMER_NOT_AT_STRIPE),
        ("meter", HeldReason.METER_NOT_AT_STRIPE),
    ],
)
def test_usage_is_held_until_stripe_knows_both(store, acme, meters, now, missing, reason):
    if missing == "customer":
        Customer.objects.update(stripe_customer_id=None)
    else:
        Meter.objects.filter(slug="input_tokens").update(stripe_meter_id=None)
    store(report("a", at=now, input_tokens=7))

    flush.flush_batches(now=now)

    assert HeldUsage.objects.get(meter=meters.input).reason == reason
    assert holding.release(now=now) == 0


def test_held_usage_is_released_by_folding_it_again(store, meters, now):
    store(report("a", at=now, subject="late", input_tokens=7), report("b", at=now, subject="never"))
    store(report("c", at=now, subject="late", input_tokens=5))
    flush.flush_batches(now=now, event_limit=1)
    flush.flush_batches(now=now, event_limit=1)
    late = Customer.objects.create(external_id="late", stripe_customer_id="cus_late")
    PeriodBoundary.objects.create(customer=late, at=now.replace(minute=10))

    released = [holding.release(now=now + timedelta(hours=2)) for _ in range(3)]

    assert released == [2, 2, 0]
    made = Submission.objects.filter(meter=meters.input).order_by("pk")
    assert [(s.customer, s.value, s.segment_start.minute) for s in made] == [
        (late, 7, 10),
        (late, 5, 10),
    ]
    assert [s.run_id for s in made] == list(
        FlushRun.objects.order_by("pk").values_list("pk", flat=True)
    )
    assert set(HeldUsage.objects.filter(released_at=None).values_list("subject", flat=True)) == {
        "never"
    }


def test_a_wake_up_releases_the_held_usage_of_every_run(store, meters, now):
    """F13: a customer made hours late has usage in hundreds of runs."""
    for number in range(3):
        store(report(str(number), at=now, subject="late", input_tokens=1))
        flush.flush_batches(now=now)
    Customer.objects.create(external_id="late", stripe_customer_id="cus_late")

    tasks.flush_due()

    assert not HeldUsage.objects.filter(released_at=None).exists()
    assert values() == {"input_tokens": 3, "llm_calls": 3}


def test_a_release_reads_events_as_their_run_did(store, meters, now):
    store(report("a", at=now, subject="late", input_tokens=7, other=100))
    flush.flush_batches(now=now)
    was = MeterVersion.objects.get(meter=meters.input)
    MeterVersion.objects.update(effective_until=now + timedelta(days=1))
    MeterVersion.objects.create(
        meter=meters.input,
        event_type=was.event_type,
        value_property="other",
        measures=was.measures,
        effective_from=was.effective_from,
    )
    Customer.objects.create(external_id="late", stripe_customer_id="cus_late")

    holding.release(now=now)

    assert values() == {"input_tokens": 7, "llm_calls": 1}


def test_a_cell_of_a_run_is_held_once(store, meters, now):
    store(report("a", at=now, subject="late"))
    flush.flush_batches(now=now)
    [row] = HeldUsage.objects.filter(meter=meters.input)
    again = HeldUsage(
        run=row.run,
        subject=row.subject,
        meter=row.meter,
        window_start=row.window_start,
        segment_start=row.segment_start,
        event_count=1,
        quantity=1,
        reason=row.reason,
    )

    with pytest.raises(IntegrityError, match="usage_held_once"):
        again.save()


def test_a_release_leaves_alone_what_its_run_has_sent(store, acme, meters, now):
    Meter.objects.filter(pk=meters.input.pk).update(stripe_meter_id=None)
    store(report("a", at=now, input_tokens=7))
    flush.flush_batches(now=now)
    Meter.objects.filter(pk=meters.input.pk).update(stripe_meter_id="mtr_late")

    assert holding.release(now=now) == 1

    assert values() == {"input_tokens": 7, "llm_calls": 1}


def test_a_released_row_cannot_be_released_into_the_same_cell_twice(store, meters, now):
    store(report("a", at=now, subject="late", input_tokens=7))
    flush.flush_batches(now=now)
    Customer.objects.create(external_id="late", stripe_customer_id="cus_late")
    holding.release(now=now)
    HeldUsage.objects.update(released_at=None)

    with pytest.raises(Exception, match="usage_submission_once_per_run_and_cell"):
        holding.release(now=now)


def test_a_sum_of_nothing_is_neither_sent_nor_held(store, acme, meters, now):
    store(report("a", at=now, input_tokens=0), report("b", at=now, subject="x", input_tokens=0))

    flush.flush_batches(now=now)

    assert values() == {"llm_calls": 1}
    assert SubmissionState.objects.count() == 1
    assert [held.meter.slug for held in HeldUsage.objects.all()] == ["llm_calls"]
    assert IngestBatch.objects.get().run is not None


def test_held_usage_has_one_case_a_reason_until_none_is_left(store, meters, now):
    store(report("a", at=now, subject="late"), report("b", at=now, subject="later"))
    flush.flush_batches(now=now)
    for _ in range(2):
        holding.report()

    case = Case.objects.get()
    assert (case.kind, case.reference, case.closed_at) == ("held", "unknown_customer", None)
    assert "usage of 2 customers" in case.reason
    assert "'late'" in case.reason
    assert case.deadline_at == now + timedelta(hours=72)

    for name in ("late", "later"):
        Customer.objects.create(external_id=name, stripe_customer_id=f"cus_{name}")
    holding.release(now=now)
    holding.report()
    case.refresh_from_db()
    assert case.closed_at is not None


def test_a_run_the_database_finds_too_long_is_made_shorter(store, acme, now, monkeypatch, settings):
    """F23: here a batch takes 60 ms to fold and a statement may take 150."""
    settings.USAGE_FLUSH_EVENTS = 1_000
    for batch in range(7):
        store(report(str(batch), at=now, input_tokens=1))

    def slow_fold(*, batch_ids, **options):
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(%s)", [0.06 * len(batch_ids)])
        return fold(batch_ids=batch_ids, **options)

    monkeypatch.setattr(flush, "fold", slow_fold)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '150ms'")

    results = list(flush.flush_waiting(clock=lambda: now, seconds=10))

    assert [result.event_count for result in results] == [1] * 7
    assert values() == {"input_tokens": 7, "llm_calls": 7}


def test_a_batch_that_alone_takes_too_long_is_said_and_not_lost(store, acme, now, monkeypatch):
    store(report("a", at=now))

    def endless_fold(**_):
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = '20ms'")
            cursor.execute("SELECT pg_sleep(5)")

    monkeypatch.setattr(flush, "fold", endless_fold)

    with pytest.raises(OperationalError):
        list(flush.flush_waiting(clock=lambda: now, seconds=10))

    assert IngestBatch.objects.get().run is None
