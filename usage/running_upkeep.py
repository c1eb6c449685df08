"""Keeping running values right: periods cut late, usage released, events voided, doubts too old.

Each needs more than the events of one run, so it is done here, one small transaction at a time,
and `running.fold` stays cheap.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import connection

from billing import cases, steps
from billing.enums import Aggregation, CaseKind
from billing.models import MeterVersion, PeriodBoundary
from usage.clock import Clock
from usage.lifecycle import State
from usage.models import FlushRun, RunningName, RunningValue, Submission, SubmissionState
from usage.running import TOTALS, Key, cut_keys, lock, mark_stale, move_on, read_totals
from usage.running_freezing import SUPERSEDED, Change, freeze, periods, supersede

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ROWS_PER_PASS = 500
AHEAD_WAITS = timedelta(minutes=1)
"""How long a value held because its second lies ahead waits for the clock to come near."""


@dataclass(frozen=True, slots=True)
class Tended:
    """What one upkeep did."""

    released_count: int = 0
    recounted_count: int = 0
    resent_count: int = 0


DUE = """
SELECT held.id, customer.id, held.meter_id, held.window_start
FROM usage_heldusage held
JOIN billing_meter meter
  ON meter.id = held.meter_id AND meter.aggregation IN ('max', 'unique', 'latest')
JOIN billing_customer customer ON customer.external_id = held.subject
WHERE held.released_at IS NULL AND held.replaces_id IS NULL
  AND customer.stripe_customer_id IS NOT NULL AND meter.stripe_meter_id IS NOT NULL
  AND (held.reason IN ('unknown_customer', 'customer_not_at_stripe', 'meter_not_at_stripe')
       OR (held.reason = 'ahead' AND held.held_at <= %(waited)s))
ORDER BY held.id LIMIT %(limit)s
FOR UPDATE OF held SKIP LOCKED
"""

COUNTED = """
WITH placed AS (
    SELECT event.id, event.occurred_at, meter.aggregation, true AS counts,
           event.data ->> version.value_property AS given,
           CASE WHEN meter.aggregation <> 'unique'
                THEN (event.data ->> version.value_property)::numeric
                     * ('1e' || meter.scale)::numeric END AS number
    FROM usage_usageevent event
    JOIN usage_ingestbatch batch ON batch.id = event.batch_id
    JOIN usage_flushrun run ON run.id = batch.run_id
    JOIN billing_customer customer ON customer.external_id = event.subject
    JOIN billing_meterversion version
      ON version.id = ANY(run.meter_versions) AND version.event_type = event.type
     AND event.occurred_at >= version.effective_from
     AND (version.effective_until IS NULL OR event.occurred_at < version.effective_until)
    JOIN billing_meter meter ON meter.id = version.meter_id
    WHERE customer.id = %(customer)s AND meter.id = %(meter)s
      -- No event is received before it occurred by more than callers' clocks may run ahead, and
      -- batches, unlike events, have an index that tells where to begin.
      AND event.batch_id >= (SELECT min(id) FROM usage_ingestbatch WHERE received_at >= %(since)s)
      AND event.occurred_at >= %(start)s
      AND (%(end)s::timestamptz IS NULL OR event.occurred_at < %(end)s)
      AND event.voids IS NULL
      AND event.data ->> version.value_property IS NOT NULL
      AND NOT EXISTS (
          SELECT FROM usage_usageevent void
          JOIN usage_ingestbatch its_batch ON its_batch.id = void.batch_id
          WHERE void.voids = event.id AND its_batch.run_id IS NOT NULL
      )
)
"""

COUNT_NUMBERS = f"{COUNTED} SELECT {TOTALS} FROM placed"  # noqa: S608 - of constants

COUNT_NAMES = f"""
{COUNTED}
INSERT INTO usage_runningname (running_id, digest)
SELECT DISTINCT %(running)s::bigint, substr(sha256(convert_to(given, 'UTF8')), 1, 16)
FROM placed
"""  # noqa: S608 - as above

TOO_LONG_IN_DOUBT = """
SELECT standing.submission_id, standing.customer_id, standing.meter_id,
       coalesce((SELECT max(at) FROM billing_periodboundary boundary
                 WHERE boundary.customer_id = standing.customer_id
                   AND boundary.at <= submission.timestamp), 'epoch'::timestamptz),
       submission.value, submission.window_start
