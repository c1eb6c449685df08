"""Late usage brought in by a person: what the dry run says is what becomes of it (F31, F33)."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.db import DatabaseError, connection, transaction

from billing.enums import Aggregation
from billing.models import (
    Customer,
    Invoice,
    Meter,
    PeriodBoundary,
    Plan,
    Price,
    Subscription,
    SubscriptionItem,
)
from tests.usage.conftest import make_meter, report
from usage import backfilling, flush, lateness
from usage.backfilling import Fate, backfill
from usage.models import (
    Backfill,
    EventConflict,
    HeldUsage,
    IngestBatch,
    Submission,
    UsageEvent,
)
from usage.reports import CONFLICT, Refusal, Stored

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def bring(source, meters, now):
    def bring(*reports, dry_run=False, at=now, **changes):
        asked = {"author": "ada", "reason": "the exporter was down"} | changes
        return backfill(source_id=source.pk, reports=reports, now=at, dry_run=dry_run, **asked)

    return bring


def boundary(customer: Customer, at: datetime, **facts) -> PeriodBoundary:
    return PeriodBoundary.objects.create(customer=customer, at=at, recut_at=at, **facts)


def stored() -> tuple[int, ...]:
    return tuple(
        model.objects.count() for model in (UsageEvent, IngestBatch, EventConflict, Backfill)
    )


def said(found: backfilling.Report) -> list[tuple]:
    return [
        (part.subject, part.meter.slug, part.fate, part.units, part.event_count)
        for part in found.parts
    ]


def test_a_dry_run_tells_the_parts_and_stores_nothing(bring, acme, now):
    bring(report("known", at=now))
    before = stored()

    found = bring(
        report("known", at=now),
        report("known", at=now, input_tokens=11),
        report("a", at=now - DAY, input_tokens=7),
        report("b", at=now - DAY, input_tokens=5),
        report("c", at=now - 40 * DAY),
        dry_run=True,
    )

    assert found.outcomes == (
        Stored.DUPLICATE,
        CONFLICT,
        Stored.ACCEPTED,
        Stored.ACCEPTED,
        Refusal("time", "is more than 34 days in the past"),
    )
    assert said(found) == [
        ("acme", "input_tokens", Fate.BILLED, 12, 2),
        ("acme", "llm_calls", Fate.BILLED, 2, 2),
    ]
    assert found.backfill is None
    assert found.sentence == (
        "2 events would be stored, 1 stored before, 1 in conflict with what is stored under their"
        " id, 1 refused. Nothing was stored: this is a dry run."
    )
    assert stored() == before


def test_what_is_stored_is_told_the_same_and_recorded_once(bring, acme, source, now):
    reports = [
        report("a", at=now - DAY, input_tokens=7),
        report("b", at=now - 40 * DAY),
        report("c", at=now - DAY, type="unheard.of"),
    ]
    foretold = bring(*reports, dry_run=True)

    found = bring(*reports)

    assert (found.outcomes, found.parts) == (foretold.outcomes, foretold.parts)
    [row] = Backfill.objects.all()
    assert row == found.backfill
    [batch] = IngestBatch.objects.all()
    assert (row.source, row.author, row.reason, row.created_at, row.batches) == (
        source,
        "ada",
        "the exporter was down",
        now,
        [batch.pk],
    )
    assert (row.event_count, row.duplicate_count, row.conflict_count, row.refused_count) == (
        1,
        0,
        0,
        2,
    )
    again = bring(*reports)
    assert (again.parts, again.backfill, again.duplicate_count) == ((), None, 1)
    assert stored() == (1, 1, 0, 1)


@pytest.mark.parametrize("blank", [{"author": " "}, {"reason": "\n"}])
def test_a_backfill_without_author_or_reason_is_refused(bring, acme, now, blank):
    with pytest.raises(backfilling.Unexplained):
        bring(report(at=now), **blank)

    assert stored() == (0, 0, 0, 0)


def test_more_events_than_one_transaction_should_hold_are_refused(bring, acme, now, monkeypatch):
    monkeypatch.setattr(backfilling, "EVENTS_AT_MOST", 2)

    with pytest.raises(backfilling.TooMany, match="3 events are too many"):
        bring(*(report(f"e-{number}", at=now) for number in range(3)))

    assert stored() == (0, 0, 0, 0)


def test_a_record_is_never_changed(bring, acme, now):
    bring(report(at=now))

    for change in (lambda rows: rows.update(reason="other"), lambda rows: rows.delete()):
        with pytest.raises(DatabaseError), transaction.atomic():
            change(Backfill.objects.all())

    assert Backfill.objects.get().reason == "the exporter was down"


def test_customers_the_author_may_not_report_for_are_refused(bring, acme, now):
    found = bring(
        report("a", at=now), report("b", at=now, subject="globex"), customers=frozenset({"acme"})
    )

    assert found.outcomes == (
        Stored.ACCEPTED,
        Refusal("subject", "is a customer this API key is not for"),
    )
    assert list(UsageEvent.objects.values_list("event_id", flat=True)) == ["a"]


def test_a_large_backfill_is_stored_in_batches_of_one_transaction(bring, acme, now, monkeypatch):
    monkeypatch.setattr(backfilling, "EVENTS_PER_BATCH", 3)
    reports = [report(f"e-{number % 7}", at=now - DAY) for number in range(10)]

    found = bring(*reports)

    assert Counter(found.outcomes) == {Stored.ACCEPTED: 7, Stored.DUPLICATE: 3}
    assert list(IngestBatch.objects.order_by("pk").values_list("event_count", flat=True)) == [
        3,
        3,
        1,
    ]
    assert found.backfill.batches == sorted(IngestBatch.objects.values_list("pk", flat=True))
    assert said(found)[0] == ("acme", "input_tokens", Fate.BILLED, 70, 7)


@pytest.mark.parametrize(
    ("facts", "blocked", "expected"),
    [
        (None, "", Fate.BILLED),
        ({"at": 29}, "", Fate.BILLED),
        ({"at": 30}, "", Fate.WAITS_FOR_STRIPE),
        ({"at": 45, "open_until": 1}, "", Fate.BILLED),
        ({"at": 45, "open_until": 0}, "", Fate.WAITS_FOR_STRIPE),
        ({"at": 45, "closed_at": -1}, "", Fate.HELD_LATE),
        ({"at": 45, "closed_at": -1}, "its formula", Fate.HELD_LATE),
        (None, "its formula", Fate.WAITS_FOR_METER),
    ],
)
def test_each_part_is_told_what_its_period_and_meter_make_of_it(
    bring, acme, meters, now, facts, blocked, expected
):
    """The half hour, and either side of Stripe's word, as a claim judges them."""
    if facts is not None:
        told = {name: now + at * MINUTE for name, at in facts.items() if name != "at"}
        boundary(acme, now - facts["at"] * MINUTE, **told)
    Meter.objects.filter(pk=meters.input.pk).update(blocked=blocked)

    found = bring(report(at=now - HOUR), dry_run=True)

    assert said(found)[0] == ("acme", "input_tokens", expected, 10, 1)


