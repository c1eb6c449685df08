"""Doubts beyond Stripe's memory: replaced when proven absent, and never billed twice (I4, I8).

The emulator's own books decide. The failures (F45, F54, F80, F84, F85) are explained in
docs/reliability.md.
"""

from __future__ import annotations

import itertools
import threading
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from billing.models import Case, Customer, Meter
from reconciliation import runs
from tests.factories.usage import (
    arrive,
    arrive_from_elsewhere,
    make_submission,
    move,
    states,
)
from tests.usage.conftest import EVENTS_PATH, report
from usage import flush
from usage.cells import ABSENCE_STABLE_HOURS, HOUR
from usage.enums import ReplacementKind
from usage.invariants import violations
from usage.lifecycle import State
from usage.models import Replacement, Submission, SubmissionState
from usage.queries import books
from usage.replacing import replace, supersede
from usage.settlement import Settlement, settle

pytestmark = pytest.mark.integration

ARRIVES, IS_LOST = "answer_lost", "drop_before"


@pytest.fixture
def doubt(world, store):
    """Report input tokens whose one call ends unknown: it `ARRIVES` or `IS_LOST`."""
    names = itertools.count()

    def doubt(value: int, fault: str) -> Submission:
        store(report(f"e-{next(names)}", at=world.now, input_tokens=value), at=world.now)
        flush.flush_batches(now=world.now)
        world.emulator.faults.switch_on(fault, path=EVENTS_PATH, count=1)
        assert world.deliver()["unknown"] == 1
        return Submission.objects.filter(meter__slug="input_tokens").latest("pk")

    return doubt


def unproven_for(world, hours: float) -> None:
    """Let Stripe forget the calls, then let so many hours pass since the last of them."""
    world.deliver(hours=23)
    world.advance(hours=hours - 23)


def reconciled(world) -> runs.RunResult:
    return runs.reconcile_doubtful(now=world.now)


def at_rest(world) -> None:
    """Send and settle whatever is left, and hold all books against each other."""
    world.deliver(seconds=1)
    world.advance(hours=1)
    runs.reconcile(since=world.now - timedelta(days=9), until=world.now, now=world.now)
    [tokens] = [meter for meter in books().meters if meter.meter == "input_tokens"]
    assert tokens.is_conserved
    assert tokens.recorded == tokens.states[State.SETTLED] + tokens.credited == world.counted()
    assert violations() == ()
    assert Case.objects.filter(closed_at=None).count() == 0


@pytest.mark.parametrize("hours", [23, 30, ABSENCE_STABLE_HOURS - 1 / 3600])
def test_an_absence_is_not_believed_before_it_is_stable(world, doubt, hours):
    """F80: a summary that lags is no proof. Replaced now, this would be billed twice."""
    world.emulator.settings.change(settle_lag_seconds=int(hours * 3_600) + 1)
    submission = doubt(10, ARRIVES)
    unproven_for(world, hours)

    assert reconciled(world).waiting_count == 1

    assert states(submission) == ["unproven"]
    assert Replacement.objects.count() == 0
    assert world.deliver(seconds=1) == {}
    world.advance(hours=ABSENCE_STABLE_HOURS)
    reconciled(world)
    assert states(submission) == ["settled"]
    at_rest(world)
    assert world.counted() == 10


