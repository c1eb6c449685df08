"""Runs against a stateful Stripe: equal cells settle, others are kept with both figures."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.utils import timezone

from billing import wakeups
from billing.enums import CaseKind
from billing.gateway.errors import Misconfigured
from billing.models import Case, Customer
from reconciliation import runs, sources, tasks
from reconciliation.models import Discrepancy, ReconciliationRun
from stripe_emulator import FaultRule
from tests.factories.usage import (
    arrive,
    arrive_from_elsewhere,
    make_submission,
    move,
    states,
)
from tests.reconciliation.conftest import customer_at_stripe
from usage import fence
from usage.cells import HOUR
from usage.lifecycle import State
from usage.models import Observation, SubmissionState

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)


@pytest.fixture
def sent(acme, tokens):
    """A submission that Stripe took, and that we know it took."""

    def sent(value, *, at, customer=acme, meter=tokens, state=State.ACCEPTED, **fields):
        submission = make_submission(
            customer=customer, meter=meter, at=at, value=value, state=state, **fields
        )
        arrive(submission)
        return submission

    return sent


@pytest.fixture
def reconciled(now):
    """Reconcile the day of `now` up to the end of its hour, as at two hours later."""

    def reconciled(*, since=None, until=None, at=None, **options):
        return runs.reconcile(
            since=since or now.replace(hour=0, minute=0, second=0),
            until=until or now,
            now=at or now + 2 * HOUR,
            **options,
        )

    return reconciled


def verdicts(result) -> tuple[int, int, int, int]:
    return (
        result.cell_count,
        result.equal_count,
        result.waiting_count,
        result.discrepancy_count,
    )


def open_discrepancies() -> list[tuple]:
    return list(
        Discrepancy.objects.filter(resolved_at=None)
        .order_by("customer__external_id", "meter__slug", "window_start")
        .values_list(
            "customer__external_id", "meter__slug", "window_start", "ours", "stripe", "reason"
        )
    )


def test_equal_cells_are_settled(sent, reconciled, globex, images, now):
    submissions = (
        sent(10, at=now),
        sent(5, at=now - 3 * HOUR),
        sent(7, at=now, customer=globex),
        sent(2, at=now, meter=images),
        sent(3, at=now, meter=images),
    )

    result = reconciled()

    assert verdicts(result) == (4, 4, 0, 0)
    assert (result.pair_count, result.call_count, result.settled_count) == (3, 3, 5)
    assert (result.is_finished, result.error_count, result.error) == (True, 0, "")
    assert set(states(*submissions)) == {"settled"}
    assert Discrepancy.objects.count() == Case.objects.count() == 0
    run = ReconciliationRun.objects.get()
    assert (run.window_start.hour, run.window_end) == (0, now.replace(hour=13, minute=0, second=0))
    assert run.finished_at >= run.started_at


def test_a_settled_cell_seen_again_writes_nothing(sent, reconciled, now):
    sent(10, at=now)
    reconciled()
    assert Observation.objects.count() == 1

    result = reconciled(at=now + DAY)

    assert verdicts(result) == (1, 1, 0, 0)
    assert (result.settled_count, Observation.objects.count()) == (0, 1)


def test_one_unit_in_one_of_many_cells_is_found(sent, reconciled, acme, tokens, now):
    """F87: there is no tolerance."""
    submissions = [sent(1_000_000, at=now - hours * HOUR) for hours in range(12)]
    missing = make_submission(
        customer=acme, meter=tokens, at=now - 5 * HOUR, value=1, state=State.ACCEPTED
    )

    result = reconciled()

    hour = (now - 5 * HOUR).replace(minute=0, second=0)
    assert verdicts(result) == (12, 11, 0, 1)
    assert open_discrepancies() == [("acme", "input_tokens", hour, 1_000_001, 1_000_000, "missing")]
    assert states(submissions[5], missing) == ["accepted", "accepted"]
    assert sorted(states(*submissions)).count("settled") == 11
    assert Discrepancy.objects.get().difference == -1
    [case] = Case.objects.all()
    assert (case.kind, case.reference, case.quantity, case.closed_at) == (
        CaseKind.DISCREPANCY,
        "acme / input_tokens / 2026-11-20 07:00 UTC",
        -1,
        None,
    )
    assert case.reason == (
        "Stripe has less than it accepted: Stripe 1,000,000, ours 1,000,001, difference -1"
    )
    assert case.deadline_at == now + 2 * HOUR + 3 * DAY


@pytest.mark.parametrize("foreign", ["0.4", "0.000001"])
def test_a_fraction_of_a_unit_is_found_and_shown_as_it_is(
    sent, reconciled, acme, tokens, now, foreign
):
    """F83, F87."""
    sent(100, at=now)
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now, value=Decimal(foreign))

    reconciled()

    [found] = Discrepancy.objects.all()
    assert (found.ours, found.stripe, found.reason) == (100, 100 + Decimal(foreign), "excess")


def test_usage_somebody_else_sent_is_found_in_any_hour(sent, reconciled, acme, tokens, now):
    """F84: also in an hour of ours without usage, and it is not corrected by itself."""
    sent(10, at=now)
    other = now - 4 * HOUR
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now, value=3)
    arrive_from_elsewhere(customer=acme, meter=tokens, at=other, value=4)

    assert verdicts(reconciled()) == (2, 0, 0, 2)

    assert open_discrepancies() == [
        ("acme", "input_tokens", other.replace(minute=0, second=0), 0, 4, "foreign"),
        ("acme", "input_tokens", now.replace(minute=0, second=0), 10, 13, "excess"),
    ]
    assert Case.objects.count() == 2


def test_a_repetition_renews_the_figures_and_an_equal_cell_resolves(
    sent, reconciled, acme, tokens, now
):
    late = make_submission(customer=acme, meter=tokens, at=now, value=5, state=State.ACCEPTED)
    later = make_submission(customer=acme, meter=tokens, at=now, value=2, state=State.ACCEPTED)
    sent(10, at=now)
    reconciled()
    [(*_, ours, stripe, _)] = open_discrepancies()
    assert (ours, stripe) == (17, 10)

    arrive(late)
    second = reconciled(at=now + DAY)

    [discrepancy] = Discrepancy.objects.all()
    assert (discrepancy.stripe, discrepancy.run_id) == (15, second.run_id)
    assert discrepancy.found_at == now + 2 * HOUR
    assert Case.objects.get().reason.endswith("Stripe 15, ours 17, difference -2")

    arrive(later)
    third = reconciled(at=now + 2 * DAY)

    [discrepancy] = Discrepancy.objects.all()
    assert (discrepancy.resolved_at, discrepancy.run_id) == (now + 2 * DAY, third.run_id)
    case = Case.objects.get()
    assert case.closed_at is not None
    assert case.resolution == f"Reconciliation {third.run_id} found both books equal."
    assert states(late, later) == ["settled", "settled"]


def test_a_cell_that_differs_again_gets_a_new_row(sent, reconciled, acme, tokens, now):
    sent(10, at=now)
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now, value=1)
    reconciled()
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now, value=-1)
    reconciled(at=now + 3 * HOUR)
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now, value=1)
    reconciled(at=now + 4 * HOUR)

    rows = Discrepancy.objects.order_by("pk").values_list("resolved_at", "stripe")
    assert list(rows) == [(now + 3 * HOUR, 11), (None, 11)]
    assert Case.objects.filter(closed_at=None).count() == 1


def test_a_foreign_cell_that_is_taken_back_resolves(sent, reconciled, acme, tokens, now):
    sent(10, at=now)
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now - 3 * HOUR, value=4)
    reconciled()
    assert len(open_discrepancies()) == 1

    arrive_from_elsewhere(customer=acme, meter=tokens, at=now - 3 * HOUR, value=-4)
    reconciled(at=now + DAY)

    assert open_discrepancies() == []


def test_lag_waits_and_settles_later(sent, reconciled, stripe_at_now, now):
    stripe_at_now.settings.change(settle_lag_seconds=1_800)
    submission = sent(10, at=now, attempted_at=now)

    assert verdicts(reconciled(at=now + timedelta(minutes=20))) == (1, 0, 1, 0)
    assert Discrepancy.objects.count() == 0

    stripe_at_now.clock.advance(1_800)
    assert verdicts(reconciled(at=now + timedelta(minutes=40))) == (1, 1, 0, 0)
    assert states(submission) == ["settled"]


def test_a_doubt_waits_and_the_unproven_is_believed(sent, reconciled, acme, tokens, now):
    doubtful = make_submission(customer=acme, meter=tokens, at=now, value=5, state=State.IN_DOUBT)
    accepted = sent(10, at=now)
    assert verdicts(reconciled()) == (1, 0, 1, 0)

    move(doubtful, State.UNPROVEN, at=now + DAY)
    assert verdicts(reconciled(at=now + DAY)) == (1, 0, 1, 0)
    assert states(accepted, doubtful) == ["accepted", "unproven"]

    arrive(doubtful)
    assert verdicts(reconciled(at=now + DAY + HOUR)) == (1, 1, 0, 0)
    assert states(accepted, doubtful) == ["settled", "settled"]
    assert Discrepancy.objects.count() == 0


def test_what_is_sent_while_stripe_is_read_waits_for_the_next_run(sent, reconciled, now):
    submission = sent(10, at=now, attempted_at=now + 3 * HOUR)

    assert verdicts(reconciled(at=now + 3 * HOUR)) == (1, 0, 1, 0)
    assert states(submission) == ["accepted"]


def test_what_is_accepted_while_stripe_is_read_is_no_excess(sent, reconciled, now, monkeypatch):
    """Our side is read last, so that it shows every call Stripe's may hold."""
    sent(10, at=now)
    read_stripe = runs.sources.read_stripe

    def read_slowly(pair):
        sent(5, at=now, attempted_at=now + 2 * HOUR)
        return read_stripe(pair)

    monkeypatch.setattr(runs.sources, "read_stripe", read_slowly)

    assert verdicts(reconciled()) == (1, 0, 1, 0)
    assert open_discrepancies() == []


