"""Running values: Stripe's last value of a period is what its events come to, whatever happens.

The emulator's own books decide; the expected values are counted in plain Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.db import connection, transaction
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from billing.enums import Aggregation
from billing.gateway.client import connection as stripe
from billing.models import Case, Customer, Meter, PeriodBoundary
from stripe_emulator import Emulator
from tests.support.stripe import switchboard
from tests.usage.conftest import EVENTS_PATH, make_meter, report
from usage import delivery, flush, holding, running_upkeep
from usage.enums import ReplacementKind
from usage.ingestion import accept
from usage.invariants import violations
from usage.invariants.running import RUNNING_INVARIANTS
from usage.lifecycle import State
from usage.models import (
    HeldUsage,
    IngestBatch,
    Replacement,
    RunningValue,
    Submission,
    SubmissionState,
    UsageEvent,
)
from usage.reports import Outcome, ReportedEvent
from usage.running_freezing import next_timestamp
from usage.settlement import cells, settle
from usage.statements import statement

pytestmark = pytest.mark.integration

PERIOD = datetime(2026, 11, 1, tzinfo=UTC)
"""The start of the billing period that `now` lies in."""
NEXT = datetime(2026, 12, 1, tzinfo=UTC)


def learn(customer: Customer, at: datetime) -> None:
    """Let a boundary be known. Its invoice stays a draft: what is late is `test_lateness`'s."""
    PeriodBoundary.objects.get_or_create(
        customer=customer, at=at, defaults={"open_until": at + timedelta(days=99), "recut_at": at}
    )


@dataclass
class Books:
    """One clock, a Stripe, and three meters fed by the same events."""

    emulator: Emulator
    now: datetime
    source_id: int
    meters: dict[Aggregation, Meter] = field(default_factory=dict)

    def store(self, *reports: ReportedEvent) -> list[Outcome]:
        return accept(source_id=self.source_id, reports=reports, now=self.now)

    def flush(self) -> flush.FlushResult:
        result = flush.flush_batches(now=self.now)
        running_upkeep.tend(clock=lambda: self.now, seconds=60)
        return result

    def deliver(self, **span: float) -> dict[str, int]:
        self.now += timedelta(**span)
        return dict(delivery.deliver_due(clock=lambda: self.now).counts)

    def void(self, event_id: str) -> None:
        """Take an event back, as staff do: a linked event in a batch of its own."""
        original = UsageEvent.objects.get(event_id=event_id)
        batch = IngestBatch.objects.create(
            source_id=self.source_id, received_at=self.now, event_count=1, checksum=0
        )
        UsageEvent.objects.create(
            source_id=self.source_id,
            event_id=f"void-{event_id}",
            digest=b"",
            type=original.type,
            subject=original.subject,
            occurred_at=original.occurred_at,
            received_at=self.now,
            data=original.data,
            batch=batch,
            voids=original.pk,
        )

    def violations(self) -> dict[str, list[tuple[Any, ...]]]:
        found = {}
        with connection.cursor() as cursor:
            for invariant in RUNNING_INVARIANTS:
                cursor.execute(invariant.query, {})
                if rows := cursor.fetchall():
                    found[invariant.id] = rows
        return found

    def values(self, *, start: datetime = PERIOD, end: datetime = NEXT) -> dict[str, Decimal]:
        """What Stripe would bill for [`start`, `end`), by its summaries."""
        found = {}
        for aggregation, meter in self.meters.items():
            customer = Customer.objects.get(external_id="acme")
            summaries = stripe().v1.billing.meters.event_summaries.list(
                str(meter.stripe_meter_id),
                {
                    "customer": str(customer.stripe_customer_id),
                    "start_time": int(start.timestamp()),
                    "end_time": int(end.timestamp()),
                },
            )
            [summary] = summaries.data or [None]
            found[aggregation.value] = Decimal(
                str(summary.aggregated_value) if summary is not None else 0
            )
        return found

    def sent(self, aggregation: Aggregation) -> list[tuple[int, datetime, str]]:
        """The meter's submissions in order: value, timestamp and where each stands."""
        return [
            (int(row.submission.value), row.submission.timestamp, row.state)
            for row in SubmissionState.objects.filter(meter=self.meters[aggregation])
            .select_related("submission")
            .order_by("submission_id")
        ]