def test_a_proven_absence_is_replaced_once_and_billed_once(world, doubt):
    submission = doubt(10, IS_LOST)
    unproven_for(world, ABSENCE_STABLE_HOURS)
    case = Case.objects.get(reference=submission.identifier)
    assert world.counted() == 0

    result = reconciled(world)
    again = reconciled(world)

    assert [(r.waiting_count, r.discrepancy_count) for r in (result, again)] == [(1, 0), (0, 0)]
    [replacement] = Replacement.objects.all()
    assert (replacement.kind, replacement.superseded, replacement.credit) == ("doubt", 10, 0)
    standing = SubmissionState.objects.get(pk=submission.pk)
    assert (standing.state, standing.replaced_by, standing.next_action_at) == (
        "superseded",
        replacement,
        None,
    )
    case.refresh_from_db()
    assert case.resolution == (
        f"Stripe's summary of the hour holds nothing of it: replacement {replacement.pk}."
    )
    new = Submission.objects.get(replaces=replacement)
    assert new.identifier != submission.identifier
    assert new.identifier in new.payload
    for column in (
        *("run", "customer", "meter", "window_start", "segment_start", "event_count", "value"),
        *("timestamp", "stripe_customer_id", "event_name", "live_mode"),
    ):
        assert getattr(new, column) == getattr(submission, column), column
    assert states(new) == ["ready"]
    at_rest(world)
    assert world.counted() == 10


def test_what_stripe_has_is_never_replaced(world, doubt):
    first, second = doubt(10, ARRIVES), doubt(5, ARRIVES)
    unproven_for(world, ABSENCE_STABLE_HOURS)

    reconciled(world)

    assert states(first, second) == ["settled", "settled"]
    assert Replacement.objects.count() == 0
    at_rest(world)
    assert world.counted() == 15


def test_presence_is_believed_at_once(world, doubt):
    """F80: it only takes the hour at which the doubt is given up, not 36 more."""
    submission = doubt(10, ARRIVES)
    unproven_for(world, 23)
    assert states(submission) == ["unproven"]

    reconciled(world)

    assert states(submission) == ["settled"]
    at_rest(world)


def test_what_arrived_of_several_is_credited_and_the_rest_sent(world, doubt):
    """Which of them arrived does not matter; the money does."""
    doubtful = doubt(10, IS_LOST), doubt(5, ARRIVES), doubt(3, IS_LOST)
    unproven_for(world, ABSENCE_STABLE_HOURS)

    reconciled(world)

    [replacement] = Replacement.objects.all()
    assert (replacement.superseded, replacement.credit) == (18, 5)
    assert [new.value for new in Submission.objects.filter(replaces=replacement)] == [13]
    assert states(*doubtful) == ["superseded"] * 3
    [tokens] = [meter for meter in books().meters if meter.meter == "input_tokens"]
    assert (tokens.recorded, tokens.credited, tokens.states[State.SUPERSEDED]) == (18, 5, 18)
    assert tokens.is_conserved
    at_rest(world)
    assert world.counted() == 18


def test_accepted_usage_of_the_hour_is_settled_beside_it(world, store, doubt):
    submission = doubt(10, IS_LOST)
    store(report("good", at=submission.timestamp, input_tokens=4), at=world.now)
    flush.flush_batches(now=world.now)
    world.deliver()
    accepted = Submission.objects.filter(meter__slug="input_tokens").latest("pk")
    unproven_for(world, ABSENCE_STABLE_HOURS)

    reconciled(world)

    assert states(submission, accepted) == ["superseded", "settled"]
    at_rest(world)
    assert world.counted() == 14


def test_an_impossible_total_sends_nothing_and_is_one_case(world, doubt):
    """F84: somebody else's usage makes our own undecidable; a person decides."""
    first, second = doubt(10, IS_LOST), doubt(5, ARRIVES)
    acme, meter = Customer.objects.get(), Meter.objects.get(slug="input_tokens")
    foreign = {"customer": acme, "meter": meter, "at": first.timestamp}
    arrive_from_elsewhere(**foreign, value=3)
    unproven_for(world, ABSENCE_STABLE_HOURS)

    for _ in range(3):
        reconciled(world)
        assert world.deliver(hours=1) == {}

    assert states(first, second) == ["unproven", "unproven"]
    assert Replacement.objects.count() == 0
    assert world.counted() == 5 + 3
    case = Case.objects.get(reference="acme / input_tokens / 2026-11-20 12:00 UTC")
    assert (case.kind, case.closed_at, case.quantity) == ("unproven", None, 8)
    assert case.reason == (
        "Stripe's total is 8; 0 are known to be taken, and 2 submissions in doubt could make it"
        " 15: no choice of them comes to it"
    )

    arrive_from_elsewhere(**foreign, value=-3)
    reconciled(world)

    case.refresh_from_db()
    assert case.resolution == "Stripe's summary of the hour leaves nothing in doubt."
    at_rest(world)
    assert world.counted() == 15