def test_a_cell_that_waits_leaves_its_discrepancy_open(sent, reconciled, acme, tokens, now):
    sent(10, at=now)
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now, value=1)
    reconciled()
    sent(5, at=now, attempted_at=now + DAY)

    assert verdicts(reconciled(at=now + DAY)) == (1, 0, 1, 0)

    assert len(open_discrepancies()) == 1
    assert Case.objects.get().closed_at is None


@pytest.mark.parametrize(
    ("seconds", "hour"),
    [(-1, 11), (0, 12), (3_599, 12), (3_600, 13)],
)
def test_usage_at_the_edge_of_an_hour_lies_in_its_own_cell(
    sent, reconciled, stripe_at_now, now, seconds, hour
):
    """F82."""
    noon = now.replace(minute=0, second=0)
    stripe_at_now.clock.advance(2 * 3_600)
    sent(10, at=noon + timedelta(seconds=seconds))

    result = reconciled(since=noon - HOUR, until=noon + 2 * HOUR, at=now + 4 * HOUR)

    assert verdicts(result) == (1, 1, 0, 0)
    assert Observation.objects.get().window_start.hour == hour


def test_a_range_is_half_open(sent, reconciled, now):
    noon = now.replace(minute=0, second=0)
    for hours in (-1, 0):
        sent(10, at=noon + hours * HOUR)

    result = reconciled(since=noon - HOUR, until=noon)

    assert verdicts(result) == (1, 1, 0, 0)
    assert Observation.objects.get().window_start == noon - HOUR


