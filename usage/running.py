"""Running values: the max, unique and latest of a billing period, moved on by each flush.

They do not add up, so `folding` leaves them alone. A run reads the events it has claimed and no
others; what only a look at all events can tell is marked stale here and counted by
`running_upkeep`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias

from django.db import connection

from billing.enums import Aggregation
from billing.models import Meter
from usage.enums import HeldReason
from usage.models import FlushRun, HeldUsage, RunningValue
from usage.running_freezing import Change, Frozen, freeze

CUT_DAYS = 36
"""A period older than what Stripe takes can be cut no more."""
RUNNING = tuple(aggregation.value for aggregation in Aggregation if aggregation.is_running)

EARLIEST = datetime.min.replace(tzinfo=UTC)

Key: TypeAlias = tuple[int, int, datetime]
"""Customer id, meter id, start of the period: what a running value is found and locked by."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What events come to whose names are counted elsewhere; for those, the numbers are 0."""

    largest: Decimal
    latest_at: datetime
    latest_event_id: int
    latest: Decimal


@dataclass(frozen=True, slots=True)
class Group:
    """The events of one run, subject, meter and period.

    For a subject that is no customer yet, periods are not known: it is grouped by UTC hour.
    `totals` leaves voids out, and what runs have voided; None when nothing else is left.
    """

    subject: str
    customer_id: int | None
    meter_id: int
    period_start: datetime
    event_count: int
    has_void: bool
    totals: Totals | None


TOTALS = """
    coalesce(max(number) FILTER (WHERE counts), 0),
    max(occurred_at) FILTER (WHERE counts),
    max(ARRAY[extract(epoch FROM occurred_at), id, coalesce(number, 0)]) FILTER (WHERE counts)
"""
"""Of `placed` events; `read_totals` reads them."""


def read_totals(
    largest: Decimal, latest_at: datetime | None, latest: Sequence[Decimal] | None
) -> Totals | None:
    """Return the columns of `TOTALS` as a value; None when no event counts."""
    if latest_at is None or latest is None:
        return None
    _, event_id, number = latest
    return Totals(largest, latest_at, int(event_id), number)


PLACED = """
WITH fed AS (
    SELECT event.id, event.subject, event.occurred_at, event.voids IS NOT NULL AS is_void,
           version.meter_id, meter.aggregation, meter.scale,
           event.data ->> version.value_property AS given
    FROM usage_usageevent event
    JOIN billing_meterversion version
      ON version.id = ANY(%(versions)s) AND version.event_type = event.type
     AND event.occurred_at >= version.effective_from
     AND (version.effective_until IS NULL OR event.occurred_at < version.effective_until)
    JOIN billing_meter meter
      ON meter.id = version.meter_id AND meter.aggregation IN ('max', 'unique', 'latest')
    -- By the span first, as in `folding`.
    WHERE event.batch_id BETWEEN %(first)s AND %(last)s
      AND event.batch_id + 0 = ANY(%(batches)s::bigint[])
      AND event.data ->> version.value_property IS NOT NULL
), customers AS (
    SELECT id, external_id FROM billing_customer
    WHERE external_id IN (SELECT subject FROM fed)
), periods AS (
    SELECT customer_id, subject, start_at,
           lead(start_at, 1, 'infinity') OVER (PARTITION BY customer_id ORDER BY start_at) AS end_at
    FROM (
        SELECT id AS customer_id, external_id AS subject, 'epoch'::timestamptz AS start_at
        FROM customers
        UNION
        SELECT customers.id, external_id, boundary.at
        FROM customers JOIN billing_periodboundary boundary ON boundary.customer_id = customers.id
    ) AS starts
), placed AS (
    SELECT fed.*, periods.customer_id,
           coalesce(periods.start_at, date_trunc('hour', fed.occurred_at, 'UTC')) AS period_start,
           CASE WHEN aggregation <> 'unique'
                THEN given::numeric * ('1e' || scale)::numeric END AS number,
           NOT is_void AND NOT EXISTS (
               SELECT FROM usage_usageevent void
               JOIN usage_ingestbatch batch ON batch.id = void.batch_id
               WHERE void.voids = fed.id AND batch.run_id IS NOT NULL
           ) AS counts
    FROM fed
    LEFT JOIN periods
      ON periods.subject = fed.subject
     AND fed.occurred_at >= periods.start_at AND fed.occurred_at < periods.end_at
)
"""

