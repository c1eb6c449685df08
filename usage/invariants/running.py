"""What must hold of running values and their submissions at any moment, as queries.

The sums of `invariants` say nothing of them: a running value replaces the one before it.
"""

from __future__ import annotations

from usage.invariants.invariant import Invariant

PERIOD_OF = """
    coalesce((SELECT max(boundary.at) FROM billing_periodboundary boundary
              WHERE boundary.customer_id = {customer} AND boundary.at <= {at}),
             'epoch'::timestamptz)
"""
_SUBMITTED = f"""
    SELECT submission.id, submission.identifier, submission.customer_id, submission.meter_id,
           {PERIOD_OF.format(customer="submission.customer_id", at="submission.timestamp")}
               AS period_start,
           submission.timestamp, submission.value, standing.state, standing.doubt_since,
           replacement.kind
    FROM usage_submission submission
    JOIN usage_submissionstate standing ON standing.submission_id = submission.id
    JOIN billing_meter meter
      ON meter.id = submission.meter_id AND meter.aggregation IN ('max', 'unique', 'latest')
    LEFT JOIN usage_replacement replacement ON replacement.id = standing.replaced_by_id
"""  # noqa: S608 - of constants
_AT_REST = """
    -- Not about to be counted again, and nothing of it held: what is in question proves nothing.
    SELECT running.*, customer.external_id FROM usage_runningvalue running
    JOIN billing_customer customer ON customer.id = running.customer_id
    WHERE NOT running.stale
      AND NOT EXISTS (
          SELECT FROM billing_periodboundary boundary
          WHERE boundary.customer_id = running.customer_id
            AND boundary.at > running.period_start AND boundary.at <= running.reached_at)
      AND NOT EXISTS (
          SELECT FROM usage_heldusage held
          WHERE held.released_at IS NULL AND held.subject = customer.external_id
            AND held.meter_id = running.meter_id)
"""

RUNNING_INVARIANTS = (
    Invariant(
        "RV1",
        "The running values of a customer, meter and period bear later and later seconds.",
        f"""
        WITH submitted AS ({_SUBMITTED}), beside AS (
            SELECT identifier, timestamp,
                   max(timestamp) OVER (PARTITION BY customer_id, meter_id, period_start
                                        ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING
                                        AND 1 PRECEDING) AS before
            FROM submitted
        )
        SELECT 'submission ' || identifier FROM beside WHERE timestamp <= before
        """,  # noqa: S608 - as above
    ),
    Invariant(
        "RV2",
        "At most one running value of a customer, meter and period waits to be sent.",
        f"""
        WITH submitted AS ({_SUBMITTED})
        SELECT format('customer %%s, meter %%s, period of %%s: %%s wait',
                      customer_id, meter_id, period_start, count(*))
        FROM submitted
        WHERE state = 'ready' OR (state = 'retry' AND doubt_since IS NULL)
        GROUP BY customer_id, meter_id, period_start HAVING count(*) > 1
        """,  # noqa: S608 - as above
    ),
    Invariant(
        "RV3",
        "The newest running value submitted of a period is the one on record.",
        f"""
        WITH submitted AS ({_SUBMITTED}), at_rest AS ({_AT_REST}), newest AS (
            SELECT DISTINCT ON (customer_id, meter_id, period_start) *
            FROM submitted ORDER BY customer_id, meter_id, period_start, timestamp DESC, id DESC
        )
        SELECT format('%%s, meter %%s, period of %%s: %%s on record, %%s submitted',
                      external_id, meter_id, period_start, at_rest.value, newest.value)
        FROM at_rest
        LEFT JOIN newest USING (customer_id, meter_id, period_start)
        WHERE at_rest.value <> coalesce(newest.value, 0)
           OR (newest.state = 'superseded' AND newest.kind IS DISTINCT FROM 'late')
        """,  # noqa: S608 - as above
    ),
    Invariant(
        "RV4",
        "A running value is what the flushed events of its period come to.",
        f"""
        WITH counted AS (
            SELECT customer.id AS customer_id, version.meter_id, event.id, event.occurred_at,
                   {PERIOD_OF.format(customer="customer.id", at="event.occurred_at")}
                       AS period_start,
                   event.data ->> version.value_property AS given,
                   CASE WHEN meter.aggregation <> 'unique'
                        THEN (event.data ->> version.value_property)::numeric
                             * ('1e' || meter.scale)::numeric END AS number,
                   meter.aggregation
            FROM usage_usageevent event
            JOIN usage_ingestbatch batch ON batch.id = event.batch_id
            JOIN usage_flushrun run ON run.id = batch.run_id
            JOIN billing_customer customer ON customer.external_id = event.subject
            JOIN billing_meterversion version
              ON version.id = ANY(run.meter_versions) AND version.event_type = event.type
             AND event.occurred_at >= version.effective_from
             AND (version.effective_until IS NULL
                  OR event.occurred_at < version.effective_until)
            JOIN billing_meter meter
              ON meter.id = version.meter_id AND meter.aggregation IN ('max', 'unique', 'latest')
            WHERE event.voids IS NULL AND event.data ->> version.value_property IS NOT NULL
              AND NOT EXISTS (
                  SELECT FROM usage_usageevent void
                  JOIN usage_ingestbatch its_batch ON its_batch.id = void.batch_id
                  WHERE void.voids = event.id AND its_batch.run_id IS NOT NULL)
        ), recounted AS (
            SELECT customer_id, meter_id, period_start,
                   CASE min(aggregation)
                       WHEN 'max' THEN max(number)
                       WHEN 'unique' THEN count(DISTINCT given)
                       ELSE (array_agg(number ORDER BY occurred_at DESC, id DESC))[1]
                   END AS value
            FROM counted GROUP BY 1, 2, 3
        ), names AS (
            SELECT running_id, count(*) AS names FROM usage_runningname GROUP BY running_id
        ), at_rest AS ({_AT_REST})
        SELECT format('%%s, meter %%s, period of %%s: %%s on record, %%s by the events',
                      at_rest.external_id, meter_id, period_start, at_rest.value, recounted.value)
        FROM at_rest
        JOIN billing_meter meter ON meter.id = at_rest.meter_id
        LEFT JOIN recounted USING (customer_id, meter_id, period_start)
        LEFT JOIN names ON names.running_id = at_rest.id
        WHERE at_rest.value <> coalesce(recounted.value, 0)
           OR (meter.aggregation = 'unique' AND at_rest.value <> coalesce(names.names, 0))
        UNION ALL
        SELECT format('customer %%s, meter %%s, period of %%s: %%s by the events, on no record',
                      customer_id, meter_id, period_start, recounted.value)
        FROM recounted
        JOIN billing_customer customer ON customer.id = recounted.customer_id
        WHERE recounted.value <> 0 AND NOT EXISTS (
            SELECT FROM usage_runningvalue running
            WHERE running.customer_id = recounted.customer_id
              AND running.meter_id = recounted.meter_id
              -- Of an earlier period that a boundary is about to cut, it may still be a part.
              AND (running.period_start = recounted.period_start
                   OR (running.period_start < recounted.period_start
                       AND running.reached_at >= recounted.period_start)))
          AND NOT EXISTS (
            SELECT FROM usage_heldusage held
            WHERE held.released_at IS NULL AND held.subject = customer.external_id
              AND held.meter_id = recounted.meter_id)
        """,  # noqa: S608 - as above
    ),
)