def at_stripe(meter: Meter) -> None:
    created = stripe().v1.billing.meters.create(
        {
            "display_name": meter.slug,
            "event_name": meter.event_name,
            "default_aggregation": {"formula": "last"},
        }
    )
    meter.stripe_meter_id = created.id
    meter.save()


def running_meter(aggregation: Aggregation) -> Meter:
    meter = make_meter(
        aggregation.value, "user" if aggregation is Aggregation.UNIQUE else "seats", required=False
    )
    meter.aggregation = aggregation
    meter.save()
    return meter


@contextmanager
def opened(source_id: int, now: datetime) -> Iterator[Books]:
    # The lambda looks the instant up anew each time: a test moves it.
    books = Books(Emulator(now=lambda: books.now.timestamp()), now, source_id)  # noqa: PLW0108
    switchboard.connect(books.emulator)
    for aggregation in (Aggregation.MAX, Aggregation.UNIQUE, Aggregation.LATEST):
        books.meters[aggregation] = running_meter(aggregation)
        at_stripe(books.meters[aggregation])
    customer = Customer.objects.create(
        external_id="acme", stripe_customer_id=stripe().v1.customers.create({"name": "Acme"}).id
    )
    for at in (PERIOD, NEXT):
        learn(customer, at)
    yield books
    switchboard.disconnect()


@pytest.fixture
def books(source, now) -> Iterator[Books]:
    """Meters at Stripe, a customer with a billing period around `now`."""
    with opened(source.pk, now) as books:
        yield books


@pytest.fixture
def meters_of(source, now) -> Callable[[], AbstractContextManager[Books]]:
    """Books that leave nothing behind, for each example anew."""

    @contextmanager
    def fresh() -> Iterator[Books]:
        with transaction.atomic(), opened(source.pk, now) as books:
            yield books
            transaction.set_rollback(True)

    return fresh


def used(event_id: str, at: datetime, seats: int, user: Any = "u", **fields: Any) -> ReportedEvent:
    return report(event_id, at=at, seats=seats, user=user, **fields)


def test_a_period_is_the_largest_the_latest_and_the_number_of_different_ones(books, now):
    books.store(used("a", now - timedelta(hours=2), 5, "u"), used("b", now, 3, "v"))
    books.store(used("c", now - timedelta(hours=3), 4, "u"))

    result = books.flush()

    assert (result.submission_count, result.held_count) == (3, 0)
    assert books.deliver() == {"accepted": 3}
    assert books.values() == {"max": 5, "unique": 2, "latest": 3}
    for aggregation in books.meters:
        [(_, timestamp, _)] = books.sent(aggregation)
        assert timestamp == now
    assert {s.event_count for s in Submission.objects.all()} == {3}


def test_what_does_not_change_a_value_sends_nothing(books, now):
    books.store(used("a", now, 5))
    books.flush()

    books.store(used("b", now, 5), used("c", now - timedelta(hours=1), 4))
    result = books.flush()

    assert (result.event_count, result.submission_count) == (2, 0)
    assert len(books.sent(Aggregation.MAX)) == 1


def test_a_late_event_raises_the_value_under_a_later_second(books, now):
    books.store(used("a", now, 5))
    books.flush()
    books.deliver()

    books.store(used("late", now - timedelta(days=2), 9))
    books.flush()
    books.deliver(seconds=60)

    assert books.sent(Aggregation.MAX) == [
        (5, now, State.ACCEPTED),
        (9, now + timedelta(seconds=1), State.ACCEPTED),
    ]
    assert books.values() == {"max": 9, "unique": 1, "latest": 5}


