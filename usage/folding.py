"""Folding: the events of batches aggregated by cell, in one statement.

A cell is customer x meter x UTC hour, cut again at each billing-period boundary inside the hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import connection

from usage.enums import HeldReason

BOUNDARY_DAYS = 36
"""Usage older than Stripe takes cannot be cut, so older boundaries need not be read."""
BOUNDARY_LOCK = 0x6D6B_0004
"""Key of the advisory lock that lets folding and cutting again take turns.

Whoever folds shares it until the commit; whoever cuts again for a boundary learned late has it
alone. So a fold that could not see the boundary yet has committed what it made before that is
looked for, and one that begins later sees it. The key means nothing, it is only not used elsewhere.
"""

MODEL_CHARACTERS = 100
"""So much of `data.model` tells one model from another."""
KEPT = "kept_quarters"
"""A table of the session's own, empty again after each transaction: what a fold leaves behind."""


class FoldMismatch(Exception):
    """Events folded again do not amount to what they amounted to when they were first folded."""


def share_boundaries() -> None:
    """Fold by the boundaries known now: to be called before, in the same transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", [BOUNDARY_LOCK])


def await_folds(*, seconds: float) -> None:
    """Wait until no fold is under way and keep others waiting until this transaction ends.

    Raises:
        OperationalError: one was still under way after `seconds`.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{int(seconds * 1000)}ms"])
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [BOUNDARY_LOCK])


@dataclass(frozen=True, slots=True)
class FoldedCell:
    """The events of one run, subject, meter and segment, folded. `quantity` is exact."""

    subject: str
    customer_id: int | None
    stripe_customer_id: str | None
    meter_id: int
    event_name: str
    meter_is_at_stripe: bool
    window_start: datetime
    segment_start: datetime
    event_count: int
    quantity: Decimal
    latest: datetime
    is_late: bool
    """Whether it lies before a boundary whose invoice is final."""

    @property
    def held_reason(self) -> HeldReason | None:
        """Why it cannot be sent, or None when it can."""
        if self.customer_id is None:
            return HeldReason.UNKNOWN_CUSTOMER
        if self.stripe_customer_id is None:
            return HeldReason.CUSTOMER_NOT_AT_STRIPE
        if not self.meter_is_at_stripe:
            return HeldReason.METER_NOT_AT_STRIPE
        if self.is_late:
            return HeldReason.LATE
        return None


BEFOREHAND = f"""
CREATE TEMPORARY TABLE IF NOT EXISTS {KEPT} (
    subject text COLLATE "C", meter_id bigint, quarter_start timestamptz, model text COLLATE "C",
    quantity numeric, event_count bigint
) ON COMMIT DELETE ROWS;
DELETE FROM {KEPT};
SET LOCAL enable_nestloop = off
"""  # noqa: S608 - of a constant

AFTERWARDS = "SET LOCAL enable_nestloop TO DEFAULT"
"""Fresh batches lie beyond what statistics know, so the planner expects a single event of them and
would compare each with every customer and every boundary, one by one: so no loops meanwhile."""

