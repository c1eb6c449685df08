"""A large backlog goes over the stream, where a 200 says nothing of an event (F46, F52-F54, R9)."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db.models import F

from billing.gateway.client import connection as stripe
from billing.models import Case, Customer
from tests.usage.conftest import EVENTS_PATH, report
from usage import calling, claiming, flush, sweeping, wire
from usage.enums import Outcome, Wire
from usage.lifecycle import State
from usage.models import Attempt, Submission, SubmissionState

pytestmark = pytest.mark.integration

STREAM_PATH = "/v2/billing/meter_event_stream"
SESSION_PATH = "/v2/billing/meter_event_session"
CUSTOMERS = 60
BACKLOG = 2 * CUSTOMERS


@pytest.fixture
def backlog(world, store, settings) -> int:
    """Sixty customers with two input tokens and a call each: enough for the stream."""
    settings.USAGE_STREAM_FROM = BACKLOG
    for number in range(CUSTOMERS):
        customer = stripe().v1.customers.create({"name": str(number)})
        Customer.objects.create(external_id=str(number), stripe_customer_id=customer.id)
    store(*(report(str(n), at=world.now, subject=str(n), input_tokens=2) for n in range(CUSTOMERS)))
    flush.flush_batches(now=world.now)
    return SubmissionState.objects.count()


def requests(world) -> list[int]:
    """How many events each stream request held that was taken, in order of arrival."""
    return [
        len(arrival.events)
        for arrival in world.emulator.arrivals
        if arrival.path == STREAM_PATH and arrival.events
    ]


def standings() -> set[tuple[str, str]]:
    return set(SubmissionState.objects.values_list("state", "wire"))


def test_a_backlog_goes_over_the_stream_a_hundred_events_a_request(world, backlog):
    assert backlog == BACKLOG

    assert world.deliver() == {"accepted": BACKLOG}

    assert requests(world) == [100, 20]
    assert world.calls() == []
    assert standings() == {(State.ACCEPTED, Wire.STREAM)}
    assert world.counted() == 2 * CUSTOMERS
    assert set(Attempt.objects.values_list("wire", "outcome")) == {(Wire.STREAM, "accepted")}


def test_what_streams_is_what_was_frozen(world, backlog):
    world.deliver()

    arrived = {
        (e.event_name, e.identifier, e.timestamp, e.customer, e.value)
        for arrival in world.emulator.arrivals
        for e in arrival.events
    }
    assert arrived == {
        (
            s.event_name,
            s.identifier,
            int(s.timestamp.timestamp()),
            s.stripe_customer_id,
            str(s.value),
        )
        for s in Submission.objects.all()
    }


def test_a_smaller_backlog_goes_over_v1(world, backlog, settings):
    settings.USAGE_STREAM_FROM = BACKLOG + 1

    world.deliver()

    assert requests(world) == []
    assert standings() == {(State.ACCEPTED, Wire.V1)}


def test_an_account_without_the_stream_does_not_use_it(world, backlog, settings):
    settings.USAGE_STREAM = False

    world.deliver()

    assert standings() == {(State.ACCEPTED, Wire.V1)}


@pytest.mark.parametrize("kind", ["answer_lost", "500_after", "drop_before", "503"])
def test_a_doubt_on_the_stream_is_repeated_on_the_stream(world, backlog, kind):
    """The two wires may not know each other's identifiers, so the first attempt fixes the wire."""
    world.emulator.faults.switch_on(kind, path=STREAM_PATH, count=2)
    assert world.deliver() == {"unknown": BACKLOG}
    assert standings() == {(State.IN_DOUBT, Wire.STREAM)}

    assert world.deliver(minutes=1) == {"accepted": BACKLOG}

    assert standings() == {(State.ACCEPTED, Wire.STREAM)}
    assert world.calls() == []
    assert world.counted() == 2 * CUSTOMERS
    assert set(SubmissionState.objects.values_list("doubt_since", flat=True)) == {None}


