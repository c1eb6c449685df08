"""Staying below Stripe's limits: buckets in the database, shared by every worker and host.

A caller takes units before it claims work, so that what it claims may leave at once, and gives
back what it did not use. A bucket refills evenly at its limit and holds a quarter of a second's
worth; Stripe's own holds a whole second's, and the rest of that is room for calls that reach it
closer together than they were granted.

The limits are in `settings.STRIPE_RATE_LIMITS`. In live mode Stripe counts v1 meter events and the
stream apart from the account, the stream by the event. In test mode everything we call counts to
the account's one limit, the stream by the request: there each take is drawn from the bucket of
the account, too. Source: docs.stripe.com/rate-limits, and the usage-based billing guide's page on
recording usage for the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from django.conf import settings
from django.db import connection

from billing import steps
from billing.enums import Endpoint
from billing.models import RateLimit

MILLION = 1_000_000
"""Whole numbers keep the books exact: at n units a second, n millionths come each microsecond."""
BURST_SECONDS = Fraction(1, 4)
SMALLEST_BURST = 2
"""With room for one unit only, a caller that wakes up late would lose what came meanwhile."""
CLOCK_STEP_SECONDS = 5
"""An instant so long before the newest one is a clock set back, and not a slower caller's."""


def take(endpoint: Endpoint, *, want: int, now: datetime) -> int:
    """Return how many units, up to `want`, may be used now: all that are there, maybe 0.

    What is returned is taken, and committed, when this returns. `now` is the database's clock. An
    instant before one that was seen refills nothing. A clock set back by more than
    `CLOCK_STEP_SECONDS` starts the bucket anew from a debt of its capacity, so that neither the
    step nor a caller that slept with its instant makes anything of the same second twice.
    """
    if want < 1:
        return 0
    buckets = _buckets(endpoint)
    params = _params(buckets, now) | {"want": want}
    rows = _taken(params)
    if len(rows) < len(buckets):
        # In a transaction of its own: who waits for a bucket somebody else is just making must not
        # hold one that the other wants.
        with steps.commit("billing.rate_limits.fill"), connection.cursor() as cursor:
            cursor.execute(FILL, params)
        rows = _taken(params)
    return int(rows[0][0])


def _taken(params: dict[str, Any]) -> list[tuple[int]]:
    with steps.commit("billing.rate_limits.take"), connection.cursor() as cursor:
        cursor.execute(TAKE, params)
        rows: list[tuple[int]] = cursor.fetchall()
        return rows


def give_back(endpoint: Endpoint, *, tokens: int, now: datetime) -> None:
    """Put back units that were taken and not used. The bucket holds no more than its capacity."""
    if tokens < 1:
        return
    with steps.commit("billing.rate_limits.give_back"), connection.cursor() as cursor:
        cursor.execute(GIVE_BACK, _params(_buckets(endpoint), now) | {"tokens": tokens})