def test_a_worker_that_may_still_be_sending_keeps_its_hour_undecided(world, store, doubt):
    """F46: it was stopped for days; until the sweep has ended its claim, nothing is replaced."""
    gone = doubt(10, IS_LOST)
    world.deliver(hours=23)
    store(report("late", at=gone.timestamp, input_tokens=5), at=world.now)
    flush.flush_batches(now=world.now)
    stopped = Submission.objects.filter(meter__slug="input_tokens").latest("pk")
    move(stopped, State.SENDING, at=world.now)
    world.advance(hours=2 * ABSENCE_STABLE_HOURS)

    result = reconciled(world)

    assert (result.waiting_count, result.error_count) == (1, 0)
    assert states(gone, stopped) == ["unproven", "sending"]
    assert Replacement.objects.count() == 0


def test_a_replacement_that_is_lost_itself_is_replaced_in_turn(world, doubt):
    doubt(10, IS_LOST)
    for _ in range(3):
        unproven_for(world, ABSENCE_STABLE_HOURS)
        reconciled(world)
        world.emulator.faults.switch_on(IS_LOST, path=EVENTS_PATH, count=1)
        assert world.deliver(seconds=1) == {"unknown": 1}
    unproven_for(world, ABSENCE_STABLE_HOURS)
    reconciled(world)

    assert Replacement.objects.count() == 4
    at_rest(world)
    assert world.counted() == 10


# --- the stream ----------------------------------------------------------------------------------


@pytest.fixture
def taken(world):
    """Submissions of the hour that Stripe took, over the stream or not, and counted or not."""

    def taken(value, *, counted, wire="stream", **fields) -> Submission:
        submission = make_submission(
            customer=Customer.objects.get(),
            meter=Meter.objects.get(slug="input_tokens"),
            at=world.now,
            value=value,
            attempted_at=world.now,
            **fields,
        )
        SubmissionState.objects.filter(pk=submission.pk).update(wire=wire)
        move(submission, State.SENDING, at=world.now)
        move(submission, State.ACCEPTED, at=world.now)
        if counted:
            arrive(submission)
        return submission

    return taken


def test_what_the_stream_took_is_settled_by_the_summary_only(world, taken):
    """F54: its 200 says nothing of an event."""
    submissions = taken(10, counted=True), taken(5, counted=True)
    world.advance(hours=1)

    result = reconciled(world)

    assert (result.equal_count, result.settled_count) == (1, 2)
    assert states(*submissions) == ["settled", "settled"]
    assert reconciled(world).pair_count == 0


def test_what_the_stream_dropped_is_replaced_after_36_hours(world, taken):
    counted, dropped = taken(10, counted=True), taken(5, counted=False)
    sent = taken(2, counted=True, wire="v1")
    world.advance(hours=ABSENCE_STABLE_HOURS - 1)
    assert (reconciled(world).waiting_count, Replacement.objects.count()) == (1, 0)
    assert states(counted, dropped, sent) == ["accepted", "accepted", "accepted"]

    world.advance(hours=1)
    reconciled(world)

    assert states(counted, dropped, sent) == ["superseded", "superseded", "settled"]
    [replacement] = Replacement.objects.all()
    assert (replacement.superseded, replacement.credit) == (15, 10)
    world.deliver(seconds=1)
    assert world.counted() == 17