FED = f"""
WITH cuts AS (
    -- Billing-period boundaries inside an hour, by customer and hour: few, so one hash join.
    SELECT customer_id, date_trunc('hour', at, 'UTC') AS hour, array_agg(at) AS instants
    FROM billing_periodboundary
    WHERE at >= %(oldest)s AND at <> date_trunc('hour', at, 'UTC')
    GROUP BY 1, 2
), located AS (
    SELECT event.type, event.subject, event.occurred_at, event.data,
           CASE WHEN event.voids IS NULL THEN 1 ELSE -1 END AS sign,
           customer.id AS customer_id,
           date_trunc('hour', event.occurred_at, 'UTC') AS window_start
    FROM usage_usageevent event
    LEFT JOIN billing_customer customer ON customer.external_id = event.subject
    -- The span finds them: as keys of the BRIN, each batch would be looked for in every range of
    -- the table, so that a flush took longer the more was ever flushed. The sum keeps it to that.
    WHERE event.batch_id BETWEEN %(first)s AND %(last)s
      AND event.batch_id + 0 = ANY(%(batches)s::bigint[])
      AND (%(subjects)s::text[] IS NULL OR event.subject = ANY(%(subjects)s::text[]))
), segmented AS (
    SELECT located.*,
           CASE WHEN cuts.instants IS NULL THEN window_start ELSE greatest(
               window_start,
               (SELECT max(cut) FROM unnest(cuts.instants) cut WHERE cut <= occurred_at)
           ) END AS segment_start
    FROM located
    LEFT JOIN cuts ON cuts.customer_id = located.customer_id AND cuts.hour = window_start
), fed AS MATERIALIZED (
    -- By quarter and model, finer than cells, so that one reading of the events serves both.
    SELECT segmented.subject, segmented.customer_id, meter.id AS meter_id, segment_start,
           date_bin('15 minutes', occurred_at, 'epoch') AS quarter_start,
           coalesce(left(data ->> 'model', {MODEL_CHARACTERS}), '') COLLATE "C" AS model,
           count(*) AS event_count, max(occurred_at) AS latest,
           sum(sign * CASE meter.aggregation
               WHEN 'count' THEN 1 ELSE coalesce((data ->> version.value_property)::numeric, 0)
           END) AS units,
           -- Of those that gave a value; none when no event did.
           sum(sign) FILTER (
               WHERE meter.aggregation = 'count' OR data ->> version.value_property IS NOT NULL
           ) AS given_count
    FROM segmented
    JOIN billing_meterversion version
      ON version.id = ANY(%(versions)s) AND version.event_type = segmented.type
     AND occurred_at >= version.effective_from
     AND (version.effective_until IS NULL OR occurred_at < version.effective_until)
    JOIN billing_meter meter ON meter.id = version.meter_id
     -- Running values do not add up: they are `running`'s.
     AND meter.aggregation IN ('sum', 'count')
    GROUP BY 1, 2, 3, 4, 5, 6
)
"""  # noqa: S608 - of constants

KEEP = f"""
, kept AS (
    INSERT INTO {KEPT}
    SELECT subject, meter_id, quarter_start, model,
           sum(units) * ('1e' || meter.scale)::numeric, sum(given_count)
    FROM fed JOIN billing_meter meter ON meter.id = fed.meter_id
    WHERE given_count IS NOT NULL
    GROUP BY subject, meter_id, meter.id, quarter_start, model
    -- What was reported and voided by the same run is not worth a row.
    HAVING sum(given_count) <> 0 OR sum(units) <> 0
)
"""  # noqa: S608 - of constants

CELLS = """
SELECT fed.subject, fed.customer_id, customer.stripe_customer_id,
       meter.id, meter.event_name, meter.stripe_meter_id IS NOT NULL,
       date_trunc('hour', segment_start, 'UTC'), segment_start, sum(event_count)::bigint,
       (sum(units) * ('1e' || meter.scale)::numeric)::numeric(40, 0),
       max(latest),
       coalesce(max(latest) < (
           SELECT max(boundary.at) FROM billing_periodboundary boundary
           WHERE boundary.customer_id = fed.customer_id AND boundary.closed_at IS NOT NULL
       ), false)
FROM fed
JOIN billing_meter meter ON meter.id = fed.meter_id
LEFT JOIN billing_customer customer ON customer.id = fed.customer_id
GROUP BY fed.subject, fed.customer_id, customer.id, meter.id, segment_start
-- A total of 0 adds nothing to a bill: there is nothing to send and nothing to hold.
HAVING sum(units) <> 0
ORDER BY fed.subject, meter.id, segment_start
"""


def fold(
    *,
    batch_ids: Sequence[int],
    versions: Sequence[int],
    now: datetime,
    subjects: Sequence[str] | None = None,
    keep_quarters: bool = False,
) -> list[FoldedCell]:
    """Aggregate the batches' events by cell, with the meter versions given.

    With `keep_quarters` what they come to by quarter hour is left where `quarters.write` finds it,
    until the transaction ends.
    """
    with connection.cursor() as cursor:
        if keep_quarters:
            cursor.execute(BEFOREHAND)
        cursor.execute(
            f"{FED} {KEEP if keep_quarters else ''} {CELLS}",
            {
                "batches": list(batch_ids),
                "first": min(batch_ids, default=0),
                "last": max(batch_ids, default=0),
                "versions": list(versions),
                "subjects": None if subjects is None else list(subjects),
                "oldest": now - timedelta(days=BOUNDARY_DAYS),
            },
        )
        cells = [FoldedCell(*row) for row in cursor.fetchall()]
        if keep_quarters:
            cursor.execute(AFTERWARDS)
        return cells