FROM usage_submissionstate standing
JOIN usage_submission submission ON submission.id = standing.submission_id
JOIN billing_meter meter
  ON meter.id = standing.meter_id AND meter.aggregation IN ('max', 'unique', 'latest')
WHERE (standing.state = 'unproven'
       OR (standing.state IN ('in_doubt', 'retry') AND standing.doubt_since <= %(doubt_ends)s))
ORDER BY standing.submission_id LIMIT %(limit)s
"""


def tend(*, clock: Clock, seconds: float) -> Tended:
    """Put right what flushing has left in question; begin nothing new after `seconds`.

    A repetition, or another worker at the same time, finds what is left, or nothing.
    """
    ends = time.monotonic() + seconds
    cut(now=clock())
    released = recounted = 0
    while time.monotonic() < ends and (rows := release(now=clock())):
        released += rows
    while time.monotonic() < ends and recount(now=clock()):
        recounted += 1
    resent = 0
    while time.monotonic() < ends and (rows := resend(now=clock())):
        resent += rows
    return Tended(released, recounted, resent)


def cut(*, now: datetime) -> int:
    """Have the periods on both sides of each boundary learned late counted again; return them."""
    with steps.commit("usage.running.cut"):
        found = lock(cut_keys(now=now), now=now)
        mark_stale(found)
        return len(found)


def release(*, now: datetime, limit: int = ROWS_PER_PASS) -> int:
    """Have the periods counted again whose usage is held and can be sent by now.

    Returns the held rows closed. What the period came to is not theirs to say: it is counted anew
    from the events, under today's boundaries.
    """
    with steps.commit("usage.running.release"):
        with connection.cursor() as cursor:
            cursor.execute(DUE, {"waited": now - AHEAD_WAITS, "limit": limit})
            rows = cursor.fetchall()
        if not rows:
            return 0
        keys = {
            (customer_id, meter_id, start)
            for _, customer_id, meter_id, hour in rows
            for start in _periods_of_hour(customer_id, hour)
        }
        mark_stale(lock(keys, now=now))
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE usage_heldusage SET released_at = %s WHERE id = ANY(%s)",
                [now, [held_id for held_id, _, _, _ in rows]],
            )
        return len(rows)


def recount(*, now: datetime) -> bool:
    """Count one stale running value again from all its events, and freeze what it has become.

    Returns whether there was one. A period cut meanwhile is counted with all its parts.
    """
    with steps.commit("usage.running.recount"):
        picked = RunningValue.objects.filter(stale=True).order_by("pk").first()
        if picked is None:
            return False
        boundaries = list(
            PeriodBoundary.objects.filter(
                customer_id=picked.customer_id, at__gt=picked.period_start
            )
            .order_by("at")
            .values_list("at", flat=True)
        )
        locked = lock(_parts(picked, boundaries), now=now)
        if any(
            not _parts(running, boundaries) <= {_key(each) for each in locked} for running in locked
        ):
            return True  # it grew over another boundary before it was locked: once more
        for running in locked:
            end = next((at for at in boundaries if at > running.period_start), None)
            _count_again(running, end=end, now=now)
        freeze(_empty_run(now), [Change(running) for running in locked], now=now)
        return True


def resend(*, now: datetime, limit: int = ROWS_PER_PASS) -> int:
    """Supersede running values in doubt for too long, and send the present ones; return how many.

    Whether they arrived does not matter: the present value bears a later second, so Stripe keeps
    that one either way. Their cases are closed. Call it with no transaction open.
    """
    with steps.commit("usage.running.resend"):
        keys = {row[1:4] for row in _too_long_in_doubt(now=now, limit=limit)}
        cut_now = cut_keys(now=now, customer_ids=sorted({key[0] for key in keys}))
        runnings = {_key(running): running for running in lock(keys | cut_now, now=now)}
        mark_stale([running for key, running in runnings.items() if key in cut_now])
        rows = [
            row
            for row in _too_long_in_doubt(now=now, limit=limit, locked=True)
            if row[1:4] in runnings
        ]
        if not rows:
            return 0
        ids = [row[0] for row in rows]
        SubmissionState.objects.filter(pk__in=ids).exclude(state=State.UNPROVEN).update(
            state=State.UNPROVEN, changed_at=now
        )
        by_id = {running.pk: running for running in runnings.values()}
        decisions = supersede(
            [
                (submission_id, runnings[customer_id, meter_id, start].pk, value, window_start)
                for submission_id, customer_id, meter_id, start, value, window_start in rows
            ],
            running=by_id,
            now=now,
        )
        for identifier in Submission.objects.filter(pk__in=ids).values_list(
            "identifier", flat=True
        ):
            cases.close_case(CaseKind.UNPROVEN, identifier, SUPERSEDED)
        changes = [
            Change(by_id[pk], base=now, replaces=decision)
            for pk, decision in decisions.items()
            # A stale one is about to be counted again, and is told then.
            if not by_id[pk].stale and _key(by_id[pk]) not in cut_now
        ]
        freeze(_empty_run(now), changes, now=now)
        return len(rows)


def _too_long_in_doubt(
    *, now: datetime, limit: int, locked: bool = False
) -> list[tuple[int, int, int, datetime, Decimal, datetime]]:
    query = TOO_LONG_IN_DOUBT + ("FOR UPDATE OF standing" if locked else "")
    with connection.cursor() as cursor:
        cursor.execute(
            query,
            {
                "doubt_ends": now - timedelta(hours=settings.USAGE_DOUBT_HOURS),
                "limit": limit,
            },
        )
        return list(cursor.fetchall())


def _periods_of_hour(customer_id: int, hour: datetime) -> list[datetime]:
    """Return the starts of the customer's periods that share an instant with the UTC hour."""
    boundaries = PeriodBoundary.objects.filter(customer_id=customer_id)
    inside = boundaries.filter(at__gt=hour, at__lt=hour + timedelta(hours=1))
    before = boundaries.filter(at__lte=hour).order_by("-at").values_list("at", flat=True).first()
    return [before or EPOCH, *inside.values_list("at", flat=True)]