def test_usage_of_an_hour_cut_by_a_boundary_is_told_by_side(bring, acme, now):
    cut = now - 5 * HOUR
    boundary(acme, cut, closed_at=now - HOUR)
    end = now + DAY
    boundary(acme, end)

    found = bring(
        report("before", at=cut - MINUTE, input_tokens=3),
        report("after", at=cut, input_tokens=4),
        dry_run=True,
    )

    parts = [part for part in found.parts if part.meter.slug == "input_tokens"]
    assert [(part.period.start, part.period.end, part.fate, part.units) for part in parts] == [
        (None, cut, Fate.HELD_LATE, 3),
        (cut, end, Fate.BILLED, 4),
    ]
    hour = cut.replace(minute=0, second=0)
    assert [part.hours for part in parts] == [
        (backfilling.Hour(hour, hour, Decimal(3), 1),),
        (backfilling.Hour(hour, cut, Decimal(4), 1),),
    ]


def test_the_invoice_of_the_period_is_named_or_why_there_is_none(bring, acme, meters, now):
    subscription = subscribe(acme, meters.input, now)
    for number, status in enumerate(("paid", "draft")):
        start = now - (20 - 10 * number) * DAY
        Invoice.objects.create(
            customer=acme,
            subscription=subscription,
            stripe_invoice_id=f"in_{status}",
            status=status,
            currency="usd",
            total=0,
            period_start=start,
            period_end=start + 10 * DAY,
            mirrored_at=now,
            created_at=start + 10 * DAY,
        )
    boundary(acme, now - 20 * DAY)
    boundary(acme, now - 10 * DAY, closed_at=now - 9 * DAY)
    boundary(acme, now, open_until=now + HOUR)
    boundary(acme, now + 10 * DAY)

    found = bring(
        report("paid", at=now - 12 * DAY),
        report("draft", at=now - 2 * DAY),
        report("running", at=now),
        report("before", at=now - 22 * DAY),
        dry_run=True,
    )

    told = {
        part.period.start: (part.billed_on.invoice, part.billed_on.status, part.billed_on.reason)
        for part in found.parts
        if part.meter == meters.input
    }
    assert told == {
        now - 20 * DAY: ("in_paid", "paid", ""),
        now - 10 * DAY: ("in_draft", "draft", ""),
        now: (
            None,
            "none yet",
            "Its period ends at 2026-11-30 12:30:15 UTC; Stripe makes the invoice then.",
        ),
        None: (
            None,
            "none yet",
            "Its period ended at 2026-10-31 12:30:15 UTC; Stripe has told of no invoice for it.",
        ),
    }
    [other, *_] = [part for part in found.parts if part.meter == meters.calls]
    assert other.billed_on.reason == "No subscription of the customer prices this meter."