def test_a_newer_value_supersedes_one_that_was_never_sent(books, now):
    books.store(used("a", now, 5))
    books.flush()
    books.store(used("b", now, 6))
    books.flush()

    assert books.sent(Aggregation.MAX) == [
        (5, now, State.SUPERSEDED),
        (6, now + timedelta(seconds=1), State.READY),
    ]
    [decision] = Replacement.objects.filter(meter=books.meters[Aggregation.MAX])
    assert (decision.kind, decision.superseded, decision.credit, decision.window_start) == (
        ReplacementKind.RUNNING,
        5,
        0,
        now.replace(minute=0, second=0),
    )
    old, new = Submission.objects.filter(meter=books.meters[Aggregation.MAX]).order_by("pk")
    assert (old.standing.replaced_by, new.replaces) == (decision, decision)
    assert books.deliver(seconds=1)["accepted"] == 3
    assert len([a for a in books.emulator.arrivals if a.path == EVENTS_PATH]) == 3


def test_a_refused_for_now_value_is_superseded_and_one_in_doubt_is_not(books, now):
    books.emulator.faults.switch_on("429", path=EVENTS_PATH, count=1)
    books.emulator.faults.switch_on("answer_lost", path=EVENTS_PATH, count=1, skip=1)
    books.store(used("a", now, 5))
    books.flush()
    assert books.deliver() == {"not_accepted": 1, "unknown": 1, "accepted": 1}

    books.store(used("b", now, 6, "v"))
    books.flush()

    states = {meter: [state for _, _, state in books.sent(meter)] for meter in books.meters}
    assert sorted(states.values()) == [
        [State.ACCEPTED, State.READY],
        [State.IN_DOUBT, State.READY],
        [State.SUPERSEDED, State.READY],
    ]
    books.deliver(seconds=30)
    books.deliver(seconds=30)
    assert books.values() == {"max": 6, "unique": 2, "latest": 6}


def test_a_voided_event_is_taken_out_again(books, now):
    books.store(used("a", now - timedelta(hours=1), 5, "u"), used("b", now, 9, "v"))
    books.flush()
    books.deliver()

    books.void("b")
    books.flush()
    books.deliver(seconds=60)

    assert books.values() == {"max": 5, "unique": 1, "latest": 5}
    assert [value for value, _, _ in books.sent(Aggregation.MAX)] == [9, 5]


def test_a_period_whose_only_event_is_voided_is_zero(books, now):
    books.store(used("a", now, 5))
    books.flush()
    books.deliver()

    books.void("a")
    books.flush()
    books.deliver(seconds=60)

    assert books.values() == {"max": 0, "unique": 0, "latest": 0}


def test_an_event_voided_before_it_was_flushed_never_counts(books, now):
    books.store(used("a", now, 5), used("b", now, 9, "v"))
    books.void("b")

    books.flush()
    books.deliver()

    assert books.values() == {"max": 5, "unique": 1, "latest": 5}


def test_a_voided_name_that_another_event_has_still_counts(books, now):
    books.store(used("a", now, 5), used("b", now, 5))
    books.flush()

    books.void("a")
    books.flush()

    assert [value for value, _, _ in books.sent(Aggregation.UNIQUE)] == [1]


def test_each_period_has_its_own_values(books, now):
    before, after = PERIOD - timedelta(seconds=1), PERIOD

    books.store(used("a", before, 9, "u"), used("b", after, 2, "v"), used("c", now, 1, "v"))
    books.flush()
    books.deliver()

    assert books.values() == {"max": 2, "unique": 1, "latest": 1}
    assert books.values(start=PERIOD - timedelta(days=31), end=PERIOD) == {
        "max": 9,
        "unique": 1,
        "latest": 9,
    }
    assert set(
        RunningValue.objects.filter(meter=books.meters[Aggregation.MAX]).values_list(
            "period_start", "value"
        )
    ) == {(datetime(1970, 1, 1, tzinfo=UTC), 9), (PERIOD, 2)}


