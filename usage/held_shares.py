"""What of a customer's usage in a stretch of time is held: counted event by event.

A held row's hour may lie across the end of a stretch, so its own quantity does not tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db import connection

from billing.models import Meter
from usage.quarters import GAVE, READ_BY, SPANNED, TOLD

SHARES = f"""
WITH rows AS (
    SELECT held.*, meter.aggregation IN ('sum', 'count') AND held.replaces_id IS NULL AS by_event
    FROM usage_heldusage held JOIN billing_meter meter ON meter.id = held.meter_id
    WHERE held.subject = %(subject)s AND held.released_at IS NULL AND held.held_at <= %(as_of)s
      AND held.meter_id = ANY(%(meters)s::bigint[])
      AND held.window_start > %(since)s::timestamptz - interval '1 hour'
      AND held.window_start < %(until)s
), holding AS (
    -- A row ends where the next one of its hour begins. Usage is late up to a boundary; whatever
    -- else holds it does so until the hour is over.
    SELECT rows.*, least(
        rows.window_start + interval '1 hour',
        lead(rows.segment_start) OVER (
            PARTITION BY run_id, meter_id, window_start ORDER BY segment_start
        ),
        CASE WHEN rows.reason = 'late' THEN (
            SELECT min(boundary.at) FROM billing_periodboundary boundary
            JOIN billing_customer customer ON customer.id = boundary.customer_id
            WHERE customer.external_id = rows.subject AND boundary.at > rows.segment_start
        ) END
    ) AS segment_end
    FROM rows WHERE by_event
), batches AS (
    SELECT batch.id, batch.run_id, run.meter_versions
    FROM usage_ingestbatch batch JOIN usage_flushrun run ON run.id = batch.run_id
    WHERE run.id IN (SELECT run_id FROM holding)
), told AS (
    {TOLD}, holding.reason
    {SPANNED} {READ_BY}
    JOIN holding
      ON holding.run_id = span.run_id AND holding.meter_id = meter.id
     AND event.occurred_at >= holding.segment_start AND event.occurred_at < holding.segment_end
    WHERE event.subject = %(subject)s AND version.id = ANY(span.meter_versions) AND {GAVE}
      AND event.occurred_at >= %(since)s AND event.occurred_at < %(until)s
), shares AS (
    SELECT meter_id, reason, sign * number AS quantity, sign AS event_count FROM told
    UNION ALL
    -- Running values, and what stands for a decision about what was sent, have no events of theirs.
    SELECT meter_id, reason, quantity, event_count FROM rows
    WHERE NOT by_event AND segment_start >= %(since)s AND segment_start < %(until)s
)
SELECT meter_id, reason, sum(quantity), sum(event_count) FROM shares
GROUP BY 1, 2 HAVING sum(event_count) <> 0 OR sum(quantity) <> 0
ORDER BY 1, 2
"""  # noqa: S608 - of constants


@dataclass(frozen=True, slots=True)
class HeldShare:
    """What is held of a meter for one reason, in its smallest unit.

    Running values do not add up, so of their meters the quantity says nothing.
    """

    meter_id: int
    reason: str
    quantity: Decimal
    event_count: int


def held_shares(
    *,
    subject: str,
    meters: Sequence[Meter],
    since: datetime,
    until: datetime,
    as_of: datetime,
) -> tuple[HeldShare, ...]:
    """Return what is held of [since, until) by meter and reason, of what was held by `as_of`."""
    with connection.cursor() as cursor:
        cursor.execute(
            SHARES,
            {
                "subject": subject,
                "meters": [meter.pk for meter in meters],
                "since": since,
                "until": until,
                "as_of": as_of,
            },
        )
        return tuple(HeldShare(*row) for row in cursor.fetchall())