def test_hundreds_of_hours_are_read_to_the_last_page(sent, reconciled, now):
    """F81."""
    submissions = [sent(hours + 1, at=now - hours * HOUR) for hours in range(0, 30 * 24, 24)]
    busy = [sent(1, at=now - hours * HOUR) for hours in range(1, 24)]

    result = reconciled(since=now - 29 * DAY)

    assert verdicts(result) == (53, 53, 0, 0)
    assert result.call_count == 7
    assert set(states(*submissions, *busy)) == {"settled"}


def test_usage_long_ago_costs_a_call_of_its_own_and_not_the_pages_between(sent, reconciled, now):
    old, new = sent(10, at=now - 25 * DAY), sent(5, at=now)

    assert verdicts(reconciled()) == (1, 1, 0, 0)
    assert states(old, new) == ["accepted", "settled"]
    result = reconciled(with_unsettled=True, at=now + 3 * HOUR)

    assert verdicts(result) == (2, 2, 0, 0)
    assert result.call_count == 2
    assert states(old) == ["settled"]


def test_an_open_discrepancy_is_looked_at_until_it_is_resolved(sent, reconciled, acme, tokens, now):
    sent(10, at=now)
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now, value=1)
    reconciled()
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now, value=-1)

    reconciled(since=now + DAY, until=now + 2 * DAY, at=now + 2 * DAY)
    assert len(open_discrepancies()) == 1
    reconciled(since=now + DAY, until=now + 2 * DAY, at=now + 2 * DAY, with_unsettled=True)
    assert open_discrepancies() == []


