"""Cells are cut at billing-period boundaries, also at those learned late (F27, I13)."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.db import connections, transaction
from django.utils import timezone

from billing.models import Case, Customer, PeriodBoundary
from tests.factories.usage import make_submission, move, states
from tests.usage.conftest import report
from usage import flush, recutting
from usage.folding import share_boundaries
from usage.ingestion import accept
from usage.lifecycle import State
from usage.models import HeldUsage, Replacement, Submission, SubmissionState

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def end(now: datetime) -> datetime:
    return now.replace(hour=9, minute=17, second=23)


@pytest.fixture
def learn(acme: Customer) -> Callable[[datetime], PeriodBoundary]:
    def learn(at: datetime) -> PeriodBoundary:
        return PeriodBoundary.objects.create(customer=acme, at=at)

    return learn


@pytest.fixture
def recut(now: datetime) -> Callable[[], recutting.Recut]:
    return lambda: recutting.recut(clock=lambda: now, seconds=60)


@pytest.fixture
def flushed(store, acme, meters, end, now) -> Submission:
    """30 input tokens used just before the period's end and 4 from it on, folded as one cell."""
    store(
        report("a", at=end - 2 * SECOND, input_tokens=10),
        report("b", at=end - SECOND, input_tokens=20),
        report("c", at=end, input_tokens=4),
        report("elsewhere", at=end + timedelta(hours=1), input_tokens=100),
    )
    flush.flush_batches(now=now)
    return Submission.objects.get(meter=meters.input, window_start__lte=end, value=34)


def live(meter) -> list[tuple[int, datetime, datetime]]:
    """What is left to be sent of a meter, in order of time."""
    return [
        (int(row.value), row.segment_start, row.timestamp)
        for row in Submission.objects.filter(meter=meter)
        .exclude(standing__state=State.SUPERSEDED)
        .order_by("timestamp")
    ]


def test_unsent_usage_is_cut_at_a_boundary_learned_late(flushed, meters, learn, recut, end):
    boundary = learn(end)

    assert recut() == recutting.Recut(recut_count=2)

    hour = flushed.window_start
    next_hour = end + timedelta(hours=1)
    assert live(meters.input) == [
        (30, hour, end - SECOND),
        (4, end, end),
        (100, hour + timedelta(hours=1), next_hour),
    ]
    assert [count for count, *_ in live(meters.calls)] == [2, 1, 1]
    decision = Replacement.objects.get(meter=meters.input)
    assert (decision.kind, decision.superseded, decision.credit) == ("refold", 34, 0)
    assert {(made.run, made.replaces) for made in decision.replacements.all()} == {
        (flushed.run, decision)
    }
    standing = SubmissionState.objects.get(pk=flushed.pk)
    assert (standing.state, standing.replaced_by, standing.next_action_at) == (
        State.SUPERSEDED,
        decision,
        None,
    )
    boundary.refresh_from_db()
    assert boundary.recut_at is not None
    assert recut() == recutting.Recut()
    assert not Case.objects.exists()


def test_usage_refused_for_now_is_cut_too(flushed, meters, learn, recut, end):
    move(flushed, State.SENDING, at=end)
    move(flushed, State.RETRY, at=end)
    learn(end)

    recut()

    assert [value for value, *_ in live(meters.input)] == [30, 4, 100]


@pytest.mark.parametrize(
    "route",
    [
        (State.SENDING,),
        (State.SENDING, State.IN_DOUBT),
        (State.SENDING, State.IN_DOUBT, State.UNPROVEN),
        (State.SENDING, State.IN_DOUBT, State.SENDING, State.RETRY),
        (State.SENDING, State.ACCEPTED),
        (State.SENDING, State.ACCEPTED, State.SETTLED),
    ],
    ids=lambda route: route[-1].value,
)
def test_what_stripe_has_or_may_have_becomes_a_case_that_says_how_to_set_it_right(
    flushed, meters, learn, recut, end, now, route
):
    for state in route:
        move(flushed, state, at=end)
    learn(end)

    assert recut() == recutting.Recut(recut_count=1, case_count=1)

    assert [value for value, *_ in live(meters.input)] == [34, 100]
    assert states(flushed) == [route[-1]]
    case = Case.objects.get()
    assert (case.kind, case.reference, case.quantity) == ("boundary", flushed.identifier, 30)
    assert f"-30 at {end:%Y-%m-%dT%H:%M:%S}Z and +30 at {end - SECOND:%Y-%m-%dT%H:%M:%S}Z" in (
        case.reason
    )
    assert case.deadline_at == now + timedelta(hours=72)
    assert recut() == recutting.Recut()