def test_what_v1_took_is_never_replaced_whatever_the_summary_says(world, taken):
    sent, dropped = taken(10, counted=False, wire="v1"), taken(5, counted=False)
    world.advance(hours=ABSENCE_STABLE_HOURS)

    reconciled(world)

    assert states(sent, dropped) == ["accepted", "accepted"]
    assert Replacement.objects.count() == 0
    assert world.deliver(seconds=1) == {}


# --- how it is written ---------------------------------------------------------------------------


@pytest.fixture
def unproven(acme, meters, now):
    """Submissions of `now`'s hour of which only Stripe's total can tell."""

    def unproven(value, *, state=State.UNPROVEN, at=now, **columns) -> Submission:
        submission = make_submission(
            customer=acme, meter=meters.input, at=at, value=value, state=State.READY
        )
        if columns:
            values = {
                column.attname: getattr(submission, column.attname)
                for column in Submission._meta.concrete_fields
            }
            submission = Submission.objects.create(
                **values | {"id": None, "identifier": f"{submission.pk}", "part": 1} | columns
            )
            SubmissionState.objects.create(submission=submission, customer=acme, meter=meters.input)
        for step in (State.SENDING, State.IN_DOUBT):
            move(submission, step, at=now)
        if state == State.UNPROVEN:
            move(submission, state, at=now)
        return submission

    return unproven


@pytest.fixture
def settled_at(acme, meters, now):
    """Settle what Stripe said of `now`'s hour, so many hours later."""

    def settled_at(observed, *, hours=ABSENCE_STABLE_HOURS):
        return settle(
            customer_id=acme.pk,
            meter_id=meters.input.pk,
            observed={now.replace(minute=0, second=0): Decimal(observed)},
            observed_at=now + hours * HOUR,
        )

    return settled_at


def test_each_segment_and_customer_is_replaced_on_its_own(unproven, settled_at, now):
    """I13, I16: what is sent anew stays in its billing period and with its customer."""
    cut = now + timedelta(minutes=10)
    first = unproven(10)
    unproven(5, at=now + timedelta(minutes=5))
    later = unproven(3, segment_start=cut, timestamp=cut + timedelta(minutes=1), run=first.run)
    moved = unproven(2, stripe_customer_id="cus_other", run=first.run)

    assert settled_at(0) == Settlement(replaced_count=4)

    [replacement] = Replacement.objects.all()
    assert replacement.superseded == 20
    assert list(
        Submission.objects.filter(replaces=replacement)
        .order_by("pk")
        .values_list("segment_start", "stripe_customer_id", "value", "timestamp")
    ) == [
        (first.segment_start, "cus_acme", 15, now + timedelta(minutes=5)),
        (cut, "cus_acme", 3, later.timestamp),
        (first.segment_start, "cus_other", 2, moved.timestamp),
    ]


def test_a_doubt_that_delivery_still_holds_is_folded_in(unproven, settled_at):
    """A dispatch that stood still for days never gave it up; the total speaks of it, too."""
    doubts = unproven(10), unproven(5, state=State.IN_DOUBT)

    assert settled_at(0) == Settlement(replaced_count=2)

    assert states(*doubts) == ["superseded", "superseded"]
    assert Submission.objects.get(replaces__isnull=False).value == 15
    assert settled_at(0) == Settlement()


def test_more_than_15_digits_go_in_parts(unproven, settled_at):
    most = 999_999_999_999_999
    unproven(most), unproven(5)

    settled_at(0)

    new = Submission.objects.filter(replaces__isnull=False).order_by("part")
    assert [(row.part, row.value) for row in new] == [(0, most), (1, 5)]


def test_less_than_nothing_is_replaced_like_more(unproven, settled_at):
    unproven(-4), unproven(-3)

    settled_at(-3)

    assert Replacement.objects.get().credit == -3
    assert [row.value for row in Submission.objects.filter(replaces__isnull=False)] == [-4]


