"""Each submission reaches Stripe once, or stands in a state that says what is known.

The emulator's own books decide; the failure numbers (F41) are explained in docs/reliability.md.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from django.conf import settings

from billing.gateway import client
from billing.gateway.client import connection as stripe
from billing.models import Case, Customer, Meter
from tests.usage.conftest import EVENTS_PATH, report
from usage import calling, claiming, flush, outcomes, sweeping, wire
from usage.enums import Outcome, Wire
from usage.lifecycle import State
from usage.models import Attempt, Submission, SubmissionState

pytestmark = pytest.mark.integration


@pytest.fixture
def submission(world, store, meters) -> Submission:
    """Ten input tokens, flushed; the count meter's submission is out of the way."""
    store(report("a", at=world.now, input_tokens=10))
    flush.flush_batches(now=world.now)
    SubmissionState.objects.filter(meter=meters.calls).update(next_action_at=None)
    return Submission.objects.get(meter=meters.input)


def attempt(claim: claiming.Claim) -> calling.Verdict:
    """Make the call for one claim and return how it ended."""
    [(_, verdict)] = calling.call([claim])
    return verdict


def standing(submission: Submission) -> SubmissionState:
    return SubmissionState.objects.get(submission=submission)


def test_an_accepted_submission_is_counted_once(world, submission):
    assert world.deliver() == {"accepted": 1}

    assert world.counted() == 10
    row = standing(submission)
    assert (row.state, row.attempt_count, row.lease_until, row.doubt_since) == (
        State.ACCEPTED,
        1,
        None,
        None,
    )
    attempt = Attempt.objects.get()
    assert (attempt.number, attempt.outcome, attempt.started_at) == (1, "accepted", world.now)
    assert attempt.request_id.startswith("req_")
    assert world.deliver(hours=1) == {}


def test_what_arrives_is_what_was_frozen(world, submission):
    world.deliver()

    [arrival] = [a for a in world.emulator.arrivals if a.path == EVENTS_PATH]
    assert arrival.params == {
        "event_name": "mk_input_tokens",
        "identifier": submission.identifier,
        "payload": {"stripe_customer_id": submission.stripe_customer_id, "value": "10"},
        "timestamp": str(int(submission.timestamp.timestamp())),
    }


@pytest.mark.parametrize("kind", ["answer_lost", "500_after", "reset_mid_body"])
def test_a_lost_answer_is_a_doubt_and_the_repetition_proves_it_arrived(world, submission, kind):
    """F41, F42, F43: the duplicate 400 is proof of delivery."""
    world.emulator.faults.switch_on(kind, path=EVENTS_PATH, count=1)

    assert world.deliver() == {"unknown": 1}
    row = standing(submission)
    assert (row.state, row.doubt_since) == (State.IN_DOUBT, world.now)
    assert world.deliver(seconds=5) == {"duplicate": 1}

    assert world.counted() == 10
    assert standing(submission).state == State.ACCEPTED
    assert standing(submission).doubt_since is None
    assert [a.outcome for a in Attempt.objects.order_by("number")] == ["unknown", "duplicate"]


@pytest.mark.parametrize("kind", ["drop_before", "500_before", "503"])
def test_a_request_that_got_nowhere_is_a_doubt_and_the_repetition_is_taken(world, submission, kind):
    world.emulator.faults.switch_on(kind, path=EVENTS_PATH, count=1)

    assert world.deliver() == {"unknown": 1}
    assert world.deliver(seconds=5) == {"accepted": 1}

    assert world.counted() == 10


def test_a_stored_500_does_not_come_back_for_ever(world, submission):
    """F44: each attempt has an Idempotency-Key of its own."""
    world.emulator.faults.switch_on("500_after", path=EVENTS_PATH, count=1)

    world.deliver()
    world.deliver(seconds=5)

    keys = [a.idempotency_key for a in world.emulator.arrivals if a.path == EVENTS_PATH]
    assert len(set(keys)) == 2
    assert world.counted() == 10


@pytest.mark.parametrize("kind", ["429", "429_without_reason", "lock_timeout", "409"])
def test_a_refusal_for_now_is_no_doubt(world, submission, kind):
    """F48, F49."""
    world.emulator.faults.switch_on(kind, path=EVENTS_PATH, count=1)

    assert world.deliver() == {"not_accepted": 1}
    row = standing(submission)
    assert (row.state, row.doubt_since) == (State.RETRY, None)
    assert world.now < row.next_action_at <= world.now + timedelta(seconds=2)
    assert world.deliver(seconds=1 / 4) == {}
    assert world.deliver(seconds=5) == {"accepted": 1}

    assert world.counted() == 10