@pytest.mark.parametrize("state", [State.EXPIRED, State.REJECTED])
def test_what_is_in_a_persons_hands_and_not_at_stripe_is_left_there(
    flushed, meters, learn, recut, end, state
):
    if state == State.REJECTED:
        move(flushed, State.SENDING, at=end)
    move(flushed, state, at=end)
    learn(end)

    assert recut() == recutting.Recut(recut_count=1)

    assert states(flushed) == [state]
    assert not Case.objects.exists()


@pytest.mark.parametrize("seconds", [-1200, -3, -2, 1, 1200])
def test_usage_on_one_side_of_a_boundary_stays_as_it_is(
    flushed, meters, learn, recut, end, seconds
):
    boundary = learn(end + timedelta(seconds=seconds))

    assert recut() == recutting.Recut()

    assert [value for value, *_ in live(meters.input)] == [34, 100]
    boundary.refresh_from_db()
    assert boundary.recut_at is not None


def test_boundaries_learned_one_after_the_other_cut_again(flushed, meters, learn, recut, end):
    learn(end)
    recut()

    learn(end - SECOND)
    assert recut() == recutting.Recut(recut_count=2)

    assert [value for value, *_ in live(meters.input)] == [10, 20, 4, 100]
    assert Replacement.objects.filter(meter=meters.input).count() == 2


def test_two_boundaries_learned_together_cut_at_once(flushed, meters, learn, recut, end):
    learn(end)
    learn(end - SECOND)

    recut()

    assert [value for value, *_ in live(meters.input)] == [10, 20, 4, 100]
    assert Replacement.objects.filter(meter=meters.input).count() == 1


def test_another_customers_boundary_cuts_nothing(flushed, meters, recut, end):
    other = Customer.objects.create(external_id="globex", stripe_customer_id="cus_globex")
    PeriodBoundary.objects.create(customer=other, at=end)

    assert recut() == recutting.Recut()

    assert [value for value, *_ in live(meters.input)] == [34, 100]


def test_a_side_whose_invoice_is_final_is_held_as_late(flushed, meters, learn, recut, end):
    """I4: what is superseded is what was written anew and what is held."""
    boundary = learn(end)
    PeriodBoundary.objects.filter(pk=boundary.pk).update(closed_at=end + timedelta(hours=1))

    recut()

    assert [value for value, *_ in live(meters.input)] == [4, 100]
    decision = Replacement.objects.get(meter=meters.input)
    held = HeldUsage.objects.get(meter=meters.input)
    assert (held.quantity, held.reason, held.replaces) == (30, "late", decision)
    assert decision.superseded == 34


def test_late_usage_is_held_by_period(flushed, meters, learn, recut, end, store, now):
    final = learn(end + 10 * MINUTE)
    PeriodBoundary.objects.filter(pk=final.pk).update(closed_at=end + timedelta(hours=1))
    recut()
    store(
        report("d", at=end - MINUTE, input_tokens=5), report("e", at=end + MINUTE, input_tokens=6)
    )
    flush.flush_batches(now=now)
    rows = HeldUsage.objects.filter(meter=meters.input, released_at=None, replaces=None)
    assert [row.quantity for row in rows] == [11]
    learn(end)

    recut()

    assert [(row.quantity, row.segment_start) for row in rows.order_by("segment_start")] == [
        (5, flushed.window_start),
        (6, end),
    ]


def test_what_does_not_add_up_is_not_cut_and_not_sent(acme, meters, learn, recut, end, now):
    """Its run has no such events; the next customer's usage is cut all the same."""
    strange = make_submission(customer=acme, meter=meters.input, at=end)
    boundary = learn(end)

    assert recut() == recutting.Recut(failed_count=1)

    assert states(strange) == ["ready"]
    assert "fold again to 0" in Case.objects.get(kind="invariant").reason
    boundary.refresh_from_db()
    assert boundary.recut_at is None
    assert recut() == recutting.Recut(failed_count=1)
    assert Case.objects.count() == 1


def test_usage_that_replaces_a_part_is_a_persons_to_cut(flushed, acme, meters, learn, recut, end):
    """What remained of it after Stripe's total was credited cannot be told apart by its events."""
    decision = Replacement.objects.create(
        kind="doubt",
        customer=acme,
        meter=meters.input,
        window_start=flushed.window_start,
        superseded=34,
        credit=30,
        reason="",
        decided_at=end,
    )
    SubmissionState.objects.filter(pk=flushed.pk).update(state="superseded", replaced_by=decision)
    rest = Submission.objects.get(pk=flushed.pk)
    rest.pk, rest.identifier, rest.value, rest.replaces = None, "rest", Decimal(4), decision
    rest.save()
    SubmissionState.objects.create(
        submission=rest, customer=acme, meter=meters.input, next_action_at=end, changed_at=end
    )
    for state in (State.SENDING, State.ACCEPTED):
        move(rest, state, at=end)
    learn(end)

    assert recut() == recutting.Recut(recut_count=1, case_count=1)

    case = Case.objects.get()
    assert (case.reference, case.quantity) == ("rest", None)