def _parts(running: RunningValue, boundaries: Sequence[datetime]) -> set[Key]:
    """Return the key of a running value, and of each period that a boundary cuts off it."""
    reached = running.reached_at or running.period_start
    starts = [at for at in boundaries if running.period_start < at <= reached]
    return {
        (running.customer_id, running.meter_id, start) for start in (running.period_start, *starts)
    }


def _key(running: RunningValue) -> Key:
    return running.customer_id, running.meter_id, running.period_start


def _count_again(running: RunningValue, *, end: datetime | None, now: datetime) -> None:
    """Set a locked running value to what its events in [`period_start`, `end`) come to."""
    arguments: dict[str, Any] = {
        "running": running.pk,
        "customer": running.customer_id,
        "meter": running.meter_id,
        "start": running.period_start,
        "end": end,
        "since": running.period_start - timedelta(seconds=settings.USAGE_AHEAD_SECONDS),
    }
    aggregation = Aggregation(running.meter.aggregation)
    running.value, running.latest_at, running.latest_event_id = Decimal(0), None, None
    running.reached_at, running.stale, running.changed_at = None, False, now
    with connection.cursor() as cursor:
        cursor.execute(COUNT_NUMBERS, arguments)
        totals = read_totals(*cursor.fetchone())
        name_count = 0
        if aggregation == Aggregation.UNIQUE:
            RunningName.objects.filter(running=running).delete()
            cursor.execute(COUNT_NAMES, arguments)
            name_count = cursor.rowcount
    if totals is not None:
        move_on(running, totals, aggregation=aggregation, new_names=name_count)
    [period] = periods([running.pk])
    reached = [at for at in (running.reached_at, period.newest_timestamp) if at is not None]
    running.reached_at = max(reached, default=None)
    running.save()


def _empty_run(now: datetime) -> FlushRun:
    """Return a run that claimed nothing: what it freezes was counted from earlier runs' events."""
    return FlushRun.objects.create(
        started_at=now,
        batch_count=0,
        event_count=0,
        meter_versions=sorted(MeterVersion.objects.values_list("pk", flat=True)),
    )