def test_a_refusal_for_now_leaves_an_older_doubt_open(world, submission):
    """R3: what was asked before may still have been taken."""
    began = world.now
    world.emulator.faults.switch_on("answer_lost", path=EVENTS_PATH, count=1)
    world.deliver()
    world.emulator.faults.switch_on("429", path=EVENTS_PATH, count=1)

    assert world.deliver(seconds=5) == {"not_accepted": 1}

    row = standing(submission)
    assert (row.state, row.doubt_since) == (State.RETRY, began)


def test_an_inactive_meters_usage_waits_until_it_is_active_again(world, submission, meters):
    """F59."""
    meter = Meter.objects.get(pk=meters.input.pk)
    stripe().v1.billing.meters.deactivate(meter.stripe_meter_id)

    assert world.deliver() == {"not_accepted": 1}
    row = standing(submission)
    assert (row.state, row.doubt_since, row.wire) == (State.RETRY, None, "")
    assert Case.objects.get(closed_at=None).kind == "meter"
    assert world.deliver(hours=2) == {}
    stripe().v1.billing.meters.reactivate(meter.stripe_meter_id)

    assert world.deliver(minutes=6) == {"accepted": 1}
    assert world.counted() == 10
    assert not Case.objects.filter(closed_at=None).exists()


def test_a_final_refusal_becomes_a_case(world, submission):
    stripe().v1.customers.delete(submission.stripe_customer_id)

    assert world.deliver() == {"rejected": 1}

    row = standing(submission)
    assert (row.state, row.next_action_at) == (State.REJECTED, None)
    case = Case.objects.get()
    assert (case.kind, case.reference, case.quantity) == ("rejected", submission.identifier, 10)
    assert case.reason == row.reason
    assert world.counted() == 0
    assert world.deliver(days=1) == {}


def test_a_refusal_after_a_doubt_proves_nothing(world, submission):
    """The first call may have been counted before the customer was deleted."""
    world.emulator.faults.switch_on("answer_lost", path=EVENTS_PATH, count=1)
    world.deliver()
    stripe().v1.customers.delete(submission.stripe_customer_id)

    world.deliver(seconds=5)

    assert standing(submission).state == State.UNPROVEN
    assert Case.objects.get().kind == "unproven"


def test_a_refusal_nobody_knows_stays_in_doubt(world, submission):
    """F56: an error we have never seen may not be one of refusal."""
    claim = world.claim()
    strange = json.dumps(json.loads(submission.payload) | {"identifier": "x" * 101})
    claim = replace(claim, payload=strange, payload_hash=wire.fingerprint(strange))

    verdict = attempt(claim)

    assert (verdict.outcome, verdict.state, verdict.http_status) == ("unknown", State.IN_DOUBT, 400)


def test_a_refused_key_rejects_no_money(world, submission, settings):
    """F55."""
    settings.STRIPE_SECRET_KEY = "nonsense"
    client._connection.cache_clear()

    assert world.deliver() == {"not_accepted": 1}

    assert standing(submission).state == State.RETRY
    assert Case.objects.get().kind == "misconfigured"
    settings.STRIPE_SECRET_KEY = "sk_test_emulator"
    client._connection.cache_clear()
    assert world.deliver(seconds=5) == {"accepted": 1}
    assert world.counted() == 10


def test_a_doubt_older_than_stripes_memory_is_never_sent_again(world, submission):
    """F45: 23 hours after the first unknown outcome only the summary may decide."""
    world.emulator.faults.switch_on("answer_lost", path=EVENTS_PATH, count=1)
    world.deliver()
    reached = len(world.calls())

    assert world.deliver(hours=23) == {"unproven": 1}

    assert standing(submission).state == State.UNPROVEN
    assert Case.objects.get().quantity == 10
    world.deliver(days=2)
    assert len(world.calls()) == reached
    assert world.counted() == 10


def test_a_doubt_is_counted_from_the_first_unknown_outcome(world, submission):
    """R3: a later one must not put off the end of Stripe's memory."""
    began = world.now
    world.emulator.faults.switch_on("answer_lost", path=EVENTS_PATH, count=2)
    world.deliver()

    assert world.deliver(hours=22) == {"unknown": 1}

    assert standing(submission).doubt_since == began
    assert world.deliver(hours=1) == {"unproven": 1}