def test_an_hour_that_was_not_read_stays_a_discrepancy(sent, reconciled, acme, tokens, now):
    old = now - 6 * DAY
    sent(10, at=old)
    sent(5, at=now)
    arrive_from_elsewhere(customer=acme, meter=tokens, at=old, value=1)
    reconciled(since=old, until=old + HOUR)
    arrive_from_elsewhere(customer=acme, meter=tokens, at=old, value=-1)

    assert verdicts(reconciled()) == (1, 1, 0, 0)

    assert len(open_discrepancies()) == 1


def test_a_run_is_moved_on_by_one_worker_only(sent, images, tokens, now):
    """Two took the same pair; the counts hold it once."""
    sent(1, at=now)
    sent(1, at=now, meter=images)
    run_id = runs.reconcile_recent(now=now, seconds=0).run_id
    mine, yours = (ReconciliationRun.objects.get(pk=run_id) for _ in range(2))
    bounds = {
        "since": mine.window_start,
        "until": mine.window_end,
        "with_unsettled": True,
        "now": now,
    }
    first, second = sources.pairs(**bounds, limit=9)
    seen = Counter(cell_count=1)

    assert runs._moved_on(mine, first, seen, "")
    assert not runs._moved_on(yours, first, seen, "")
    assert runs._moved_on(mine, second, seen, "")
    assert not runs._moved_on(yours, second, seen, "")

    run = ReconciliationRun.objects.get(pk=run_id)
    assert (run.pair_count, run.cell_count) == (2, 2)
    assert sources.pairs(**bounds, after=(first.customer_id, first.meter_id), limit=9) == [second]


def test_a_customer_tied_to_another_one_at_stripe_is_compared_with_both(
    sent, reconciled, acme, globex, now
):
    sent(10, at=now)
    acme.stripe_customer_id, before = globex.stripe_customer_id, acme.stripe_customer_id
    globex.stripe_customer_id = None
    globex.save()
    acme.save()
    sent(5, at=now)

    result = reconciled()

    assert before != acme.stripe_customer_id
    assert verdicts(result) == (1, 1, 0, 0)
    assert result.call_count == 2


def test_one_pair_that_cannot_be_read_does_not_keep_the_others(
    sent, reconciled, globex, stripe_at_now, now
):
    first, second = sent(10, at=now), sent(5, at=now, customer=globex)
    stripe_at_now.faults.switch_on("503", path="*event_summaries*", count=1)

    result = reconciled()

    assert (result.pair_count, result.error_count, result.is_finished) == (2, 1, True)
    assert result.error.startswith("acme / input_tokens: ")
    assert states(first, second) == ["accepted", "settled"]


def test_a_stripe_that_is_down_is_not_asked_for_every_pair(
    sent, reconciled, images, tokens, stripe_at_now, now
):
    from tests.reconciliation.conftest import customer_at_stripe  # noqa: PLC0415

    for name in "abcdefgh":
        sent(1, at=now, customer=customer_at_stripe(name))
    stripe_at_now.faults.switch_on("500_before", path="*event_summaries*")

    result = reconciled()

    assert (result.pair_count, result.error_count) == (5, 5)
    assert (result.is_finished, result.may_go_on) == (False, False)