GROUPS = f"""
{PLACED}
SELECT subject, customer_id, meter_id, period_start, count(*), bool_or(is_void), {TOTALS}
FROM placed
GROUP BY 1, 2, 3, 4
ORDER BY 1, 3, 4
"""  # noqa: S608 - of constants

NAMES = f"""
{PLACED}, added AS (
    INSERT INTO usage_runningname (running_id, digest)
    SELECT DISTINCT running.id, substr(sha256(convert_to(placed.given, 'UTF8')), 1, 16)
    FROM placed
    JOIN usage_runningvalue running
      ON running.customer_id = placed.customer_id AND running.meter_id = placed.meter_id
     AND running.period_start = placed.period_start
    WHERE placed.aggregation = 'unique' AND placed.counts AND running.id = ANY(%(running)s)
    ON CONFLICT DO NOTHING
    RETURNING running_id
)
SELECT running_id, count(*) FROM added GROUP BY running_id
"""  # noqa: S608 - as above

CUT = """
SELECT running.customer_id, running.meter_id, running.period_start, boundary.at
FROM usage_runningvalue running
JOIN billing_periodboundary boundary
  ON boundary.customer_id = running.customer_id
 AND boundary.at > running.period_start AND boundary.at <= running.reached_at
WHERE running.reached_at > %(oldest)s
  AND (%(customers)s::bigint[] IS NULL OR running.customer_id = ANY(%(customers)s::bigint[]))
"""

INSERT_MISSING = """
INSERT INTO usage_runningvalue
    (customer_id, meter_id, period_start, value, stale, changed_at)
SELECT customer_id, meter_id, period_start, 0, %(stale)s, %(now)s
FROM unnest(%(customers)s::bigint[], %(meters)s::bigint[], %(starts)s::timestamptz[])
     AS wanted (customer_id, meter_id, period_start)
ORDER BY 1, 2, 3
ON CONFLICT (customer_id, meter_id, period_start) DO NOTHING
"""

LOCK = """
SELECT running.* FROM usage_runningvalue running
JOIN unnest(%(customers)s::bigint[], %(meters)s::bigint[], %(starts)s::timestamptz[])
     AS wanted (customer_id, meter_id, period_start)
  USING (customer_id, meter_id, period_start)
ORDER BY running.customer_id, running.meter_id, running.period_start
FOR UPDATE OF running
"""


def fold(
    run: FlushRun, *, batch_ids: Sequence[int], versions: Sequence[int], now: datetime
) -> Frozen:
    """Move running values on by the batches' events and freeze those that changed.

    Takes part in the run's transaction. A value that a void or a boundary learned late leaves in
    question is marked stale and not sent; `running_upkeep.tend` counts it again.
    """
    if not Meter.objects.filter(aggregation__in=RUNNING, versions__in=list(versions)).exists():
        return Frozen()
    found = groups(batch_ids=batch_ids, versions=versions)
    known = {
        (group.customer_id, group.meter_id, group.period_start): group
        for group in found
        if group.customer_id is not None
    }
    cut = cut_keys(now=now, customer_ids=sorted({customer_id for customer_id, _, _ in known}))
    fresh: list[RunningValue] = []
    stale: list[RunningValue] = []
    for running in lock(known.keys() | cut, now=now, made_stale=False):
        key = (running.customer_id, running.meter_id, running.period_start)
        is_stale = running.stale or key in cut or known[key].has_void
        (stale if is_stale else fresh).append(running)
    mark_stale(stale)
    added = _add_names(fresh, _arguments(batch_ids, versions))
    aggregations = dict(
        Meter.objects.filter(aggregation__in=RUNNING).values_list("pk", "aggregation")
    )
    changes = []
    for running in fresh:
        group = known[running.customer_id, running.meter_id, running.period_start]
        before = running.value
        if group.totals is not None:
            running.changed_at = now
            move_on(
                running,
                group.totals,
                aggregation=Aggregation(aggregations[running.meter_id]),
                new_names=added.get(running.pk, 0),
            )
        if running.value != before:
            changes.append(Change(running, event_count=group.event_count))
    RunningValue.objects.bulk_update(
        fresh,
        ["value", "latest_at", "latest_event_id", "reached_at", "changed_at"],
        batch_size=500,
    )
    frozen = freeze(run, changes, now=now)
    unknown = _hold_unknown(run, found, now=now)
    return Frozen(frozen.submission_count, frozen.held_count + unknown)