def test_a_running_value_is_told_by_period_without_units(bring, acme, now):
    meter = make_meter("seats", "seats", required=False)
    Meter.objects.filter(pk=meter.pk).update(aggregation=Aggregation.MAX)
    boundary(acme, now - DAY, closed_at=now - HOUR)

    found = bring(
        report("a", at=now - 2 * DAY, input_tokens=0, seats=3),
        report("b", at=now - HOUR, input_tokens=0, seats=4),
        report("c", at=now - HOUR, subject="nobody", input_tokens=0, seats=4),
        dry_run=True,
    )

    assert [row for row in said(found) if row[1] == "seats"] == [
        ("acme", "seats", Fate.HELD_LATE, None, 1),
        ("acme", "seats", Fate.BILLED, None, 1),
        ("nobody", "seats", Fate.HELD_UNKNOWN_CUSTOMER, None, 1),
    ]


@pytest.mark.parametrize("seed", range(12))
def test_what_the_dry_run_says_is_what_the_flush_makes_of_it(bring, acme, meters, now, seed):
    """Random late events of customers of every kind, over ended, open and final periods."""
    draw = random.Random(seed)  # noqa: S311 - events, not secrets
    subjects = make_customers(draw, acme, now)
    Meter.objects.filter(pk=meters.cached.pk).update(blocked="its formula")
    if draw.random() < 0.3:
        Meter.objects.filter(pk=meters.calls.pk).update(stripe_meter_id=None)
    reports = [
        report(
            f"e-{draw.randrange(280)}",
            at=now - draw.choice([MINUTE, HOUR, DAY]) * draw.randrange(36),
            subject=draw.choice(subjects),
            **{"input_tokens": draw.choice([0, 1, draw.randrange(10**9)])}
            | ({"cached_tokens": draw.randrange(50)} if draw.random() < 0.5 else {}),
        )
        for _ in range(300)
    ]
    bring(*draw.sample(reports, 20))
    flush.flush_batches(now=now)
    last_run = IngestBatch.objects.get().run_id
    foretold = bring(*reports, dry_run=True)
    assert IngestBatch.objects.filter(run=None).count() == 0

    found = bring(*reports)
    flush.flush_batches(now=now)

    assert (found.outcomes, found.parts) == (foretold.outcomes, foretold.parts)
    assert {type(outcome) for outcome in found.outcomes} == {Stored, Refusal}
    assert foretold_cells(foretold) == made_cells(last_run)
    # What delivery may send at that moment, and what lateness would still take out of its hands.
    assert lateness.hold_late(now=now) == lateness.Late()
    assert foretold_sendable(foretold) == sendable_cells(last_run, now)