def wait_seconds(endpoint: Endpoint, *, want: int = 1, now: datetime) -> float:
    """Return how long until `want` units are there if nobody else takes any; 0 when they are.

    More than a bucket holds never are: then, how long until it is full. Changes nothing.
    """
    waits = [0.0]
    capacities = {name.value: (rate, capacity(rate)) for name, rate in _buckets(endpoint)}
    for bucket in RateLimit.objects.filter(
        endpoint__in=capacities, live_mode=settings.STRIPE_LIVE_MODE
    ):
        rate, full = capacities[bucket.endpoint]
        missing = min(want * MILLION, full) - bucket.millionths
        due_at = bucket.refilled_at + timedelta(microseconds=-(-missing // rate))
        waits.append((due_at - now).total_seconds())
    return max(waits)


def request_cost(endpoint: Endpoint, *, event_count: int) -> int:
    """Return what one request with `event_count` events costs, in the endpoint's units."""
    counts_events = endpoint == Endpoint.STREAM and settings.STRIPE_LIVE_MODE
    return event_count if counts_events else 1


def capacity(rate: int) -> int:
    """Return what a bucket refilled with `rate` units a second holds, in millionths.

    A quarter of a second's worth, or two units if that is more; never beyond one second's worth,
    which is what Stripe's own bucket holds.
    """
    burst = max(Fraction(SMALLEST_BURST), rate * BURST_SECONDS)
    return int(min(Fraction(rate), burst) * MILLION)


def _buckets(endpoint: Endpoint) -> Sequence[tuple[Endpoint, int]]:
    """Return the buckets a call draws from, with the units a second each is refilled with."""
    limits = settings.STRIPE_RATE_LIMITS
    names = {endpoint} if settings.STRIPE_LIVE_MODE else {endpoint, Endpoint.ACCOUNT}
    return [(name, limits[name.value]) for name in names]


def _params(buckets: Sequence[tuple[Endpoint, int]], now: datetime) -> dict[str, Any]:
    return {
        "names": [name.value for name, _ in buckets],
        "rates": [rate for _, rate in buckets],
        "capacities": [capacity(rate) for _, rate in buckets],
        "live_mode": settings.STRIPE_LIVE_MODE,
        "now": now,
        "step": timedelta(seconds=CLOCK_STEP_SECONDS),
    }


# Locked in one order by everybody. The rows are read as they are once the lock is held, and the
# update takes over what was read there, so two takers never spend the same unit.
_LOCKED = """
WITH wanted AS (
    SELECT * FROM unnest(%(names)s::text[], %(rates)s::bigint[], %(capacities)s::bigint[])
        AS wanted (endpoint, rate, capacity)
), bucket AS (
    SELECT stored.id, wanted.capacity, wanted.rate, stored.millionths, stored.refilled_at,
           stored.refilled_at > %(now)s::timestamptz + %(step)s::interval AS was_set_back
    FROM billing_ratelimit stored
    JOIN wanted ON wanted.endpoint = stored.endpoint
    WHERE stored.live_mode = %(live_mode)s
    ORDER BY stored.endpoint
    FOR UPDATE OF stored
), filled AS (
    SELECT id, capacity,
           CASE WHEN was_set_back THEN %(now)s::timestamptz
                ELSE greatest(refilled_at, %(now)s::timestamptz) END AS refilled_at,
           CASE WHEN was_set_back THEN -capacity
                -- What is added is bounded too, and not only the sum: a debt is paid by the second
                -- that made it and not by the years before.
                ELSE least(capacity, millionths + least(capacity, rate * 1000000 * greatest(
                    0, extract(epoch FROM %(now)s::timestamptz - refilled_at)))) END AS millionths
    FROM bucket
)
"""

TAKE = (
    _LOCKED  # noqa: S608 - two constants
    + """
, given AS (
    -- Nothing is taken from one bucket while the other is yet to be made.
    SELECT CASE WHEN count(*) < cardinality(%(names)s::text[]) THEN 0
                ELSE greatest(0, least(%(want)s, floor(min(millionths) / 1000000)))
           END::bigint AS units
    FROM filled
)
UPDATE billing_ratelimit stored
SET millionths = filled.millionths - given.units * 1000000, refilled_at = filled.refilled_at
FROM filled, given
WHERE stored.id = filled.id
RETURNING given.units
"""
)

FILL = """
INSERT INTO billing_ratelimit (endpoint, live_mode, millionths, refilled_at)
SELECT endpoint, %(live_mode)s, capacity, %(now)s
FROM unnest(%(names)s::text[], %(rates)s::bigint[], %(capacities)s::bigint[])
    AS wanted (endpoint, rate, capacity)
ORDER BY endpoint
ON CONFLICT (endpoint, live_mode) DO NOTHING
"""
"""A new bucket is full: once in its life it may give a quarter of a second's worth too early."""

GIVE_BACK = (
    _LOCKED
    + """
UPDATE billing_ratelimit stored
SET millionths = least(filled.capacity, filled.millionths + %(tokens)s * 1000000),
    refilled_at = filled.refilled_at
FROM filled
WHERE stored.id = filled.id
"""
)
