"""What is repeated is what was frozen, whatever has changed in the meantime (I5, I15)."""

from __future__ import annotations

import pytest

from billing.models import Customer, Meter
from tests.usage.conftest import EVENTS_PATH, report
from usage import fence, flush
from usage.models import Submission, SubmissionState

pytestmark = pytest.mark.integration


@pytest.fixture
def submission(world, store, meters) -> Submission:
    """Ten input tokens, flushed; the count meter's submission is out of the way."""
    store(report("a", at=world.now, input_tokens=10))
    flush.flush_batches(now=world.now)
    SubmissionState.objects.filter(meter=meters.calls).update(next_action_at=None)
    return Submission.objects.get(meter=meters.input)


def test_a_repetition_hours_later_is_the_same_event(world, submission):
    """I5: neither the clock nor the catalogue of the day of the retry is in it."""
    world.emulator.faults.switch_on("answer_lost", path=EVENTS_PATH, count=1)
    world.advance(minutes=7)
    world.deliver()
    Customer.objects.update(stripe_customer_id="cus_other")
    Meter.objects.filter(pk=submission.meter_id).update(unit="words")

    assert world.deliver(hours=5) == {"duplicate": 1}

    first, second = [
        arrival.params for arrival in world.emulator.arrivals if arrival.path == EVENTS_PATH
    ]
    assert first == second
    assert first["timestamp"] == str(int(submission.timestamp.timestamp()))
    assert first["payload"]["stripe_customer_id"] == submission.stripe_customer_id


def test_submissions_of_the_other_mode_stay_when_the_fence_is_lifted(world, submission, settings):
    """F61, I15: whoever lifts it for a live key has not made live usage of the tests'."""
    settings.STRIPE_LIVE_MODE = True
    fence.lift(reason="the account goes live", by="ada", lost_since=None, now=world.now)
    assert fence.is_open()

    assert world.claim() is None

    settings.STRIPE_LIVE_MODE = False
    fence.lift(reason="a mistake", by="ada", lost_since=None, now=world.now)
    assert world.claim().submission_id == submission.pk
