"""Alarms on age: usage that grows old before Stripe has counted it, long before it is too old.

They only tell people. What is too old is expired by `delivery`, and what Stripe does not show is
decided by `settlement`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection

from billing import cases, steps
from billing.enums import CaseKind
from usage.claiming import STRIPE_ACCEPTS_DAYS

WARNING_AGE = timedelta(hours=24)
PAGE_AGE = timedelta(days=7)
"""From here on somebody is woken: four weeks are left, and an outage hides for no more than one."""
STORED_FOR = timedelta(hours=1)
"""What came in late is old at once; it alarms only when it has not moved on within this time."""
LAG_AGE = timedelta(hours=12)
"""A third of what settlement waits before it believes in absence (A4)."""
UNREAD_AGE = timedelta(hours=36)
"""By then every hour has been read at Stripe, or nobody reads it."""
SUMMARY_LAG = "summary lag"
STRIPE_ACCEPTS = timedelta(days=STRIPE_ACCEPTS_DAYS)


@dataclass(frozen=True, slots=True)
class Level:
    """An age above which usage that Stripe does not have yet is a case, and when that is due."""

    reference: str
    age: timedelta
    deadline: Callable[[datetime, datetime], datetime]
    """From now, and the moment of the oldest use."""


WARNING = Level("warning: 24 hours", WARNING_AGE, lambda _, oldest: oldest + PAGE_AGE)
PAGE = Level(
    "page: 7 days",
    PAGE_AGE,
    lambda now, oldest: min(now + timedelta(hours=4), oldest + STRIPE_ACCEPTS),
)
LEVELS = (WARNING, PAGE)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Old usage of one meter in one place. `units` are the meter's own, None where not additive."""

    meter: str
    unit: str
    place: str
    count: int
    units: Decimal | None
    oldest: datetime


WAITING = """
WITH waiting AS (
    SELECT standing.meter_id, 'submission' AS place, submission.timestamp AS used_at,
           submission.value AS units
    FROM usage_submissionstate standing
    JOIN usage_submission submission ON submission.id = standing.submission_id
    WHERE standing.state IN ('ready', 'sending', 'retry', 'in_doubt', 'unproven')
      AND submission.timestamp <= %(used_by)s AND submission.created_at <= %(stored_by)s
    UNION ALL
    SELECT meter_id, 'held hour', segment_start, quantity FROM usage_heldusage
    WHERE released_at IS NULL AND segment_start <= %(used_by)s AND held_at <= %(stored_by)s
    UNION ALL
    SELECT version.meter_id, 'unfolded event', event.occurred_at,
           CASE WHEN event.voids IS NULL THEN 1 ELSE -1 END
           * CASE meter.aggregation
             WHEN 'count' THEN 1
             WHEN 'sum' THEN coalesce((event.data ->> version.value_property)::numeric, 0)
                             * ('1e' || meter.scale)::numeric END
    FROM usage_ingestbatch batch
    JOIN usage_usageevent event ON event.batch_id = batch.id
    JOIN billing_meterversion version
      ON version.event_type = event.type AND version.effective_from <= event.occurred_at
     AND (version.effective_until IS NULL OR event.occurred_at < version.effective_until)
    JOIN billing_meter meter ON meter.id = version.meter_id
    WHERE batch.run_id IS NULL AND batch.received_at <= %(stored_by)s
      AND event.occurred_at <= %(used_by)s
      -- Tells the index on batches, which knows ranges only, where to begin.
      AND event.batch_id >= (SELECT min(id) FROM usage_ingestbatch WHERE run_id IS NULL)
)
SELECT meter.slug, meter.unit, waiting.place, count(*),
       CASE WHEN meter.aggregation IN ('sum', 'count')
            THEN trim_scale(sum(waiting.units) * ('1e-' || meter.scale)::numeric) END,
       min(waiting.used_at)
FROM waiting JOIN billing_meter meter ON meter.id = waiting.meter_id
GROUP BY meter.id, waiting.place
ORDER BY meter.slug, waiting.place
"""