def test_a_boundary_learned_late_cuts_the_period(books, now):
    """F27: what was counted on one side moves to the other, and Stripe is told both."""
    cut = now - timedelta(minutes=10)
    books.store(used("a", cut - timedelta(seconds=30), 9, "u"), used("b", now, 2, "v"))
    books.flush()
    books.deliver()

    learn(Customer.objects.get(external_id="acme"), cut)
    books.flush()
    books.deliver(seconds=60)

    assert books.values(end=cut.replace(second=0)) == {"max": 9, "unique": 1, "latest": 9}
    assert books.values(start=cut.replace(second=0)) == {"max": 2, "unique": 1, "latest": 2}


def test_usage_beyond_a_boundary_learned_late_is_in_both_flushes_counted(books, now):
    cut = now - timedelta(minutes=10)
    books.store(used("a", now - timedelta(minutes=5), 9, "u"))
    books.flush()
    learn(Customer.objects.get(external_id="acme"), cut)

    books.store(used("b", now, 2, "v"))
    books.flush()

    values = RunningValue.objects.filter(period_start=cut).values_list("meter__slug", "value")
    assert dict(values) == {"max": 9, "unique": 2, "latest": 2}
    assert set(
        RunningValue.objects.filter(period_start=PERIOD).values_list("value", flat=True)
    ) == {0}


@pytest.mark.parametrize("missing", ["customer", "customer id", "meter id"])
def test_usage_that_cannot_be_sent_is_held_and_released_with_all_that_came(books, now, missing):
    """F13."""
    acme = Customer.objects.get(external_id="acme")
    customer_id, meter = acme.stripe_customer_id, books.meters[Aggregation.MAX]
    meter_id = meter.stripe_meter_id
    if missing == "customer":
        Customer.objects.filter(pk=acme.pk).update(external_id="elsewhere")
    elif missing == "customer id":
        Customer.objects.filter(pk=acme.pk).update(stripe_customer_id=None)
    else:
        Meter.objects.update(stripe_meter_id=None)
    ids = {meter.pk: meter.stripe_meter_id for meter in books.meters.values()}
    books.store(used("a", now - timedelta(days=30), 9, "u"), used("b", now, 3, "v"))
    result = books.flush()
    assert result.submission_count == 0
    assert result.held_count == 6
    assert set(HeldUsage.objects.filter(meter=meter).values_list("quantity", flat=True)) == (
        {0} if missing == "customer" else {9, 3}
    )
    books.store(used("c", now, 2, "w"))
    books.flush()

    Customer.objects.filter(pk=acme.pk).update(external_id="acme", stripe_customer_id=customer_id)
    for pk, stripe_meter_id in ids.items():
        Meter.objects.filter(pk=pk).update(stripe_meter_id=stripe_meter_id)
    assert meter_id is not None
    assert holding.release(now=books.now) == 0
    books.flush()
    books.deliver()

    assert not HeldUsage.objects.filter(released_at=None).exists()
    assert books.values() == {"max": 3, "unique": 2, "latest": 2}
    assert books.values(start=PERIOD - timedelta(days=31), end=PERIOD)["max"] == 9


def test_late_events_of_a_period_that_ends_find_a_second(books, now):
    last = NEXT - timedelta(milliseconds=1)
    books.now = NEXT + timedelta(hours=2)

    for number in range(5):
        books.store(used(f"e{number}", last, number + 1, f"u{number}"))
        books.flush()
        books.deliver(seconds=60)

    assert books.values() == {"max": 5, "unique": 5, "latest": 5}
    assert {s.timestamp < NEXT for s in Submission.objects.all()} == {True}