def test_a_refused_key_stops_the_run(sent, reconciled, now, monkeypatch):
    sent(10, at=now)

    def refused(_pair):
        raise Misconfigured("Invalid API Key", http_status=401)

    monkeypatch.setattr(sources, "read_stripe", refused)

    with pytest.raises(Misconfigured):
        reconciled()

    run = ReconciliationRun.objects.get()
    assert (run.finished_at, run.error, run.pair_count) == (None, "Invalid API Key", 0)


def test_a_run_goes_on_where_its_time_was_up(sent, globex, images, now):
    submissions = (
        sent(1, at=now),
        sent(2, at=now, customer=globex),
        sent(3, at=now, meter=images),
    )
    later = now + 2 * HOUR

    passes = [runs.reconcile_recent(now=later, seconds=0)]
    assert (passes[0].pair_count, passes[0].may_go_on) == (0, True)
    run = ReconciliationRun.objects.get()
    run.last_customer_id, run.last_meter_id = submissions[0].customer_id, submissions[0].meter_id
    run.save()

    result = runs.reconcile_recent(now=later, seconds=40)

    assert result.run_id == run.pk
    assert (result.pair_count, result.is_finished, result.may_go_on) == (2, True, False)
    assert states(*submissions) == ["accepted", "settled", "settled"]
    again = runs.reconcile_recent(now=later + HOUR, seconds=40)
    assert again.run_id != run.pk
    assert states(*submissions) == ["settled", "settled", "settled"]


def test_a_run_interrupted_last_night_is_not_tonights(sent, now):
    sent(1, at=now)
    old = runs.reconcile_recent(now=now, seconds=0)

    result = runs.reconcile_recent(now=now + DAY, seconds=40)

    assert result.run_id != old.run_id
    assert result.is_finished
    assert ReconciliationRun.objects.get(pk=old.run_id).finished_at is None


def test_tonights_run_covers_yesterday_today_and_usage_a_little_ahead(now):
    assert runs.until_default(datetime(2026, 11, 20, 12, 59, tzinfo=UTC)) == datetime(
        2026, 11, 20, 14, tzinfo=UTC
    )
    assert runs.until_default(now) == now.replace(hour=13, minute=0, second=0)


@pytest.mark.django_db
def test_the_nightly_wake_up_asks_for_another_while_pairs_are_left(monkeypatch, now):
    asked = []
    result = runs.RunResult(1, False, True, *[0] * 8, error="")
    monkeypatch.setattr(runs, "reconcile_recent", lambda **_: result)
    monkeypatch.setattr(
        wakeups, "after_commit", lambda task, **options: asked.append((task, options))
    )

    tasks.reconcile_recent()

    assert asked == [("reconciliation.reconcile_recent", {"expire_seconds": 3_600})]


@pytest.mark.django_db
def test_the_nightly_wake_up_runs_to_the_end(acme, stripe_at_now):
    tasks.reconcile_recent()

    run = ReconciliationRun.objects.get()
    assert run.finished_at is not None
    assert run.with_unsettled
    assert run.window_end - run.window_start >= DAY


# --- what is in doubt ----------------------------------------------------------------------------


@pytest.fixture
def doubts(sent, acme, globex, images, tokens, now):
    """Something in doubt for three pairs, and usage of no doubt for the fourth and beside them."""

    def made(state, *, customer=acme, meter=tokens, at=now):
        return make_submission(customer=customer, meter=meter, at=at, value=5, state=state)

    in_retry = made(State.IN_DOUBT, customer=globex)
    for state in (State.SENDING, State.RETRY):
        move(in_retry, state, at=now)
    over_the_stream = made(State.ACCEPTED, meter=images, at=now - 25 * DAY)
    SubmissionState.objects.filter(pk=over_the_stream.pk).update(wire="stream")
    sent(10, at=now - DAY)
    sent(10, at=now, customer=globex, meter=images)
    made(State.RETRY, at=now - 9 * DAY)
    SubmissionState.objects.filter(state="accepted").update(next_action_at=now + 99 * DAY)
    return made(State.UNPROVEN), in_retry, over_the_stream