def test_a_doubt_is_counted_from_the_calls_beginning(world, submission):
    """Stripe may have taken it at once and answered long after."""
    claim = world.claim()

    outcomes.record(
        [(claim, calling.Verdict(Outcome.UNKNOWN, State.IN_DOUBT))],
        now=world.now + timedelta(seconds=25),
    )

    assert standing(submission).doubt_since == claim.started_at == world.now


def test_a_worker_that_dies_in_a_doubt_leaves_it_as_old_as_it_was(world, submission):
    began = world.now
    world.emulator.faults.switch_on("answer_lost", path=EVENTS_PATH, count=1)
    world.deliver()
    world.advance(hours=1)
    world.claim()

    world.advance(seconds=61)
    sweeping.sweep(now=world.now)

    assert standing(submission).state == State.IN_DOUBT
    assert standing(submission).doubt_since == began


def test_a_doubt_just_inside_stripes_memory_is_sent_again(world, submission):
    world.emulator.faults.switch_on("answer_lost", path=EVENTS_PATH, count=1)
    world.deliver()

    assert world.deliver(hours=22, minutes=59) == {"duplicate": 1}
    assert world.counted() == 10


def test_usage_too_old_for_stripe_is_flagged_and_not_sent(world, submission):
    """F58."""
    assert world.deliver(days=34, hours=12) == {"expired": 1}

    assert standing(submission).state == State.EXPIRED
    assert Case.objects.get().kind == "expired"
    assert world.calls() == []


def test_a_sweep_takes_a_bounded_number_of_rows_and_the_next_the_rest(world, store, monkeypatch):
    monkeypatch.setattr(sweeping, "ROWS_PER_SWEEP", 2)
    store(*(report(str(n), at=world.now - timedelta(hours=n), input_tokens=1) for n in range(3)))
    flush.flush_batches(now=world.now)

    swept = [world.deliver(days=35).get("expired"), world.deliver().get("expired")]

    assert swept == [2, 2]
    assert Case.objects.filter(kind="expired").count() == 4


def test_a_worker_that_dies_before_the_call_leaves_a_doubt(world, submission):
    """F40: the attempt is on record, so nobody may assume it was never made."""
    began = world.now
    world.claim()
    assert standing(submission).state == State.SENDING

    assert world.deliver(seconds=59) == {}
    assert world.deliver(seconds=2) == {"stalled": 1, "accepted": 1}

    assert world.counted() == 10
    assert Attempt.objects.get(number=1).outcome is None
    assert Attempt.objects.get(number=1).started_at == began


def test_a_worker_that_dies_after_the_call_bills_once(world, submission):
    """F41."""
    claim = world.claim()
    attempt(claim)

    assert world.deliver(seconds=61) == {"stalled": 1, "duplicate": 1}

    assert world.counted() == 10


def test_a_late_outcome_changes_nothing(world, submission):
    """F47: the first worker wakes up after another took over."""
    claim = world.claim()
    world.advance(seconds=61)
    sweeping.sweep(now=world.now)
    second = world.claim()
    before = standing(submission)

    refused = calling.Verdict(Outcome.REJECTED, State.REJECTED, "late news")
    outcomes.record([(claim, refused)], now=world.now)

    row = standing(submission)
    assert (row.state, row.attempt_count) == (before.state, before.attempt_count)
    assert (row.state, row.attempt_count) == (State.SENDING, second.attempt_number)
    assert Attempt.objects.get(number=1).outcome is None


def test_a_late_outcome_does_not_end_a_doubt(world, submission):
    """F47: the lease is over, and nobody has taken over yet."""
    claim = world.claim()
    world.advance(seconds=61)
    sweeping.sweep(now=world.now)

    outcomes.record([(claim, calling.Verdict(Outcome.NOT_ACCEPTED, State.RETRY))], now=world.now)

    assert standing(submission).state == State.IN_DOUBT
    assert standing(submission).doubt_since == claim.started_at
    assert Attempt.objects.get().outcome is None


def test_a_worker_that_sleeps_past_its_lease_does_not_send(world, submission, monkeypatch):
    """F46: the check right before the first byte."""
    claim = world.claim()
    monkeypatch.setattr(calling.time, "monotonic", lambda: claim.lease_ends)

    verdict = attempt(claim)

    assert (verdict.outcome, verdict.state) == ("not_accepted", State.RETRY)
    assert world.calls() == []


def test_a_worker_stopped_while_it_read_the_clock_does_not_send(world, submission, monkeypatch):
    """F46: it claims by an instant gone stale, perhaps one before a doubt grew too old."""
    elapsed = 0.0
    monkeypatch.setattr(calling.time, "monotonic", lambda: elapsed)

    def clock() -> datetime:
        nonlocal elapsed
        elapsed += settings.USAGE_LEASE_SECONDS
        return world.now

    [claim] = claiming.claim(clock=clock, stored_wire="", wire=Wire.V1, limit=1)

    assert attempt(claim).state == State.RETRY
    assert world.calls() == []


