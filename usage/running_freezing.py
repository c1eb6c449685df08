"""Freezing running values: what a period has come to becomes the next submission of it.

Stripe's meter keeps the last value by timestamp, so each submission of a period bears a later
second than the one before, and a newer one makes an unsent older one needless.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.conf import settings
from django.db import connection

from usage import wire
from usage.enums import HeldReason, ReplacementKind, Wire
from usage.freezing import store
from usage.lifecycle import State
from usage.models import FlushRun, HeldUsage, Replacement, RunningValue, Submission

SECOND = timedelta(seconds=1)
RESERVE = timedelta(hours=1)
"""The end of a period in which seconds are used one by one, so that late events find some left."""
AHEAD = timedelta(minutes=4)
"""How far ahead of now a timestamp may lie; Stripe takes 5 minutes, a minute is for the call."""
SUPERSEDED = "a newer running value stands for it"


@dataclass(frozen=True, slots=True)
class Change:
    """A running value that may have to be told, and how many events made it what it is.

    `base` is where its timestamp would lie best; None for the latest event's instant. `replaces`
    is the decision that leaves nobody to tell it, if there was one.
    """

    running: RunningValue
    event_count: int = 0
    base: datetime | None = None
    replaces: Replacement | None = None


@dataclass(frozen=True, slots=True)
class Frozen:
    """How many submissions and held rows were written."""

    submission_count: int = 0
    held_count: int = 0


@dataclass(frozen=True, slots=True)
class Period:
    """What decides about the next submission of a running value's period."""

    running_id: int
    subject: str
    stripe_customer_id: str | None
    event_name: str
    meter_is_at_stripe: bool
    end: datetime | None
    newest_value: Decimal | None
    newest_timestamp: datetime | None
    newest_state: str | None
    newest_was_late: bool

    def is_told(self, value: Decimal) -> bool:
        """Whether the newest submission, or none at all, says `value` already."""
        if self.newest_value is None:
            return value == 0
        if self.newest_state == State.SUPERSEDED and not self.newest_was_late:
            return False
        return value == self.newest_value


PERIODS = """
SELECT running.id, customer.external_id, customer.stripe_customer_id,
       meter.event_name, meter.stripe_meter_id IS NOT NULL, period.end_at,
       newest.value, newest.timestamp, newest.state, coalesce(newest.was_late, false)
FROM usage_runningvalue running
JOIN billing_customer customer ON customer.id = running.customer_id
JOIN billing_meter meter ON meter.id = running.meter_id
CROSS JOIN LATERAL (
    SELECT min(at) AS end_at FROM billing_periodboundary boundary
    WHERE boundary.customer_id = running.customer_id AND boundary.at > running.period_start
) AS period
LEFT JOIN LATERAL (
    SELECT submission.value, submission.timestamp, standing.state,
           replacement.kind = 'late' AS was_late
    FROM usage_submission submission
    JOIN usage_submissionstate standing ON standing.submission_id = submission.id
    LEFT JOIN usage_replacement replacement ON replacement.id = standing.replaced_by_id
    WHERE submission.customer_id = running.customer_id
      AND submission.meter_id = running.meter_id
      AND submission.window_start >= date_trunc('hour', running.period_start, 'UTC')
      AND submission.timestamp >= running.period_start
      AND (period.end_at IS NULL OR submission.timestamp < period.end_at)
    ORDER BY submission.window_start DESC, submission.timestamp DESC, submission.id DESC LIMIT 1
) AS newest ON true
WHERE running.id = ANY(%(ids)s)
ORDER BY running.id
"""

