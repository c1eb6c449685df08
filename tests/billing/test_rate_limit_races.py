"""Takers on connections of their own never spend the same unit."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connections, transaction

from billing import rate_limits
from billing.enums import Endpoint
from billing.models import RateLimit

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]

TAKERS = 6


@pytest.fixture(autouse=True)
def limits(settings):
    settings.STRIPE_RATE_LIMITS = {"meter_events": 400, "stream": 400, "reads": 400, "account": 480}


def in_threads(*works) -> None:
    def run(work) -> None:
        work()
        connections.close_all()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)


def test_takers_at_one_instant_share_one_bucket_from_its_first_moment(now):
    granted: list[int] = []
    start = threading.Barrier(TAKERS)

    def taker() -> None:
        start.wait(timeout=10)
        granted.extend(rate_limits.take(Endpoint.METER_EVENTS, want=1, now=now) for _ in range(30))

    in_threads(*[taker] * TAKERS)

    assert len(granted) == TAKERS * 30
    assert sum(granted) == 100
    assert RateLimit.objects.count() == 2


def test_takers_of_two_endpoints_share_the_account_without_a_deadlock(now):
    granted: list[int] = []
    start = threading.Barrier(TAKERS)

    def taker(endpoint: Endpoint) -> None:
        start.wait(timeout=10)
        granted.extend(rate_limits.take(endpoint, want=1, now=now) for _ in range(30))

    in_threads(*[lambda: taker(Endpoint.METER_EVENTS)] * 3, *[lambda: taker(Endpoint.STREAM)] * 3)

    assert len(granted) == TAKERS * 30
    assert sum(granted) == 120


def test_a_taker_that_waits_for_another_sees_what_that_one_left(now):
    rate_limits.take(Endpoint.METER_EVENTS, want=1, now=now)
    holds, waits = threading.Event(), threading.Event()
    second: list[int] = []

    def first_taker() -> None:
        with transaction.atomic():
            assert rate_limits.take(Endpoint.METER_EVENTS, want=90, now=now) == 90
            holds.set()
            assert waits.wait(timeout=10)

    def second_taker() -> None:
        assert holds.wait(timeout=10)
        # It waits for the lock from here on, unless it is wrong.
        threading.Timer(0.3, waits.set).start()
        second.append(
            rate_limits.take(Endpoint.METER_EVENTS, want=90, now=now + timedelta(seconds=0.01))
        )

    in_threads(first_taker, second_taker)

    # 100 less 91, and four more in a hundredth of a second.
    assert second == [13]