def subscribe(customer: Customer, meter: Meter, now: datetime) -> Subscription:
    plan = Plan.objects.create(slug="a-plan", name="A plan")
    price = Price.objects.create(
        plan=plan,
        lookup_key="a-price",
        name="tokens",
        kind="metered",
        meter=meter,
        currency="usd",
        interval="month",
        rule={},
        stripe_price_id="price_1",
        stripe_product_id="prod_1",
    )
    subscription = Subscription.objects.create(customer=customer, plan=plan, status="active")
    SubscriptionItem.objects.create(
        subscription=subscription,
        price=price,
        stripe_item_id="si_1",
        current_period_start=now,
        current_period_end=now + 10 * DAY,
    )
    return subscription


def make_customers(draw: random.Random, acme: Customer, now: datetime) -> list[str]:
    """Customers without boundaries, with some of every kind, not at Stripe, and one unknown."""
    subjects = [acme.external_id, "nobody"]
    for number in range(6):
        customer = Customer.objects.create(
            external_id=f"c-{number}", stripe_customer_id=f"cus_{number}" if number else None
        )
        subjects.append(customer.external_id)
        ends = {
            now - draw.choice([MINUTE, HOUR, DAY]) * draw.randrange(-3, 36) for _ in range(4)
        } | {now.replace(minute=0, second=0) - draw.randrange(30) * HOUR}
        for at in sorted(ends):
            facts = draw.choice(
                [{}, {"closed_at": now}, {"open_until": now + HOUR}, {"open_until": now}]
            )
            boundary(customer, at, **(facts if at < now else {}))
    return subjects


HELD = {
    Fate.HELD_LATE: "late",
    Fate.HELD_UNKNOWN_CUSTOMER: "unknown_customer",
    Fate.HELD_CUSTOMER_NOT_AT_STRIPE: "customer_not_at_stripe",
    Fate.HELD_METER_NOT_AT_STRIPE: "meter_not_at_stripe",
}


def foretold_cells(found: backfilling.Report) -> list[tuple]:
    return sorted(
        (
            part.subject,
            part.meter.slug,
            hour.start,
            hour.segment_start,
            hour.units,
            hour.event_count,
            HELD.get(part.fate, ""),
        )
        for part in found.parts
        for hour in part.hours
    )


def made_cells(last_run: int) -> list[tuple]:
    submissions = Submission.objects.filter(run_id__gt=last_run).values_list(
        "customer__external_id",
        "meter__slug",
        "window_start",
        "segment_start",
        "value",
        "event_count",
    )
    held = HeldUsage.objects.filter(run_id__gt=last_run).values_list(
        "subject",
        "meter__slug",
        "window_start",
        "segment_start",
        "quantity",
        "event_count",
        "reason",
    )
    return sorted([*((*row, "") for row in submissions), *held])


def foretold_sendable(found: backfilling.Report) -> set[tuple]:
    return {
        (part.subject, part.meter.slug, hour.segment_start)
        for part in found.parts
        for hour in part.hours
        if part.fate == Fate.BILLED
    }


def sendable_cells(last_run: int, now: datetime) -> set[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id FROM usage_submission submission WHERE {lateness.MAY_BE_SENT}",  # noqa: S608 - ours
            {"now": now},
        )
        ids = [submission_id for (submission_id,) in cursor.fetchall()]
    rows = Submission.objects.filter(run_id__gt=last_run, pk__in=ids, meter__blocked="")
    return set(rows.values_list("customer__external_id", "meter__slug", "segment_start"))