UNSENT = """
SELECT standing.submission_id, running.id, submission.value, submission.window_start
FROM usage_runningvalue running
JOIN usage_submissionstate standing
  ON standing.customer_id = running.customer_id AND standing.meter_id = running.meter_id
JOIN usage_submission submission ON submission.id = standing.submission_id
WHERE running.id = ANY(%(ids)s)
  AND (standing.state = 'ready' OR (standing.state = 'retry' AND standing.doubt_since IS NULL))
  AND submission.timestamp >= running.period_start
  AND NOT EXISTS (
      SELECT FROM billing_periodboundary boundary
      WHERE boundary.customer_id = running.customer_id
        AND boundary.at > running.period_start AND boundary.at <= submission.timestamp
  )
ORDER BY standing.submission_id
FOR UPDATE OF standing
"""
"""Whatever another worker has claimed in the meantime is not among them once its lock is had."""


def next_timestamp(
    *,
    base: datetime,
    previous: datetime | None,
    period_start: datetime,
    period_end: datetime | None,
) -> datetime | None:
    """Return the whole second for a period's next running value; None when none is left.

    It is the second of `base`, or in the last hour of the period the first one that is free, and
    always later than `previous`. The period is half-open and has no end while none is known.
    """
    first = _floor(period_start + SECOND - timedelta(microseconds=1))
    at = max(first, _floor(base))
    if period_end is not None:
        at = min(at, max(first, _floor(period_end - RESERVE)))
    if previous is not None:
        at = max(at, previous + SECOND)
    return at if period_end is None or at < period_end else None


def freeze(run: FlushRun, changes: Iterable[Change], *, now: datetime) -> Frozen:
    """Write the next submission of each running value that Stripe has not been told, or hold it.

    An older one that Stripe cannot have is superseded. The rows of `changes` must be locked. A
    repetition finds each value told.
    """
    by_id = {change.running.pk: change for change in changes}
    if not by_id:
        return Frozen()
    placed: list[tuple[Change, Period, datetime]] = []
    held: list[HeldUsage] = []
    for period in periods(sorted(by_id)):
        change = by_id[period.running_id]
        if period.is_told(change.running.value):
            _close_full(change.running, period, now=now)
            continue
        at = _timestamp(change, period)
        reason = _held_reason(period, at, now=now)
        if reason is None and at is not None:
            placed.append((change, period, at))
        else:
            held.append(_held(run, change, period, reason or HeldReason.PERIOD_FULL, now=now))
    decisions = _supersede_unsent([change.running for change, _, _ in placed], now=now)
    store(
        [
            _submission(
                run, change, period, at, decisions.get(period.running_id, change.replaces), now=now
            )
            for change, period, at in placed
        ],
        wire=Wire.V1,
        now=now,
    )
    for change, _, at in placed:
        change.running.reached_at = max(at, change.running.reached_at or at)
    RunningValue.objects.bulk_update(
        [change.running for change, _, _ in placed], ["reached_at"], batch_size=500
    )
    HeldUsage.objects.bulk_create(held, batch_size=2_000)
    return Frozen(len(placed), len(held))


def periods(running_ids: Sequence[int]) -> list[Period]:
    """Return what decides about the next submission of each running value, in id order."""
    with connection.cursor() as cursor:
        cursor.execute(PERIODS, {"ids": list(running_ids)})
        return [Period(*row) for row in cursor.fetchall()]


def supersede(
    rows: Sequence[tuple[int, int, Decimal, datetime]],
    *,
    running: Mapping[int, RunningValue],
    now: datetime,
) -> dict[int, Replacement]:
    """Take submissions out of the running; return the newest decision for each running value.

    `rows` are (submission id, running value's id, value, window start), locked and in id order.
    """
    decisions = Replacement.objects.bulk_create(
        [
            Replacement(
                kind=ReplacementKind.RUNNING,
                customer_id=running[running_id].customer_id,
                meter_id=running[running_id].meter_id,
                window_start=window_start,
                superseded=value,
                reason=SUPERSEDED,
                decided_at=now,
            )
            for _, running_id, value, window_start in rows
        ]
    )
    with connection.cursor() as cursor:
        cursor.execute(
            SUPERSEDE,
            {
                "now": now,
                "reason": SUPERSEDED,
                "submissions": [submission_id for submission_id, _, _, _ in rows],
                "decisions": [decision.pk for decision in decisions],
            },
        )
    return {
        running_id: decision
        for (_, running_id, _, _), decision in zip(rows, decisions, strict=True)
    }