def test_after_a_restore_any_part_is_credited_and_unsent_usage_with_it(
    unproven, settled_at, acme, meters, now
):
    """F18: lost submissions carried it under other identifiers and in other portions."""
    doubtful = unproven(10)
    SubmissionState.objects.filter(pk=doubtful.pk).update(recount=True, changed_at=now + 2 * HOUR)
    again = make_submission(customer=acme, meter=meters.input, at=now, value=6)

    assert settled_at(7) == Settlement()
    assert settled_at(7, hours=ABSENCE_STABLE_HOURS + 2) == Settlement(replaced_count=2)

    replacement = Replacement.objects.get()
    assert (replacement.kind, replacement.superseded, replacement.credit) == ("restore", 16, 7)
    assert states(doubtful, again) == ["superseded", "superseded"]
    assert Submission.objects.get(replaces=replacement).value == 9


def test_after_a_restore_a_whole_hour_is_believed(unproven, settled_at, acme, meters, now):
    doubtful = unproven(10)
    SubmissionState.objects.filter(pk=doubtful.pk).update(recount=True)
    again = make_submission(customer=acme, meter=meters.input, at=now, value=6)

    assert settled_at(16, hours=1) == Settlement(settled_count=2, believed_count=2)

    assert states(doubtful, again) == ["settled", "settled"]


@pytest.mark.parametrize("observed", [0, 7, 14 * 7, 3])
def test_an_hour_of_many_submissions_costs_as_many_statements_as_one_of_few(
    unproven, settled_at, observed, now
):
    for _ in range(2):
        unproven(7)
    with transaction.atomic():
        with CaptureQueriesContext(connection) as few:
            settled_at(min(observed, 14))
        transaction.set_rollback(True)
    for _ in range(12):
        unproven(7)

    with CaptureQueriesContext(connection) as many:
        settled_at(observed)

    assert len(many) == len(few)


def test_a_decision_is_about_one_hour_and_its_credit_about_one_group(unproven, now):
    here, elsewhere = unproven(10), unproven(5, at=now - HOUR)
    arguments = {"kind": ReplacementKind.DOUBT, "reason": "?", "now": now}

    with pytest.raises(ValueError, match="one hour"):
        supersede([here, elsewhere], **arguments)
    with pytest.raises(ValueError, match="one hour"):
        supersede([], **arguments)
    moved = unproven(2, stripe_customer_id="cus_other")
    with pytest.raises(ValueError, match="divided"):
        replace([here, moved], credit=Decimal(1), **arguments)

    assert Replacement.objects.count() == 0
    assert states(here, elsewhere, moved) == ["unproven"] * 3


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_row_that_moves_while_the_settler_waits_is_not_replaced(
    transactional_db, unproven, settled_at
):
    """F85: the other settler read Stripe later and believed it; this one's total is old."""
    submission = unproven(10)
    result = []

    def settler() -> None:
        result.append(settled_at(0))
        connections.close_all()

    with transaction.atomic():
        SubmissionState.objects.select_for_update().get(pk=submission.pk)
        thread = threading.Thread(target=settler)
        thread.start()
        thread.join(timeout=0.3)
        assert thread.is_alive()
        SubmissionState.objects.filter(pk=submission.pk).update(state=State.ACCEPTED)
    thread.join()

    assert result == [Settlement()]
    assert states(submission) == ["accepted"]
    assert Replacement.objects.count() == 0


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_settlers_at_once_replace_once(transactional_db, unproven, settled_at):
    """F85."""
    submissions = [unproven(value) for value in range(1, 20)]
    start = threading.Barrier(4)
    results = []

    def settler() -> None:
        start.wait()
        results.append(settled_at(0))
        connections.close_all()

    threads = [threading.Thread(target=settler) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(result.replaced_count for result in results) == [0, 0, 0, 19]
    assert set(states(*submissions)) == {"superseded"}
    assert Replacement.objects.get().superseded == 190
    assert Submission.objects.get(replaces__isnull=False).value == 190
