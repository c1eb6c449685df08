"""The read model: what quarter hours came to, written with each flush and rebuilt from the events.

A quarter, because every time zone's hours and days begin at one. Sums and counts are added up; of
max, unique and latest meters every different value is kept. Asking it is `questions`'; the money's
path never reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from billing import steps
from billing.models import Meter
from usage.folding import KEPT, MODEL_CHARACTERS, await_folds
from usage.models import FlushRun
from usage.running import RUNNING

HOUR = timedelta(hours=1)
EVENTS_PER_STEP = 500_000
FOLDS_WAIT_SECONDS = 2
"""Whoever comes to fold waits behind us, and the database lets nobody wait for longer than 3 s."""

ADD_QUARTERS = f"""
INSERT INTO usage_quarterusage
    (subject, meter_id, quarter_start, model, quantity, event_count)
SELECT subject, meter_id, quarter_start, model, quantity, event_count
FROM {KEPT}
-- In the order of their keys, so that two runs wait for each other instead of deadlocking.
ORDER BY subject, meter_id, quarter_start, model
ON CONFLICT (subject, meter_id, quarter_start, model) DO UPDATE
SET quantity = usage_quarterusage.quantity + excluded.quantity,
    event_count = usage_quarterusage.event_count + excluded.event_count
"""  # noqa: S608 - of constants

ADD_HOURS = f"""
INSERT INTO usage_runhour (hour, run_id)
SELECT DISTINCT date_trunc('hour', quarter_start, 'UTC'), %(run)s::bigint FROM {KEPT}
ON CONFLICT DO NOTHING
"""  # noqa: S608 - of constants

TOLD = f"""
    SELECT event.subject, meter.id AS meter_id, meter.aggregation, event.occurred_at,
           coalesce(left(event.data ->> 'model', {MODEL_CHARACTERS}), '') COLLATE "C" AS model,
           CASE WHEN event.voids IS NULL THEN 1 ELSE -1 END AS sign,
           CASE meter.aggregation WHEN 'count' THEN 1 WHEN 'unique' THEN 0
               ELSE (event.data ->> version.value_property)::numeric
                    * ('1e' || meter.scale)::numeric END AS number,
           CASE WHEN meter.aggregation = 'unique'
               THEN substr(sha256(convert_to(event.data ->> version.value_property, 'UTF8')), 1, 16)
               ELSE '' END AS name,
           -- A void is its original again, so both say the same of the same event.
           CASE WHEN meter.aggregation = 'latest' THEN coalesce(event.voids, event.id)
               ELSE 0 END AS event_id
"""
"""What an event says to a meter, for the queries that join `event`, `version` and `meter`."""
GAVE = "(meter.aggregation = 'count' OR event.data ->> version.value_property IS NOT NULL)"
"""An event that gives a meter no value is none of its events."""
READ_BY = """
    JOIN billing_meterversion version
      ON version.event_type = event.type AND event.occurred_at >= version.effective_from
     AND (version.effective_until IS NULL OR event.occurred_at < version.effective_until)
    JOIN billing_meter meter ON meter.id = version.meter_id
"""

ADD_READINGS = """
INSERT INTO usage_quarterreading (
    subject, meter_id, quarter_start, model, number, name, event_id, occurred_at, event_count
)
SELECT subject, meter_id, date_bin('15 minutes', occurred_at, 'epoch') AS quarter_start, model,
       number, name, event_id, CASE WHEN aggregation = 'latest' THEN occurred_at END, sum(sign)
FROM told WHERE aggregation IN ('max', 'unique', 'latest')
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
ORDER BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (subject, meter_id, quarter_start, model, number, name, event_id) DO UPDATE
SET event_count = usage_quarterreading.event_count + excluded.event_count
"""

READINGS = f"""
WITH told AS MATERIALIZED (
    {TOLD}
    FROM usage_usageevent event
    {READ_BY} AND meter.aggregation IN ('max', 'unique', 'latest')
    -- By the span first, as in `folding`.
    WHERE event.batch_id BETWEEN %(first)s AND %(last)s
      AND event.batch_id + 0 = ANY(%(batches)s::bigint[])
      AND version.id = ANY(%(versions)s) AND {GAVE}
), hours AS (
    INSERT INTO usage_runhour (hour, run_id)
    SELECT DISTINCT date_trunc('hour', occurred_at, 'UTC'), %(run)s::bigint FROM told
    ON CONFLICT DO NOTHING
)
{ADD_READINGS}
"""  # noqa: S608 - of constants


def write(run: FlushRun, *, batch_ids: Sequence[int], versions: Sequence[int]) -> None:
    """Add what a run's events came to, of which `folding.fold` has kept sums and counts.

    Takes part in the run's transaction, at its end: rows of a busy customer are shared by all
    runs, and whoever writes them makes the others wait until the commit.
    """
    with connection.cursor() as cursor:
        cursor.execute(ADD_QUARTERS)
        cursor.execute(ADD_HOURS, {"run": run.pk})
        if not Meter.objects.filter(aggregation__in=RUNNING, versions__in=list(versions)).exists():
            return
        cursor.execute(
            READINGS,
            {
                "run": run.pk,
                "batches": list(batch_ids),
                "first": min(batch_ids),
                "last": max(batch_ids),
                "versions": list(versions),
            },
        )


# --- events by the hour they occurred in ----------------------------------------------------------

FLUSHED = """
    SELECT batch.id, batch.run_id, run.meter_versions
    FROM usage_ingestbatch batch JOIN usage_flushrun run ON run.id = batch.run_id
    WHERE run.id = ANY(ARRAY(
        SELECT DISTINCT run_id FROM usage_runhour WHERE hour = ANY(%(hours)s::timestamptz[])
    ))
