"""What must hold of the read model, as queries: it is what the flushed events come to.

Only usage since a day before the newest run is compared, which costs that day's events and not
all.
"""

from __future__ import annotations

from usage.invariants.invariant import Invariant
from usage.quarters import GAVE, READ_BY, SPANNED, TOLD

_TOLD = f"""
    WITH newest AS (
        SELECT max(started_at) - interval '1 day' AS at FROM usage_flushrun
    ), batches AS (
        SELECT batch.id, batch.run_id, run.meter_versions
        FROM newest JOIN usage_flushrun run ON run.started_at >= newest.at
        JOIN usage_ingestbatch batch ON batch.run_id = run.id
    ), since AS (
        -- Runs before that day knew no usage from beyond the hour it begins in.
        SELECT CASE WHEN EXISTS (SELECT FROM usage_flushrun WHERE started_at < newest.at)
               THEN date_trunc('hour', newest.at, 'UTC') + interval '2 hours'
               ELSE '-infinity' END AS at
        FROM newest
    ), told AS MATERIALIZED (
        {TOLD}
        {SPANNED} {READ_BY}
        WHERE version.id = ANY(span.meter_versions) AND {GAVE}
          AND event.occurred_at >= (SELECT at FROM since)
    )
"""  # noqa: S608 - of constants

QUARTER_INVARIANTS = (
    Invariant(
        "RM1",
        "A quarter hour's usage on record is what its flushed events add up to.",
        f"""
        {_TOLD}, counted AS (
            SELECT subject, meter_id, date_bin('15 minutes', occurred_at, 'epoch') AS quarter_start,
                   model, sum(sign * number) AS quantity, sum(sign) AS event_count
            FROM told WHERE aggregation IN ('sum', 'count') GROUP BY 1, 2, 3, 4
        ), kept AS (
            SELECT * FROM usage_quarterusage WHERE quarter_start >= (SELECT at FROM since)
        )
        SELECT format('%%s, meter %%s, quarter of %%s, model %%s: %%s on record, %%s by the events',
                      subject, meter_id, quarter_start, model, kept.quantity, counted.quantity)
        FROM kept FULL JOIN counted USING (subject, meter_id, quarter_start, model)
        WHERE coalesce(kept.quantity, 0) <> coalesce(counted.quantity, 0)
           OR coalesce(kept.event_count, 0) <> coalesce(counted.event_count, 0)
        """,  # noqa: S608 - as above
    ),
    Invariant(
        "RM2",
        "A quarter hour's different values on record are those its flushed events say.",
        f"""
        {_TOLD}, counted AS (
            SELECT subject, meter_id, date_bin('15 minutes', occurred_at, 'epoch') AS quarter_start,
                   model, number, name, event_id, sum(sign) AS event_count
            FROM told WHERE aggregation NOT IN ('sum', 'count') GROUP BY 1, 2, 3, 4, 5, 6, 7
        ), kept AS (
            SELECT * FROM usage_quarterreading WHERE quarter_start >= (SELECT at FROM since)
        )
        SELECT format('%%s, meter %%s, quarter of %%s: a value is %%s times on record, %%s times by'
                      ' the events', subject, meter_id, quarter_start,
                      coalesce(kept.event_count, 0), coalesce(counted.event_count, 0))
        FROM kept
        FULL JOIN counted USING (subject, meter_id, quarter_start, model, number, name, event_id)
        WHERE coalesce(kept.event_count, 0) <> coalesce(counted.event_count, 0)
        """,  # noqa: S608 - as above
    ),
)