def groups(*, batch_ids: Sequence[int], versions: Sequence[int]) -> list[Group]:
    """Return the events of batches that feed running values, by subject, meter and period."""
    with connection.cursor() as cursor:
        cursor.execute(GROUPS, _arguments(batch_ids, versions))
        return [Group(*(*row[:6], read_totals(*row[6:]))) for row in cursor.fetchall()]


def _arguments(batch_ids: Sequence[int], versions: Sequence[int]) -> dict[str, Any]:
    return {
        "batches": list(batch_ids),
        "first": min(batch_ids),
        "last": max(batch_ids),
        "versions": list(versions),
    }


def cut_keys(*, now: datetime, customer_ids: Sequence[int] | None = None) -> set[Key]:
    """Return the periods that begin at, or are cut by, a boundary learned after usage beyond it.

    Of the customers given, or of all. None are left once each was counted again.
    """
    keys: set[Key] = set()
    with connection.cursor() as cursor:
        cursor.execute(
            CUT,
            {
                "oldest": now - timedelta(days=CUT_DAYS),
                "customers": None if customer_ids is None else list(customer_ids),
            },
        )
        for customer_id, meter_id, start, boundary in cursor.fetchall():
            keys |= {(customer_id, meter_id, start), (customer_id, meter_id, boundary)}
    return keys


def lock(keys: Collection[Key], *, now: datetime, made_stale: bool = True) -> list[RunningValue]:
    """Lock the running values of `keys` until the transaction ends, made first where missing.

    One that was missing is stale, unless its caller says that no event of it was flushed before.

    All are inserted before any is locked, each time in the order of their keys, so that two runs
    wait for each other instead of deadlocking.
    """
    if not keys:
        return []
    ordered = sorted(keys)
    arguments: dict[str, Any] = {
        "customers": [customer_id for customer_id, _, _ in ordered],
        "meters": [meter_id for _, meter_id, _ in ordered],
        "starts": [start for _, _, start in ordered],
        "now": now,
        "stale": made_stale,
    }
    with connection.cursor() as cursor:
        cursor.execute(INSERT_MISSING, arguments)
    return list(RunningValue.objects.raw(LOCK, arguments))


def mark_stale(runnings: Sequence[RunningValue]) -> None:
    """Have locked running values counted again from the events."""
    RunningValue.objects.filter(pk__in=[running.pk for running in runnings], stale=False).update(
        stale=True
    )


def _add_names(runnings: Sequence[RunningValue], values: Mapping[str, Any]) -> dict[int, int]:
    """Store the names that are new to their period; return how many, by running value."""
    with connection.cursor() as cursor:
        cursor.execute(NAMES, {**values, "running": [running.pk for running in runnings]})
        return dict(cursor.fetchall())


def move_on(
    running: RunningValue, totals: Totals, *, aggregation: Aggregation, new_names: int
) -> None:
    """Take the totals of further events into a running value, which is not saved."""
    is_later = (totals.latest_at, totals.latest_event_id) > (
        running.latest_at or EARLIEST,
        running.latest_event_id or 0,
    )
    if aggregation == Aggregation.MAX:
        running.value = max(running.value, totals.largest)
    elif aggregation == Aggregation.UNIQUE:
        running.value += new_names
    elif is_later:
        running.value = totals.latest
    if is_later:
        running.latest_at = totals.latest_at
        running.latest_event_id = totals.latest_event_id
    running.reached_at = max(running.reached_at or totals.latest_at, totals.latest_at)


def _hold_unknown(run: FlushRun, groups: Sequence[Group], *, now: datetime) -> int:
    """Hold usage of subjects that are no customers; its value is not known without a period."""
    held = [
        HeldUsage(
            run=run,
            subject=group.subject,
            meter_id=group.meter_id,
            window_start=group.period_start,
            segment_start=group.period_start,
            event_count=group.event_count,
            quantity=0,
            reason=HeldReason.UNKNOWN_CUSTOMER,
            held_at=now,
        )
        for group in groups
        if group.customer_id is None
    ]
    HeldUsage.objects.bulk_create(held, batch_size=2_000)
    return len(held)