"""
"""Batches of the runs that folded usage of some hours."""
SPANNED = """
    -- Each run's batches are next to each other, and so are their events: one range of the BRIN
    -- for each. Inside it, the batches decide.
    FROM (
        SELECT run_id, meter_versions, min(id) AS first, max(id) AS last
        FROM batches GROUP BY run_id, meter_versions
    ) AS span
    CROSS JOIN LATERAL (
        SELECT * FROM usage_usageevent WHERE batch_id BETWEEN span.first AND span.last
        -- Keeps the planner from reading the whole table once instead.
        OFFSET 0
    ) AS event
    JOIN usage_ingestbatch batch
      ON batch.id = event.batch_id AND batch.run_id IS NOT DISTINCT FROM span.run_id
"""
"""Their events: of `batches`, with id, run and the versions that read them."""


# --- rebuilding -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Hours that were written anew, and the rows they have now."""

    hour_count: int = 0
    row_count: int = 0


NOTE_HOURS = """
INSERT INTO usage_runhour (hour, run_id)
SELECT DISTINCT date_trunc('hour', event.occurred_at, 'UTC'), batch.run_id
FROM usage_ingestbatch batch JOIN usage_usageevent event ON event.batch_id = batch.id
WHERE batch.run_id BETWEEN %(first)s AND %(last)s
  AND event.batch_id BETWEEN
      (SELECT min(id) FROM usage_ingestbatch WHERE run_id BETWEEN %(first)s AND %(last)s)
      AND (SELECT max(id) FROM usage_ingestbatch WHERE run_id BETWEEN %(first)s AND %(last)s)
ON CONFLICT DO NOTHING
"""

HOURS = """
SELECT hour FROM (
    SELECT hour FROM usage_runhour
    UNION SELECT date_trunc('hour', quarter_start, 'UTC') FROM usage_quarterusage
    UNION SELECT date_trunc('hour', quarter_start, 'UTC') FROM usage_quarterreading
) AS known
WHERE (%(since)s::timestamptz IS NULL OR hour >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR hour < %(until)s)
ORDER BY hour
"""

REBUILD = f"""
WITH batches AS ({FLUSHED}), told AS MATERIALIZED (
    {TOLD}
    {SPANNED} {READ_BY}
    WHERE event.occurred_at >= %(start)s AND event.occurred_at < %(end)s
      AND version.id = ANY(span.meter_versions) AND {GAVE}
), quarters AS (
    INSERT INTO usage_quarterusage
        (subject, meter_id, quarter_start, model, quantity, event_count)
    SELECT subject, meter_id, date_bin('15 minutes', occurred_at, 'epoch'), model,
           sum(sign * number), sum(sign)
    FROM told WHERE aggregation IN ('sum', 'count')
    GROUP BY 1, 2, 3, 4
    RETURNING 1
), readings AS ({ADD_READINGS} RETURNING 1)
SELECT (SELECT count(*) FROM quarters) + (SELECT count(*) FROM readings)
"""  # noqa: S608 - of constants


def rebuild(*, since: datetime | None = None, until: datetime | None = None) -> Rebuilt:
    """Write the read model anew from the flushed events of the UTC hours in [since, until).

    Both None for all there is. Each hour is a transaction that no flush runs beside, so readers
    see it whole, before or after; a repetition ends in the same place.

    Raises:
        OperationalError: flushes left no gap; repeat it.
    """
    for first, last in _runs():
        with steps.commit("usage.quarters.note_hours"), connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 0")
            cursor.execute(NOTE_HOURS, {"first": first, "last": last})
    with connection.cursor() as cursor:
        cursor.execute(HOURS, {"since": since, "until": until})
        hours = [hour for (hour,) in cursor.fetchall()]
    rows = 0
    for hour in hours:
        with steps.commit("usage.quarters.rebuild"):
            await_folds(seconds=FOLDS_WAIT_SECONDS)
            rows += _rebuild_hour(hour)
    return Rebuilt(len(hours), rows)


def _runs() -> list[tuple[int, int]]:
    """Return all runs as ranges of ids, each of so many events as one step may read."""
    ranges: list[tuple[int, int]] = []
    events = EVENTS_PER_STEP
    for run_id, event_count in FlushRun.objects.order_by("pk").values_list("pk", "event_count"):
        events += event_count
        if events > EVENTS_PER_STEP:
            ranges.append((run_id, run_id))
            events = event_count
        else:
            ranges[-1] = (ranges[-1][0], run_id)
    return ranges


def _rebuild_hour(hour: datetime) -> int:
    spanned: dict[str, Any] = {"start": hour, "end": hour + HOUR, "hours": [hour]}
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0")
        for table in ("usage_quarterusage", "usage_quarterreading"):
            cursor.execute(
                f"DELETE FROM {table}"  # noqa: S608 - of constants
                " WHERE quarter_start >= %(start)s AND quarter_start < %(end)s",
                spanned,
            )
        cursor.execute(REBUILD, spanned)
        row_count: int = cursor.fetchone()[0]
    return row_count