def test_only_what_is_in_doubt_is_compared(doubts, now):
    arrive(*doubts)

    result = runs.reconcile_doubtful(now=now + 2 * HOUR)

    assert (result.pair_count, result.cell_count, result.is_finished) == (3, 3, True)
    assert states(*doubts) == ["settled", "retry", "settled"]
    run = ReconciliationRun.objects.get()
    assert (run.only_doubtful, run.with_unsettled) == (True, False)
    assert run.window_start == run.window_end
    assert runs.reconcile_doubtful(now=now + 3 * HOUR).pair_count == 1


def test_a_doubtful_run_reads_accepted_usage_that_is_due_to_be_looked_at(acme, tokens, now):
    """F54: an error report hurries what it may mean, also what went over v1."""
    sent = make_submission(customer=acme, meter=tokens, at=now, value=5, state=State.ACCEPTED)
    arrive(sent)
    later = now + 2 * HOUR
    SubmissionState.objects.update(next_action_at=later + HOUR)
    assert runs.reconcile_doubtful(now=later).pair_count == 0

    SubmissionState.objects.update(next_action_at=later)

    assert runs.reconcile_doubtful(now=later).pair_count == 1
    assert states(sent) == ["settled"]


def test_a_doubtful_run_goes_on_where_its_time_was_up_and_is_not_the_nights(doubts, now):
    later = now + 2 * HOUR
    first = runs.reconcile_doubtful(now=later, seconds=0)
    night = runs.reconcile_recent(now=later, seconds=0)
    assert (first.pair_count, first.may_go_on) == (0, True)
    assert night.run_id != first.run_id

    result = runs.reconcile_doubtful(now=later, seconds=40)

    assert (result.run_id, result.pair_count, result.is_finished) == (first.run_id, 3, True)
    assert runs.reconcile_recent(now=later, seconds=0).run_id == night.run_id


@pytest.mark.django_db
def test_the_hourly_wake_up_asks_for_another_while_pairs_are_left(monkeypatch, now):
    asked = []
    result = runs.RunResult(1, False, True, *[0] * 8, error="")
    monkeypatch.setattr(runs, "reconcile_doubtful", lambda **_: result)
    monkeypatch.setattr(
        wakeups, "after_commit", lambda task, **options: asked.append((task, options))
    )

    tasks.reconcile_doubtful()

    assert asked == [("reconciliation.reconcile_doubtful", {"expire_seconds": 3_600})]


@pytest.mark.django_db
def test_the_hourly_wake_up_runs_to_the_end(acme, stripe_at_now):
    tasks.reconcile_doubtful()

    assert ReconciliationRun.objects.get(only_doubtful=True).finished_at is not None


def test_the_command_compares_what_is_in_doubt(doubts, acme, tokens, now):
    arrive(doubts[0])
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now, value=7)

    text, status = printed("--doubtful")

    assert status == 1
    assert ": what is in doubt, 3 customer and meter pairs, 3 reads" in text
    assert "Stripe has more than we ever sent" in text
    assert text.rstrip().endswith("1 discrepancy is open; each has a case.")


# --- what a restore forgot -----------------------------------------------------------------------


def lift_at(instant, *, lost_since):
    fence.lift(reason="restored", by="ada", lost_since=lost_since, now=instant)


def nightly(instant):
    result = runs.reconcile_recent(now=instant, seconds=600)
    return ReconciliationRun.objects.get(pk=result.run_id)