LAGGING = """
SELECT meter.slug, meter.unit, 'submission', count(*),
       CASE WHEN meter.aggregation IN ('sum', 'count')
            THEN trim_scale(sum(submission.value) * ('1e-' || meter.scale)::numeric) END,
       min(called.last_at)
FROM usage_submissionstate standing
JOIN usage_submission submission ON submission.id = standing.submission_id
JOIN billing_meter meter ON meter.id = submission.meter_id
CROSS JOIN LATERAL (
    SELECT max(coalesce(attempt.finished_at, attempt.started_at)) AS last_at
    FROM usage_attempt attempt WHERE attempt.submission_id = submission.id
) called
WHERE standing.state = 'accepted' AND called.last_at <= %(lag_by)s AND (
    called.last_at <= %(unread_by)s
    OR EXISTS (
        SELECT FROM usage_observation seen
        WHERE (seen.customer_id, seen.meter_id, seen.window_start)
              = (submission.customer_id, submission.meter_id, submission.window_start)
          AND seen.observed_at >= called.last_at + %(lag)s))
GROUP BY meter.id
ORDER BY meter.slug
"""


def waiting(*, age: timedelta, now: datetime) -> tuple[Waiting, ...]:
    """Return what was used `age` ago or earlier and is not with Stripe yet, by meter and place.

    Submissions that are to be sent or in doubt, held usage, and batches not flushed. What we have
    had for less than an hour is on its ordinary way and not among it.
    """
    return _asked(WAITING, used_by=now - age, stored_by=now - STORED_FOR)


def lagging(*, now: datetime) -> tuple[Waiting, ...]:
    """Return what Stripe took and its total did not show 12 hours after the last call.

    Twelve hours without a read prove nothing, so a submission counts once a read that late left it
    unsettled, or after 36 hours without one. `oldest` is the oldest last call.
    """
    return _asked(LAGGING, lag=LAG_AGE, lag_by=now - LAG_AGE, unread_by=now - UNREAD_AGE)


def report(*, now: datetime) -> None:
    """Open a case for each level of age that is reached, and close those that are no longer.

    A repetition brings the open cases up to date.
    """
    found = {level: waiting(age=level.age, now=now) for level in LEVELS}
    late = lagging(now=now)
    with steps.commit("usage.alarms.report"):
        for level, rows in found.items():
            if not rows:
                cases.close_case(CaseKind.AGEING, level.reference, "nothing is that old any more")
                continue
            oldest = min(row.oldest for row in rows)
            cases.open_case(
                kind=CaseKind.AGEING,
                reference=level.reference,
                reason=f"Not with Stripe after {_span(level.age)}: {_told(rows)}. The oldest is of"
                f" {oldest:%Y-%m-%d %H:%M} UTC, which Stripe takes until"
                f" {oldest + STRIPE_ACCEPTS:%Y-%m-%d %H:%M} UTC.",
                deadline_at=level.deadline(now, oldest),
            )
        if not late:
            cases.close_case(CaseKind.AGEING, SUMMARY_LAG, "Stripe's totals show all of it")
            return
        oldest = min(row.oldest for row in late)
        cases.open_case(
            kind=CaseKind.AGEING,
            reference=SUMMARY_LAG,
            reason=f"Taken by Stripe and not seen in its totals {_span(LAG_AGE)} later:"
            f" {_told(late)}. The oldest call was at {oldest:%Y-%m-%d %H:%M} UTC.",
            deadline_at=now + timedelta(hours=24),
        )


def _asked(query: str, **parameters: Any) -> tuple[Waiting, ...]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return tuple(Waiting(*row) for row in cursor.fetchall())


def _told(rows: Iterable[Waiting]) -> str:
    places: defaultdict[tuple[str, str], list[Waiting]] = defaultdict(list)
    for row in rows:
        places[row.meter, row.unit].append(row)
    told = []
    for (meter, unit), here in places.items():
        each = ", ".join(
            f"{row.count:,} {row.place}{'' if row.count == 1 else 's'}"
            + ("" if row.units is None else f" ({row.units:,f} {unit})")
            for row in here
        )
        told.append(f"{meter}: {each}")
    return "; ".join(told)


def _span(age: timedelta) -> str:
    hours = int(age.total_seconds() // 3600)
    return f"{hours} hours" if age <= WARNING_AGE else f"{age.days} days"