def test_a_period_without_a_second_left_is_held_with_a_case(books, now):
    cut = PERIOD + timedelta(seconds=2)
    learn(Customer.objects.get(external_id="acme"), cut)
    for number in range(3):
        books.store(used(f"e{number}", PERIOD, number + 1, "u"))
        books.flush()
        books.deliver(seconds=60)

    [held] = HeldUsage.objects.filter(meter=books.meters[Aggregation.MAX])
    assert (held.reason, held.quantity, held.released_at) == ("period_full", 3, None)
    assert RunningValue.objects.get(meter=held.meter).value == 3
    holding.report()
    assert Case.objects.get(reference="period_full").closed_at is None
    books.flush()
    assert HeldUsage.objects.filter(released_at=None).count() == 2

    books.void("e2")
    books.flush()
    assert [value for value, _, _ in books.sent(Aggregation.MAX)] == [1, 2]
    assert not HeldUsage.objects.filter(released_at=None).exists()


def test_a_value_too_far_ahead_waits_for_the_clock(books, now):
    ahead = now + timedelta(seconds=settings.USAGE_AHEAD_SECONDS)
    for number in range(125):
        books.store(used(f"e{number}", ahead, number + 1, "u"))
        books.flush()
    [*_, (_, timestamp, _)] = books.sent(Aggregation.MAX)
    assert timestamp == now + timedelta(minutes=4)
    assert HeldUsage.objects.filter(released_at=None, reason="ahead").exists()

    books.now += timedelta(minutes=5)
    books.flush()
    books.deliver()

    assert books.values() == {"max": 125, "unique": 1, "latest": 125}
    assert not HeldUsage.objects.filter(released_at=None).exists()


def in_doubt(books: Books) -> None:
    books.emulator.faults.switch_on("answer_lost", path=EVENTS_PATH, count=3)
    books.store(used("a", books.now, 5))
    books.flush()
    books.deliver()
    assert {state for meter in books.meters for *_, state in books.sent(meter)} == {"in_doubt"}


@pytest.mark.parametrize("by_the_sweep", [False, True], ids=["doubtful", "unproven"])
def test_a_doubt_past_23_hours_is_sent_again_as_a_new_value(books, now, by_the_sweep):
    """F45: whether the old one arrived makes no difference to a `last` meter."""
    in_doubt(books)
    books.now += timedelta(hours=settings.USAGE_DOUBT_HOURS, seconds=1)
    if by_the_sweep:
        delivery.sweep(now=books.now)
        assert Case.objects.filter(kind="unproven", closed_at=None).count() == 3

    assert running_upkeep.resend(now=books.now) == 3
    assert running_upkeep.resend(now=books.now) == 0

    assert books.sent(Aggregation.MAX) == [
        (5, now, State.SUPERSEDED),
        (5, books.now, State.READY),
    ]
    assert not Case.objects.filter(closed_at=None).exists()
    assert books.deliver() == {"accepted": 3}
    assert books.values() == {"max": 5, "unique": 1, "latest": 5}


def test_an_old_doubt_with_a_newer_value_is_closed_and_nothing_sent(books, now):
    in_doubt(books)
    books.store(used("b", now, 6, "v"))
    books.flush()
    SubmissionState.objects.filter(state=State.IN_DOUBT).update(next_action_at=None)
    assert books.deliver(seconds=1) == {"accepted": 3}
    books.now += timedelta(hours=settings.USAGE_DOUBT_HOURS, seconds=1)

    assert running_upkeep.resend(now=books.now) == 3

    assert [state for *_, state in books.sent(Aggregation.MAX)] == ["superseded", "accepted"]


def test_a_young_doubt_is_left_to_delivery(books, now):
    in_doubt(books)

    assert running_upkeep.resend(now=books.now + timedelta(hours=22)) == 0

    assert books.deliver(seconds=10) == {"duplicate": 3}