def test_after_a_restore_hours_we_know_nothing_of_are_read_once_all_must_show(
    acme, globex, tokens, images, now
):
    """F18: usage, and what takes usage back, may be at Stripe in an hour that is empty here."""
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now - 30 * DAY, value=-8)
    lift_at(now, lost_since=now - HOUR)

    early = nightly(now + 35 * HOUR)
    assert (early.every_pair, early.pair_count, open_discrepancies()) == (False, 0, [])

    run = nightly(now + 36 * HOUR)
    assert (run.every_pair, run.pair_count, run.error_count) == (True, 4, 0)
    assert run.window_start == (now - HOUR - 35 * DAY).replace(minute=0, second=0)
    assert [(who, stripe) for who, *_, stripe in found_by_customer()] == [("acme", -8)]
    assert Case.objects.filter(kind=CaseKind.DISCREPANCY, closed_at=None).count() == 1
    assert not nightly(now + 60 * HOUR).every_pair


def found_by_customer():
    return Discrepancy.objects.filter(resolved_at=None).values_list(
        "customer__external_id", "meter__slug", "stripe"
    )


def test_every_pair_is_read_again_the_next_night_while_one_could_not_be(
    acme, tokens, now, emulator
):
    lift_at(now, lost_since=now - HOUR)
    emulator.faults.add(FaultRule(path="/v1/billing/meters/*", kind="503", count=9))
    assert nightly(now + 37 * HOUR).error_count == 1
    emulator.faults.clear()

    assert nightly(now + 61 * HOUR).every_pair
    assert not nightly(now + 85 * HOUR).every_pair


def test_a_pair_that_always_fails_does_not_make_every_night_a_large_one(acme, tokens, now):
    lift_at(now, lost_since=now - HOUR)

    assert nightly(now + 36 * HOUR + 7 * DAY - HOUR).every_pair
    ReconciliationRun.objects.update(error_count=1)
    assert not nightly(now + 36 * HOUR + 7 * DAY).every_pair


def test_usage_forgotten_under_a_former_stripe_customer_is_found(acme, tokens, now):
    """F18, F61: sent, forgotten by a restore, and the customer tied to another one since."""
    former = acme.stripe_customer_id
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now, value=8)
    acme.stripe_customer_id = customer_at_stripe("acme again").stripe_customer_id
    Customer.objects.exclude(pk=acme.pk).delete()
    acme.save()
    again = make_submission(customer=acme, meter=tokens, at=now, value=8, state=State.UNPROVEN)
    SubmissionState.objects.update(recount=True, doubt_since=now, changed_at=now)

    runs.reconcile_doubtful(now=now + 37 * HOUR)

    assert states(again) == ["settled"]
    acme.refresh_from_db()
    assert acme.former_stripe_ids == [former]


def test_a_stripe_customer_that_is_somebody_elses_now_is_not_read_for_its_former_owner(
    acme, globex, tokens, sent, now
):
    theirs, ours = globex.stripe_customer_id, acme.stripe_customer_id
    for customer, stripe_id in ((globex, None), (acme, theirs), (globex, ours)):
        customer.stripe_customer_id = stripe_id
        customer.save()
    sent(5, at=now)

    pairs = sources.pairs(since=now - DAY, until=now + DAY, with_unsettled=False, now=now, limit=10)

    assert [pair.stripe_customer_ids for pair in pairs] == [(theirs,)]


def test_a_lift_that_admits_no_loss_changes_no_night(acme, tokens, now):
    lift_at(now, lost_since=None)

    assert not nightly(now + 40 * HOUR).every_pair


def test_a_second_restore_has_every_pair_read_once_more(acme, tokens, now):
    lift_at(now, lost_since=now - HOUR)
    assert nightly(now + 36 * HOUR).every_pair
    lift_at(now + 37 * HOUR, lost_since=now + 36 * HOUR)

    assert not nightly(now + 60 * HOUR).every_pair
    assert nightly(now + 73 * HOUR).every_pair


def test_the_command_reads_every_pair_when_asked(acme, globex, tokens, now):
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now, value=7)
    assert "0 customer and meter pairs" in printed("--day", "2026-11-20")[0]

    text, status = printed("--day", "2026-11-20", "--every-pair")

    assert status == 1
    assert "2 customer and meter pairs" in text
    assert "Stripe has usage in an hour for which we sent none" in text