def test_a_refusal_for_now_leaves_the_wire_open(world, backlog, settings):
    """F48: what Stripe is known not to have taken may go either way next time."""
    world.emulator.faults.switch_on("429", path=STREAM_PATH, count=2)
    assert world.deliver() == {"not_accepted": BACKLOG}
    assert standings() == {(State.RETRY, "")}
    settings.USAGE_STREAM_FROM = BACKLOG + 1

    assert world.deliver(minutes=1) == {"accepted": BACKLOG}

    assert standings() == {(State.ACCEPTED, Wire.V1)}
    assert world.counted() == 2 * CUSTOMERS


def test_a_refusal_for_now_after_a_doubt_stays_with_the_stream(world, backlog, settings):
    world.emulator.faults.switch_on("answer_lost", path=STREAM_PATH, count=2)
    world.deliver()
    world.emulator.faults.switch_on("429", path=STREAM_PATH, count=2)
    settings.USAGE_STREAM_FROM = BACKLOG + 1

    assert world.deliver(minutes=1) == {"not_accepted": BACKLOG}

    assert standings() == {(State.RETRY, Wire.STREAM)}
    assert not SubmissionState.objects.filter(doubt_since=None).exists()


def test_an_expired_session_is_renewed_and_nothing_is_sent_twice(world, backlog):
    """F52: the typed refusal says that the request was not taken."""
    world.emulator.faults.switch_on("session_expired", count=1)

    assert world.deliver() == {"accepted": BACKLOG}

    assert requests(world) == [100, 20]
    assert Attempt.objects.count() == BACKLOG
    assert world.counted() == 2 * CUSTOMERS


def test_a_session_kept_past_its_time_is_renewed(world, backlog, store):
    """F52: a worker that slept finds its session over, by Stripe's clock."""
    world.deliver()
    world.advance(minutes=20)
    store(*(report(f"x{n}", at=None, subject=str(n)) for n in range(CUSTOMERS)), at=world.now)
    flush.flush_batches(now=world.now)

    assert world.deliver() == {"accepted": BACKLOG}

    verdicts = [
        arrival.status for arrival in world.emulator.arrivals if arrival.path == STREAM_PATH
    ]
    assert verdicts == [200, 200, 401, 200, 200]


@pytest.mark.parametrize("kind", ["403", "400"])
def test_a_refused_session_sends_the_backlog_over_v1(world, backlog, kind):
    """F55: nothing was sent under the session there is not, so no money is marked."""
    world.emulator.faults.switch_on(kind, path=SESSION_PATH)
    world.advance(hours=1)

    assert world.deliver() == {"accepted": BACKLOG}

    assert standings() == {(State.ACCEPTED, Wire.V1)}
    case = Case.objects.get()
    assert (case.kind, case.reference) == ("misconfigured", "stream")


@pytest.mark.parametrize("kind", ["503", "429", "drop_before"])
def test_a_session_that_cannot_be_had_now_sends_the_backlog_over_v1(world, backlog, kind):
    world.emulator.faults.switch_on(kind, path=SESSION_PATH)

    assert world.deliver() == {"accepted": BACKLOG}

    assert standings() == {(State.ACCEPTED, Wire.V1)}
    assert not Case.objects.exists()


def claims(world, *, limit=BACKLOG) -> list[claiming.Claim]:
    return list(
        claiming.claim(clock=lambda: world.now, stored_wire="", wire=Wire.STREAM, limit=limit)
    )


@pytest.mark.parametrize("position", [0, 1, 49, 50, 98, 99])
def test_one_event_that_has_a_request_refused_is_found_and_the_others_go(world, backlog, position):
    """F53."""
    taken = claims(world, limit=100)
    broken = json.dumps(
        json.loads(taken[position].payload) | {"payload": {"value": {"not": "a text"}}}
    )
    taken[position] = replace(
        taken[position], payload=broken, payload_hash=wire.fingerprint(broken)
    )

    ended = {claim.identifier: verdict for claim, verdict in calling.call(taken)}

    refused = ended.pop(taken[position].identifier)
    assert (refused.outcome, refused.state, refused.next_wire) == (
        Outcome.NOT_ACCEPTED,
        State.RETRY,
        Wire.V1,
    )
    assert {verdict.state for verdict in ended.values()} == {State.ACCEPTED}
    assert len(ended) == 99
    assert sum(requests(world)) == 99
    assert len(requests(world)) <= 7


