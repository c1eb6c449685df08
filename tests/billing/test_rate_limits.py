"""The shared buckets: exact, never above Stripe's own, and close to the limit when asked often."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from fractions import Fraction

import pytest
from django.conf import settings as django_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import rate_limits
from billing.enums import Endpoint
from billing.models import RateLimit

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

LIMITS = {"meter_events": 20, "stream": 10, "reads": 4, "account": 24}
MICROSECOND = timedelta(microseconds=1)
MILLION = 1_000_000


@pytest.fixture
def limited(settings):
    """Let the limits of a test account be in force, or others the test names."""

    def limited(*, live: bool = False, **limits: int) -> None:
        settings.STRIPE_LIVE_MODE = live
        settings.STRIPE_RATE_LIMITS = LIMITS | limits

    limited()
    return limited


class StripesBucket:
    """One second's worth, refilled evenly, as Stripe keeps it; exact."""

    def __init__(self, rate: int, at: datetime) -> None:
        self.rate, self.tokens, self.at = rate, Fraction(rate), at

    def take(self, units: int, at: datetime) -> None:
        elapsed = Fraction((at - self.at) // MICROSECOND, MILLION)
        self.tokens = min(Fraction(self.rate), self.tokens + elapsed * self.rate) - units
        self.at = at
        assert self.tokens >= 0, "Stripe would have answered 429"


def test_a_first_take_finds_a_quarter_of_a_second(limited, now):
    limited(live=True, meter_events=900)

    assert rate_limits.take(Endpoint.METER_EVENTS, want=1_000, now=now) == 225
    assert rate_limits.take(Endpoint.METER_EVENTS, want=1_000, now=now) == 0
    later = now + timedelta(seconds=0.1)
    assert rate_limits.take(Endpoint.METER_EVENTS, want=1_000, now=later) == 90
    assert [str(bucket) for bucket in RateLimit.objects.all()] == ["meter_events live"]


def test_a_take_of_nothing_touches_nothing(limited, now):
    assert rate_limits.take(Endpoint.METER_EVENTS, want=0, now=now) == 0
    rate_limits.give_back(Endpoint.METER_EVENTS, tokens=0, now=now)

    assert not RateLimit.objects.exists()


@pytest.mark.parametrize(
    ("rate", "units"), [(1, 1), (2, 2), (4, 2), (9, Fraction(9, 4)), (900, 225), (9_000, 2_250)]
)
def test_a_bucket_holds_a_quarter_second_but_at_least_two_and_at_most_a_second(rate, units):
    assert rate_limits.capacity(rate) == units * MILLION


def test_modes_have_buckets_of_their_own(limited, now):
    assert rate_limits.take(Endpoint.READS, want=9, now=now) == 2
    limited(live=True)
    assert rate_limits.take(Endpoint.READS, want=9, now=now) == 2
    assert rate_limits.take(Endpoint.READS, want=9, now=now) == 0


def test_test_mode_counts_everything_into_one_limit(limited, now):
    limited(meter_events=20, stream=20, reads=20, account=24)

    endpoints = (Endpoint.METER_EVENTS, Endpoint.STREAM, Endpoint.READS)
    granted = [rate_limits.take(endpoint, want=9, now=now) for endpoint in endpoints]

    assert granted == [5, 1, 0]


def test_a_request_costs_its_events_on_the_live_stream_and_one_elsewhere(limited):
    assert rate_limits.request_cost(Endpoint.STREAM, event_count=100) == 1
    limited(live=True)
    assert rate_limits.request_cost(Endpoint.STREAM, event_count=100) == 100
    assert rate_limits.request_cost(Endpoint.METER_EVENTS, event_count=1) == 1


def test_what_is_given_back_can_be_taken_again_and_no_more(limited, now):
    assert rate_limits.take(Endpoint.METER_EVENTS, want=5, now=now) == 5
    rate_limits.give_back(Endpoint.METER_EVENTS, tokens=3, now=now)
    assert rate_limits.take(Endpoint.METER_EVENTS, want=5, now=now) == 3

    rate_limits.give_back(Endpoint.METER_EVENTS, tokens=1_000, now=now)
    assert rate_limits.take(Endpoint.METER_EVENTS, want=1_000, now=now) == 5


def test_the_wait_ends_when_the_units_are_there(limited, now):
    assert rate_limits.wait_seconds(Endpoint.METER_EVENTS, now=now) == 0
    rate_limits.take(Endpoint.METER_EVENTS, want=5, now=now)

    assert rate_limits.wait_seconds(Endpoint.METER_EVENTS, now=now) == 0.05
    assert rate_limits.wait_seconds(Endpoint.METER_EVENTS, want=3, now=now) == 0.15
    # The account's bucket held one unit more, but refills to five in as long as this one.
    assert rate_limits.wait_seconds(Endpoint.METER_EVENTS, want=99, now=now) == 0.25
    for wait in (0.049_999, 0.05):
        at = now + timedelta(seconds=wait)
        assert rate_limits.take(Endpoint.METER_EVENTS, want=1, now=at) == (wait == 0.05)
        assert rate_limits.wait_seconds(Endpoint.METER_EVENTS, now=at) > 0


def test_a_caller_with_a_slightly_older_instant_neither_refills_nor_stalls_others(limited, now):
    rate_limits.take(Endpoint.METER_EVENTS, want=5, now=now)

    older = now - timedelta(seconds=1)
    assert rate_limits.take(Endpoint.METER_EVENTS, want=5, now=older) == 0
    assert rate_limits.take(Endpoint.METER_EVENTS, want=5, now=now + timedelta(seconds=0.1)) == 2


def test_a_clock_set_back_an_hour_goes_on_at_the_limit(limited, now):
    rate_limits.take(Endpoint.METER_EVENTS, want=5, now=now)
    back = now - timedelta(hours=1)

    assert rate_limits.take(Endpoint.METER_EVENTS, want=5, now=back) == 0
    granted = sum(
        rate_limits.take(Endpoint.METER_EVENTS, want=5, now=back + tick * timedelta(seconds=0.1))
        for tick in range(1, 101)
    )

    # Ten seconds' worth, less the debt of a quarter second.
    assert granted == 200 - 5


def test_a_caller_that_slept_with_its_instant_makes_no_burst_for_the_next(limited, now):
    rate_limits.take(Endpoint.METER_EVENTS, want=5, now=now)
    rate_limits.take(Endpoint.METER_EVENTS, want=5, now=now - timedelta(minutes=5))

    assert rate_limits.take(Endpoint.METER_EVENTS, want=5, now=now) == 0


@pytest.mark.parametrize(
    ("endpoint", "live", "rate", "want", "late_ms", "seconds"),
    [
        (Endpoint.METER_EVENTS, False, 20, 1, 40, 8),
        (Endpoint.STREAM, False, 10, 1, 100, 8),
        (Endpoint.READS, False, 4, 1, 200, 20),
        (Endpoint.METER_EVENTS, True, 900, 50, 40, 8),
        (Endpoint.STREAM, True, 9_000, 400, 40, 8),
    ],
)
def test_takers_together_come_within_five_percent_of_the_limit(
    limited, now, endpoint, live, rate, want, late_ms, seconds
):
    limited(live=live, **{endpoint.value: rate})
    dice = random.Random(4)  # noqa: S311 - what happens, not a secret
    stripe = StripesBucket(rate, now)
    ends = now + timedelta(seconds=seconds)
    takers = [now, now, now]
    granted = 0
    while (at := min(takers)) < ends:
        taker = takers.index(at)
        got = rate_limits.take(endpoint, want=want, now=at)
        stripe.take(got, at)
        granted += got
        # It works a little on what it got, or waits as told; and is woken up late.
        pause = 0.01 if got else rate_limits.wait_seconds(endpoint, now=at)
        late = dice.random() * late_ms / 1000
        takers[taker] = at + timedelta(seconds=max(pause, 0.000_001) + late)

    assert 0.95 * seconds * rate <= granted <= 1.05 * seconds * rate


def arrivals() -> st.SearchStrategy[list[tuple[int, int, int]]]:
    """Takes as (microseconds since the one before, microseconds the caller's clock is late, want).

    Several takers interleave: each reads the clock, and is let to the bucket a little later.
    """
    return st.lists(
        st.tuples(
            st.one_of(st.integers(0, 200_000), st.integers(0, 5_000_000), st.just(0)),
            st.one_of(st.just(0), st.integers(0, 300_000), st.integers(0, 60_000_000)),
            st.integers(1, 60),
        ),
        min_size=1,
        max_size=40,
    )


class Model:
    """The bucket as it should be, in fractions of a unit."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.full = min(Fraction(rate), max(Fraction(2), Fraction(rate, 4)))
        self.tokens = self.full
        self.at: datetime | None = None

    def take(self, want: int, at: datetime) -> int:
        since = self.at if self.at is not None else at
        if since - at > timedelta(seconds=5):
            self.tokens, self.at = -self.full, at
        else:
            elapsed = Fraction(max(0, (at - since) // MICROSECOND), MILLION)
            refill = min(self.full, elapsed * self.rate)
            self.tokens, self.at = min(self.full, self.tokens + refill), max(since, at)
        granted = max(0, min(want, int(self.tokens // 1)))
        self.tokens -= granted
        return granted


def simulated(rate: int, takes: list[tuple[int, int, int]], now: datetime) -> Iterator[tuple]:
    """Yield for each take: the true instant, what was granted, what the model says."""
    RateLimit.objects.all().delete()
    model = Model(rate)
    true = now
    for number, (gap, lag, want) in enumerate(takes):
        true += gap * MICROSECOND
        # The caller that makes the bucket is on time: it is full as of that caller's instant.
        told = true - lag * MICROSECOND if number else true
        granted = rate_limits.take(Endpoint.METER_EVENTS, want=want, now=told)
        yield true, granted, model.take(want, told)


@given(takes=arrivals(), rate=st.sampled_from([1, 3, 20, 37, 900, 9_000]))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_interleaved_takers_get_what_the_model_gives_and_never_meet_stripes_limit(
    limited, now, takes, rate
):
    limited(live=True, meter_events=rate)
    stripe = StripesBucket(rate, now)

    for true, granted, expected in simulated(rate, takes, now):
        assert granted == expected
        stripe.take(granted, true)


def test_the_settings_leave_room_below_stripes_limits():
    from billing_project import settings as product  # noqa: PLC0415 - not the tests' own

    assert not django_settings.STRIPE_LIVE_MODE
    assert product.STRIPE_RATE_LIMITS == LIMITS
    assert set(LIMITS) == set(Endpoint.values)