@pytest.mark.django_db
def test_the_command_does_not_take_every_pair_with_what_is_in_doubt():
    with pytest.raises(CommandError, match="--every-pair goes with"):
        call_command("reconcile", "--doubtful", "--every-pair")


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_two_reconcilers_at_once_come_to_the_same_end(
    transactional_db, sent, globex, images, acme, tokens, now
):
    """F85, on one run and on two."""
    good = [
        sent(value, at=now - value * HOUR, customer=customer, meter=meter)
        for value in range(1, 6)
        for customer in (acme, globex)
        for meter in (tokens, images)
    ]
    arrive_from_elsewhere(customer=acme, meter=tokens, at=now, value=9)
    shared = runs.reconcile_recent(now=now + 2 * HOUR, seconds=0).run_id
    start = threading.Barrier(4)
    failures = []

    def worker(step) -> None:
        try:
            start.wait()
            step()
        except Exception as error:  # noqa: BLE001 - told to the test's own thread
            failures.append(error)
        finally:
            connections.close_all()

    steps = [lambda: runs.advance(run_id=shared, now=now + 2 * HOUR)] * 2 + [
        lambda: runs.reconcile(since=now - DAY, until=now, now=now + 2 * HOUR)
    ] * 2
    threads = [threading.Thread(target=worker, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert set(states(*good)) == {"settled"}
    assert [row[3:] for row in open_discrepancies()] == [(0, 9, "foreign")]
    assert Case.objects.count() == 1
    counts = ReconciliationRun.objects.values_list(
        "pair_count", "cell_count", "equal_count", "discrepancy_count", "error_count"
    )
    assert set(counts) == {(4, 21, 20, 1, 0)}
    assert ReconciliationRun.objects.filter(finished_at=None).count() == 0


# --- the command ---------------------------------------------------------------------------------


def printed(*arguments: str) -> tuple[str, int]:
    out = StringIO()
    try:
        call_command("reconcile", *arguments, stdout=out)
    except SystemExit as stop:
        return out.getvalue(), int(stop.code or 0)
    return out.getvalue(), 0


def test_the_command_tells_what_is_equal_and_what_is_not(sent, acme, globex, tokens, now):
    sent(1_000_000, at=now)
    sent(20, at=now, customer=globex)
    text, status = printed("--day", "2026-11-20")
    assert status == 0
    assert text.rstrip().endswith("Both books are equal.")
    assert "           2  equal" in text

    arrive_from_elsewhere(customer=acme, meter=tokens, at=now, value=234)
    text, status = printed("--since", "2026-11-20T12:00", "--until", "2026-11-20T13:00Z")

    assert status == 1
    [row] = [line for line in text.splitlines() if line.startswith("acme")]
    assert row.split(maxsplit=7) == [
        "acme",
        "input_tokens",
        "2026-11-20",
        "12:00",
        "1,000,000",
        "1,000,234",
        "+234",
        "Stripe has more than we ever sent",
    ]
    assert text.rstrip().endswith("1 discrepancy is open; each has a case.")


def test_the_command_fails_when_not_everything_could_be_compared(sent, stripe_at_now, now):
    sent(10, at=now)
    stripe_at_now.faults.switch_on("503", path="*event_summaries*")

    text, status = printed("--day", "2026-11-20")

    assert status == 1
    assert "Not compared: acme / input_tokens: " in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--day", "20 November"),
        ("--day", "2026-11-20", "--until", "2026-11-21"),
        ("--since", "yesterday"),
        ("--doubtful", "--until", "2026-11-21"),
        ("--doubtful", "--day", "2026-11-20"),
        ("--since", "2026-11-20", "--until", "2026-11-20"),
        (),
    ],
)
def test_an_unreadable_range_is_refused(db, arguments):
    with pytest.raises(CommandError):
        printed(*arguments)

    assert ReconciliationRun.objects.count() == 0


def test_a_range_without_an_end_reaches_past_now(db, emulator):
    assert printed("--since", f"{timezone.now() - DAY:%Y-%m-%d}")[1] == 0
    assert ReconciliationRun.objects.get().window_end > timezone.now()
    assert Decimal(0) == ReconciliationRun.objects.get().cell_count