def test_another_customer_and_a_sum_meter_are_left_alone(books, now):
    make_meter("input_tokens", "input_tokens", required=False)
    Customer.objects.create(external_id="other", stripe_customer_id="cus_other")
    books.store(
        used("a", now, 5, input_tokens=7), used("b", now, 8, subject="other", input_tokens=1)
    )

    books.flush()

    assert set(
        Submission.objects.filter(meter__slug__in=["max", "input_tokens"]).values_list(
            "customer__external_id", "meter__slug", "value"
        )
    ) == {
        ("acme", "max", 5),
        ("other", "max", 8),
        ("acme", "input_tokens", 7),
        ("other", "input_tokens", 1),
    }


SECOND = timedelta(seconds=1)


@pytest.mark.unit
@given(
    base=st.datetimes(PERIOD.replace(tzinfo=None), NEXT.replace(tzinfo=None)).map(
        lambda at: at.replace(tzinfo=UTC)
    ),
    previous=st.none()
    | st.datetimes(PERIOD.replace(tzinfo=None), NEXT.replace(tzinfo=None) - SECOND).map(
        lambda at: at.replace(tzinfo=UTC, microsecond=0)
    ),
    length=st.none() | st.integers(1, 40 * 24 * 3600),
)
def test_a_timestamp_is_a_later_second_inside_the_period(base, previous, length):
    end = None if length is None else PERIOD + length * SECOND
    at = next_timestamp(base=base, previous=previous, period_start=PERIOD, period_end=end)

    if at is None:
        assert end is not None
        assert previous is not None
        assert previous + SECOND >= end
    else:
        assert at.microsecond == 0
        assert at >= PERIOD
        assert end is None or at < end
        assert previous is None or at > previous
        if previous is None and (end is None or base < end - timedelta(hours=1)):
            assert at == base.replace(microsecond=0)


FAULTS = ("answer_lost", "500_after", "drop_before", "429", "503", "409")
EVENTS = st.tuples(st.integers(-20, 20), st.integers(0, 9), st.sampled_from(["u", "v", "7", 7]))
STEPS = st.one_of(
    st.tuples(st.just("store"), st.lists(EVENTS, min_size=1, max_size=4)),
    st.tuples(st.just("repeat"), st.integers(0, 50)),
    st.tuples(st.just("void"), st.integers(0, 50)),
    st.tuples(st.just("flush"), st.none()),
    st.tuples(st.just("deliver"), st.sampled_from([1, 30, 3_600])),
    st.tuples(st.just("fault"), st.sampled_from(FAULTS)),
    st.tuples(st.just("outage"), st.just(24)),
    st.tuples(st.just("boundary"), st.integers(-20, 20)),
)


@dataclass
class Ledger:
    """What was reported and taken back, and the boundaries: enough to count it all again."""

    events: list[tuple[datetime, int, Any]] = field(default_factory=list)
    voided: set[int] = field(default_factory=set)
    boundaries: set[datetime] = field(default_factory=lambda: {PERIOD, NEXT})

    def values(self, start: datetime, end: datetime) -> dict[str, int]:
        inside = [
            (at, number, seats, user)
            for number, (at, seats, user) in enumerate(self.events)
            if number not in self.voided and start <= at < end
        ]
        return {
            "max": max((seats for _, _, seats, _ in inside), default=0),
            "unique": len({str(user) for *_, user in inside}),
            "latest": max(inside)[2] if inside else 0,
        }

    def periods(self) -> list[tuple[datetime, datetime]]:
        starts = [PERIOD - timedelta(days=31), *sorted(self.boundaries)]
        return list(zip(starts, [*starts[1:], NEXT + timedelta(days=31)], strict=True))