SUPERSEDE = """
UPDATE usage_submissionstate standing
SET state = 'superseded', replaced_by_id = taken.decision_id, next_action_at = NULL,
    lease_until = NULL, reason = %(reason)s, changed_at = %(now)s
FROM unnest(%(submissions)s::bigint[], %(decisions)s::bigint[])
     AS taken (submission_id, decision_id)
WHERE standing.submission_id = taken.submission_id
"""


def _timestamp(change: Change, period: Period) -> datetime | None:
    running = change.running
    return next_timestamp(
        base=change.base or running.latest_at or running.period_start,
        previous=period.newest_timestamp,
        period_start=running.period_start,
        period_end=period.end,
    )


def _held_reason(period: Period, at: datetime | None, *, now: datetime) -> HeldReason | None:
    """Return why a running value cannot be sent, or None when it can."""
    if period.stripe_customer_id is None:
        return HeldReason.CUSTOMER_NOT_AT_STRIPE
    if not period.meter_is_at_stripe:
        return HeldReason.METER_NOT_AT_STRIPE
    if at is None:
        return HeldReason.PERIOD_FULL
    return HeldReason.AHEAD if at > now + AHEAD else None


def _held(
    run: FlushRun, change: Change, period: Period, reason: HeldReason, *, now: datetime
) -> HeldUsage:
    """Return the row that stands for a value nobody can be told; its quantity is that value."""
    running = change.running
    hour = floor_hour(running.latest_at or running.period_start)
    return HeldUsage(
        run=run,
        subject=period.subject,
        meter_id=running.meter_id,
        window_start=hour,
        segment_start=max(hour, running.period_start),
        event_count=change.event_count,
        quantity=running.value,
        reason=reason,
        held_at=now,
    )


def _close_full(running: RunningValue, period: Period, *, now: datetime) -> None:
    """Close what is held of a period that was full, when Stripe has its value after all."""
    if period.end is None:
        return  # without an end it is never full
    HeldUsage.objects.filter(
        subject=period.subject,
        meter_id=running.meter_id,
        reason=HeldReason.PERIOD_FULL,
        released_at__isnull=True,
        segment_start__gte=running.period_start,
        segment_start__lt=period.end,
    ).update(released_at=now)


def _supersede_unsent(runnings: Sequence[RunningValue], *, now: datetime) -> dict[int, Replacement]:
    if not runnings:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(UNSENT, {"ids": [running.pk for running in runnings]})
        rows = cursor.fetchall()
    return supersede(rows, running={running.pk: running for running in runnings}, now=now)


def _submission(  # noqa: PLR0913 - the parts of one row
    run: FlushRun,
    change: Change,
    period: Period,
    at: datetime,
    replaces: Replacement | None,
    *,
    now: datetime,
) -> Submission:
    running = change.running
    identifier = str(uuid.uuid4())
    stripe_customer_id = period.stripe_customer_id or ""
    payload = wire.render(
        identifier=identifier,
        event_name=period.event_name,
        stripe_customer_id=stripe_customer_id,
        value=running.value,
        timestamp=at,
    )
    return Submission(
        identifier=identifier,
        run=run,
        customer_id=running.customer_id,
        meter_id=running.meter_id,
        window_start=floor_hour(at),
        segment_start=max(floor_hour(at), running.period_start),
        event_count=change.event_count,
        value=running.value,
        timestamp=at,
        stripe_customer_id=stripe_customer_id,
        event_name=period.event_name,
        payload=payload,
        payload_hash=wire.fingerprint(payload),
        live_mode=settings.STRIPE_LIVE_MODE,
        replaces=replaces,
        created_at=now,
    )


def floor_hour(instant: datetime) -> datetime:
    """Return the start of the UTC hour."""
    return instant.replace(minute=0, second=0, microsecond=0)


def _floor(instant: datetime) -> datetime:
    return instant.replace(microsecond=0)