def test_an_event_refused_after_a_doubt_is_unproven(world, backlog):
    [taken] = claims(world, limit=1)
    nothing = '{"timestamp": 1}'
    doubted = replace(
        taken, doubt_since=world.now, payload=nothing, payload_hash=wire.fingerprint(nothing)
    )

    [(_, verdict)] = calling.call([doubted])

    assert (verdict.outcome, verdict.state) == (Outcome.REJECTED, State.UNPROVEN)


def test_a_worker_that_sleeps_past_its_lease_streams_nothing(world, backlog, monkeypatch):
    """F46."""
    taken = claims(world)
    monkeypatch.setattr(calling.time, "monotonic", lambda: taken[0].lease_ends)

    verdicts = {verdict.state for _, verdict in calling.call(taken[:100])}

    assert verdicts == {State.RETRY}
    assert requests(world) == []


def test_a_worker_that_dies_leaves_its_streamed_events_in_doubt(world, backlog):
    """F40, F41."""
    calling.call(claims(world)[:100])

    assert world.deliver(seconds=61) == {"stalled": BACKLOG, "accepted": BACKLOG}

    assert standings() == {(State.ACCEPTED, Wire.STREAM)}
    assert world.counted() == 2 * CUSTOMERS


def test_a_changed_payload_is_not_streamed_and_its_neighbours_are(world, backlog):
    """F34, I5."""
    taken = claims(world, limit=3)
    taken[1] = replace(taken[1], payload=taken[1].payload.replace('"2"', '"3"') + " ")

    ended = calling.call(taken)

    assert sorted(verdict.state for _, verdict in ended) == ["accepted", "accepted", "rejected"]
    assert requests(world) == [2]


def test_hours_of_outage_put_no_more_into_doubt_than_was_in_flight(world, backlog):
    """F51: one stream request in doubt is a hundred rows, and no second hundred follows."""
    world.emulator.faults.switch_on("503")
    world.deliver()
    doubted = SubmissionState.objects.filter(state=State.IN_DOUBT).count()

    for _ in range(20):
        world.deliver(minutes=5)

    assert SubmissionState.objects.filter(state=State.IN_DOUBT).count() == doubted
    world.emulator.faults.clear()
    world.deliver(minutes=5)
    assert {state for state, _ in standings()} == {State.ACCEPTED}
    assert world.counted() == 2 * CUSTOMERS


def test_an_hour_with_an_unproven_part_is_not_added_to(world, store, meters):
    """F88: frozen by what stands in it, for as long as it does."""
    store(report("a", at=world.now, input_tokens=10))
    flush.flush_batches(now=world.now)
    SubmissionState.objects.filter(meter=meters.calls).update(next_action_at=None)
    world.emulator.faults.switch_on("answer_lost", path=EVENTS_PATH, count=1)
    world.deliver()
    sweeping.sweep(now=world.now + timedelta(hours=23))
    assert SubmissionState.objects.filter(state=State.UNPROVEN).count() == 1
    # One more of that hour, and one of the hour before.
    store(
        report("b", at=world.now, input_tokens=5),
        report("c", at=world.now - timedelta(hours=1), input_tokens=7),
    )
    flush.flush_batches(now=world.now)
    SubmissionState.objects.filter(meter=meters.calls, state=State.READY).update(
        next_action_at=None
    )

    assert world.deliver(hours=24) == {"accepted": 1}

    assert world.counted() == 10 + 7
    waiting = SubmissionState.objects.get(state=State.READY, next_action_at__isnull=False)
    assert waiting.submission.value == 5
    SubmissionState.objects.filter(state=State.UNPROVEN).update(state=State.ACCEPTED)
    assert world.deliver() == {"accepted": 1}


def test_attempts_of_both_wires_are_numbered_without_a_gap(world, backlog):
    world.emulator.faults.switch_on("429", path=STREAM_PATH, count=2)
    world.deliver()
    world.deliver(minutes=1)

    assert not SubmissionState.objects.exclude(attempt_count=2).exists()
    assert Attempt.objects.filter(number=F("submission__standing__attempt_count")).count() == (
        BACKLOG
    )