def test_a_doubt_too_old_is_not_claimed_before_the_sweep_came_by(world, submission):
    """F45: the sweep may have been skipped, or have passed a moment ago."""
    world.emulator.faults.switch_on("answer_lost", path=EVENTS_PATH, count=1)
    world.deliver()

    world.advance(hours=23)

    assert world.claim() is None
    assert standing(submission).state == State.IN_DOUBT


def test_usage_too_old_is_not_claimed_before_the_sweep_came_by(world, submission):
    """F58."""
    world.advance(days=34, hours=12)

    assert world.claim() is None


def test_a_changed_payload_is_not_sent(world, submission):
    """F34, I5."""
    claim = world.claim()
    claim = replace(claim, payload=claim.payload.replace('"10"', '"11"'))

    assert attempt(claim).state == State.REJECTED
    assert world.calls() == []


def test_a_payload_changed_after_a_doubt_proves_nothing(world, submission):
    """F34: what was sent before the change may have been counted."""
    world.emulator.faults.switch_on("answer_lost", path=EVENTS_PATH, count=1)
    world.deliver()
    world.advance(seconds=5)
    claim = world.claim()
    claim = replace(claim, payload=claim.payload.replace('"10"', '"11"'))

    assert attempt(claim).state == State.UNPROVEN
    assert world.counted() == 10


def test_submissions_of_the_other_mode_are_not_sent(world, submission, settings):
    """F61, I15."""
    settings.STRIPE_LIVE_MODE = True

    assert world.deliver() == {}
    assert world.calls() == []


def test_one_pair_has_one_call_in_flight_and_others_go_on(world, store, meters):
    """F49: two cells of one customer and meter wait for each other; another meter does not."""
    store(
        report("a", at=world.now, input_tokens=1),
        report("b", at=world.now - timedelta(hours=1), input_tokens=2),
    )
    flush.flush_batches(now=world.now)

    taken = claiming.claim(clock=lambda: world.now, stored_wire="", wire=Wire.V1, limit=9)

    assert [claim.meter_id for claim in taken] == [meters.input.pk, meters.calls.pk]
    assert world.claim() is None


@pytest.fixture
def backlog(world, store) -> int:
    """Twenty customers with a token and a call each; return how many submissions wait."""
    for number in range(20):
        customer = stripe().v1.customers.create({"name": str(number)})
        Customer.objects.create(external_id=str(number), stripe_customer_id=customer.id)
    store(*(report(str(n), at=world.now, subject=str(n), input_tokens=1) for n in range(20)))
    flush.flush_batches(now=world.now)
    return SubmissionState.objects.count()


def test_silences_in_a_row_end_the_pass(world, backlog):
    """F51: an outage puts little into doubt."""
    world.emulator.faults.switch_on("503", path=EVENTS_PATH)

    assert world.deliver() == {"unknown": 5}

    assert SubmissionState.objects.filter(state=State.READY).count() == backlog - 5
    world.emulator.faults.clear()
    assert world.deliver(minutes=1) == {"accepted": backlog}
    assert world.counted() == 20


@pytest.mark.parametrize("kind", ["503", "drop_before", "answer_lost"])
def test_hours_of_outage_put_no_more_into_doubt_than_its_first_pass(world, backlog, kind):
    """F51: while Stripe is silent a pass only asks whether it answers."""
    world.emulator.faults.switch_on(kind)
    world.deliver()
    calls = len(world.calls())

    for _ in range(60):
        assert world.deliver(minutes=5) == {}

    assert len(world.calls()) == calls == 5
    assert SubmissionState.objects.filter(state=State.IN_DOUBT).count() == 5
    world.emulator.faults.clear()
    world.deliver(minutes=5)
    assert set(SubmissionState.objects.values_list("state", flat=True)) == {State.ACCEPTED}
    assert world.counted() == 20


def test_backoff_grows_and_is_bounded(world, submission):
    world.emulator.faults.switch_on("429", path=EVENTS_PATH)
    waits = []
    for _ in range(12):
        world.deliver()
        wait = standing(submission).next_action_at - world.now
        waits.append(wait.total_seconds())
        world.advance(seconds=wait.total_seconds())

    assert all(1 <= wait <= 300 for wait in waits)
    assert waits[3] > waits[0]
    assert min(waits[9:]) >= 150