def step(books: Books, ledger: Ledger, kind: str, value: Any) -> None:
    if kind == "store":
        first = len(ledger.events)
        ledger.events += [
            (min(books.now, PERIOD + timedelta(hours=h)), seats, user) for h, seats, user in value
        ]
        books.store(
            *(
                used(f"e{number:04}", *ledger.events[number])
                for number in range(first, len(ledger.events))
            )
        )
    elif kind == "repeat" and value < len(ledger.events):
        books.store(used(f"e{value:04}", *ledger.events[value]))
    elif kind == "void" and value < len(ledger.events) and value not in ledger.voided:
        ledger.voided.add(value)
        books.void(f"e{value:04}")
    elif kind == "flush":
        books.flush()
    elif kind == "deliver":
        books.deliver(seconds=value)
    elif kind == "fault":
        books.emulator.faults.switch_on(value, path=EVENTS_PATH, count=1)
    elif kind == "outage":
        books.emulator.faults.switch_on("500_after", path=EVENTS_PATH, count=3)
        books.deliver(seconds=1)
        books.now += timedelta(hours=value)
        running_upkeep.resend(now=books.now)
    elif kind == "boundary":
        at = PERIOD + timedelta(hours=value, minutes=30)
        customer = Customer.objects.get(external_id="acme")
        learn(customer, at)
        ledger.boundaries.add(at)


@given(steps=st.lists(STEPS, min_size=5, max_size=20))
@hypothesis_settings(
    max_examples=25,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_stripe_has_what_the_events_come_to_after_whatever_happens(source, meters_of, steps):
    """Any order, lateness, repetition, void, lost answer, doubt and late boundary."""
    with meters_of() as books:
        ledger = Ledger()
        for kind, value in steps:
            step(books, ledger, kind, value)
            assert books.violations() == {}

        for _ in range(5):
            books.flush()
            books.deliver(minutes=20)
            running_upkeep.resend(now=books.now)

        assert books.violations() == {}
        assert not HeldUsage.objects.filter(released_at=None).exists()
        for start, end in ledger.periods():
            assert books.values(start=start, end=end) == ledger.values(start, end)


def test_stripes_last_value_of_an_hour_settles_all_of_it(books, now):
    """I17."""
    for number in range(2):
        books.store(used(f"e{number}", now, number + 5, "u"))
        books.flush()
        books.deliver(seconds=60)
    meter = books.meters[Aggregation.MAX]
    hour = now.replace(minute=0, second=0)
    customer_id = Customer.objects.get(external_id="acme").pk
    observed = books.values(start=hour, end=hour + timedelta(hours=1))["max"]

    def settled(value: Decimal) -> int:
        return settle(
            customer_id=customer_id,
            meter_id=meter.pk,
            observed={hour: value},
            observed_at=books.now + timedelta(hours=2),
        ).settled_count

    assert settled(observed + 5) == 0
    assert settled(observed) == 2
    assert [state for *_, state in books.sent(Aggregation.MAX)] == [State.SETTLED, State.SETTLED]
    [cell] = cells(
        customer_id=customer_id, meter_id=meter.pk, start=hour, end=hour + timedelta(hours=1)
    ).values()
    assert (cell.expected, cell.is_closed) == (6, True)


def test_the_books_leave_running_values_out(books, now):
    books.store(used("a", now, 5, "u"), used("b", now, 5, "v", subject="nobody"))
    books.flush()
    books.deliver()

    found = statement()

    assert found.books.meters == ()
    assert found.books.event_count == 2
    assert found.is_balanced
    assert violations() == ()


def test_a_value_of_a_later_hour_may_stand_for_one_of_an_earlier(books, now):
    """I4a: the decision is of the hour it took, and the newer value of its own."""
    books.store(used("a", now - timedelta(hours=2), 5))
    books.flush()
    books.store(used("b", now, 7))

    books.flush()

    replaced = Submission.objects.filter(
        replaces__isnull=False, meter=books.meters[Aggregation.MAX]
    )
    assert [row.window_start > row.replaces.window_start for row in replaced] == [True]
    assert violations() == ()
