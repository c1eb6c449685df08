"""Delivery claims no more than the limit shared by all workers allows (F48)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from billing.gateway.client import connection as stripe
from billing.models import Customer
from tests.usage.conftest import report
from usage import delivery, flush
from usage.models import Attempt

pytestmark = pytest.mark.integration

RATE = 20
BURST = 5
"""A quarter of a second's worth, which a bucket holds."""


def test_a_pass_sends_no_faster_than_the_shared_limit(world, store, settings, monkeypatch):
    settings.STRIPE_RATE_LIMITS = {
        "meter_events": RATE,
        "stream": RATE,
        "reads": RATE,
        "account": 5 * RATE,
    }
    began = world.now

    def elapsed() -> float:
        return (world.now - began).total_seconds()

    # A wait is over when it is asked for, and a millisecond more lest it be rounded to nothing.
    waits = SimpleNamespace(
        monotonic=elapsed, sleep=lambda seconds: world.advance(seconds=seconds + 0.001)
    )
    monkeypatch.setattr(delivery, "time", waits)
    for number in range(8):
        customer = stripe().v1.customers.create({"name": str(number)})
        Customer.objects.create(external_id=str(number), stripe_customer_id=customer.id)
    store(*(report(str(n), at=world.now, subject=str(n), input_tokens=1) for n in range(8)))
    flush.flush_batches(now=world.now)

    assert world.deliver() == {"accepted": 16}

    seconds = [
        (at - began).total_seconds()
        for at in Attempt.objects.order_by("started_at").values_list("started_at", flat=True)
    ]
    assert all(at * RATE >= sent - BURST for sent, at in enumerate(seconds, start=1))
    # And no slower than it must, but for the length of a wait.
    assert seconds[-1] * RATE <= 16 - BURST + 1