@pytest.mark.parametrize(
    ("known", "anchor_count"), [(True, 1_000), (False, 100)], ids=["known before", "learned late"]
)
def test_no_unit_crosses_any_of_many_anchors(source, meters, now, known, anchor_count):
    """F27, I13: anchors fall on any second, usage within half an hour on either side of them."""
    chance = random.Random(27)  # noqa: S311 - the same each time
    customers = Customer.objects.bulk_create(
        Customer(external_id=f"c{i}", stripe_customer_id=f"cus_{i}") for i in range(anchor_count)
    )
    anchors = {
        customer.external_id: now - timedelta(seconds=chance.randrange(7_200, 86_400 * 2))
        for customer in customers
    }
    boundaries = [PeriodBoundary(customer=each, at=anchors[each.external_id]) for each in customers]
    if known:
        PeriodBoundary.objects.bulk_create(boundaries)
    expected: dict[tuple[str, bool], int] = {}
    reports = []
    for subject, anchor in anchors.items():
        offsets = [-1, 0, *(chance.randrange(-1_800_000_000, 1_800_000_000) for _ in range(3))]
        for i, offset in enumerate(offsets):
            at = anchor + (timedelta(microseconds=offset) if i > 1 else offset * SECOND)
            tokens = chance.randrange(1, 10_000)
            side = (subject, at < anchor)
            expected[side] = expected.get(side, 0) + tokens
            reports.append(report(f"{subject}-{i}", at=at, subject=subject, input_tokens=tokens))
    accept(source_id=source.pk, reports=reports, now=now)
    flush.flush_batches(now=now)
    if not known:
        PeriodBoundary.objects.bulk_create(boundaries)
        recutting.recut(clock=lambda: now, seconds=300)

    found: dict[tuple[str, bool], int] = {}
    for row in (
        Submission.objects.filter(meter=meters.input, standing__state=State.READY)
        .select_related("customer")
        .iterator()
    ):
        side = (row.customer.external_id, row.timestamp < anchors[row.customer.external_id])
        found[side] = found.get(side, 0) + int(row.value)
    assert found == expected
    assert not PeriodBoundary.objects.filter(recut_at=None).exists() or known


# --- races ----------------------------------------------------------------------------------------


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("step", ["passing over", "cutting"])
def test_cutting_again_waits_for_a_flush_that_read_the_boundaries_before(
    transactional_db, store, meters, monkeypatch, step
):
    """The flush has folded, by the boundaries of that moment, and has not committed yet.

    It may do so also between the two steps; to come there, the first is left out.
    """
    if step == "cutting":
        monkeypatch.setattr(recutting, "_pass_over_untouched", lambda **_: None)
    acme = Customer.objects.create(external_id="acme", stripe_customer_id="cus_acme")
    now = timezone.now()
    end = now.replace(minute=30, second=0, microsecond=0) - timedelta(hours=3)
    store(report("a", at=end - SECOND, input_tokens=1), report("b", at=end, input_tokens=2), at=now)
    folded, go_on = threading.Event(), threading.Event()
    freeze = flush.freeze

    def slow_freeze(*args, **kwargs):
        folded.set()
        assert go_on.wait(timeout=10)
        return freeze(*args, **kwargs)

    monkeypatch.setattr(flush, "freeze", slow_freeze)

    def flusher() -> None:
        flush.flush_batches(now=now)
        connections.close_all()

    thread = threading.Thread(target=flusher)
    thread.start()
    assert folded.wait(timeout=10)
    boundary = PeriodBoundary.objects.create(customer=acme, at=end)
    try:
        # It gives up and leaves the boundary to the next pass, rather than miss what is not there.
        monkeypatch.setattr(recutting, "FOLDS_WAIT_SECONDS", 0.2)
        assert recutting.recut(clock=lambda: now, seconds=60) == recutting.Recut()
        boundary.refresh_from_db()
        assert boundary.recut_at is None
    finally:
        go_on.set()
        thread.join()

    recutting.recut(clock=lambda: now, seconds=60)

    assert [value for value, *_ in live(meters.input)] == [1, 2]


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_folds_do_not_wait_for_each_other(transactional_db):
    holds, done = threading.Event(), threading.Event()

    def folder() -> None:
        with transaction.atomic():
            share_boundaries()
            holds.set()
            assert done.wait(timeout=10)
        connections.close_all()

    thread = threading.Thread(target=folder)
    thread.start()
    assert holds.wait(timeout=10)
    try:
        with transaction.atomic():
            share_boundaries()
    finally:
        done.set()
        thread.join()
