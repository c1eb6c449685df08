"""What must hold of events, runs, submissions, attempts and observations, by the numbers of I."""

from __future__ import annotations

from usage.invariants.invariant import Invariant

_REPORTED = """
    SELECT batch.run_id, event.subject, version.meter_id,
           date_trunc('hour', event.occurred_at, 'UTC') AS hour,
           bool_or(event.voids IS NOT NULL) AS negative,
           sum(CASE WHEN event.voids IS NULL THEN 1 ELSE -1 END
               * CASE meter.aggregation WHEN 'count' THEN 1
                 ELSE coalesce((event.data ->> version.value_property)::numeric, 0)
                      * ('1e' || meter.scale)::numeric END) AS units
    FROM usage_usageevent event
    JOIN usage_ingestbatch batch ON batch.id = event.batch_id
    JOIN usage_flushrun run ON run.id = batch.run_id
    JOIN billing_meterversion version
      ON version.id = ANY(run.meter_versions) AND version.event_type = event.type
     AND event.occurred_at >= version.effective_from
     AND (version.effective_until IS NULL OR event.occurred_at < version.effective_until)
    JOIN billing_meter meter ON meter.id = version.meter_id
    WHERE meter.aggregation IN ('sum', 'count')
    GROUP BY 1, 2, 3, 4
"""
"""What the events of each run amount to, by who, what and hour.

Of meters whose quantities add up; of the others the newest value stands for all.
"""

_SENT = """
    SELECT customer.external_id AS subject, submission.meter_id, submission.window_start AS hour,
           submission.value AS units, submission.value < 0 AS negative
    FROM usage_submission submission
    JOIN usage_submissionstate standing ON standing.submission_id = submission.id
    JOIN billing_customer customer ON customer.id = submission.customer_id
"""

_CREDITED = """
    SELECT customer.external_id, decision.meter_id, decision.window_start, decision.credit,
           decision.credit < 0
    FROM usage_replacement decision
    JOIN billing_customer customer ON customer.id = decision.customer_id
"""

SUBMISSION_INVARIANTS = (
    Invariant(
        "I1",
        "A batch holds exactly the events it was accepted with.",
        """
        SELECT 'batch ' || batch.id
        FROM usage_ingestbatch batch
        LEFT JOIN (
            SELECT batch_id, count(*) AS events,
                   bit_xor(('x' || encode(substr(digest, 1, 8), 'hex'))::bit(64)::bigint)
                       AS checksum
            FROM usage_usageevent GROUP BY batch_id
        ) AS held ON held.batch_id = batch.id
        WHERE (batch.event_count, batch.checksum) IS DISTINCT FROM (held.events, held.checksum)
        """,
    ),
    Invariant(
        "I1a",
        "An event belongs to a batch that exists.",
        """
        SELECT 'event ' || event.id FROM usage_usageevent event
        WHERE NOT EXISTS (SELECT FROM usage_ingestbatch batch WHERE batch.id = event.batch_id)
        """,
    ),
    Invariant(
        "I1b",
        "A run accounts for exactly the batches it claimed.",
        """
        SELECT 'run ' || run.id
        FROM usage_flushrun run
        LEFT JOIN usage_ingestbatch batch ON batch.run_id = run.id
        GROUP BY run.id
        HAVING count(batch.id) <> run.batch_count
            OR coalesce(sum(batch.event_count), 0) <> run.event_count
        """,
    ),
    Invariant(
        "I2",
        "In every run, customer, meter and hour: the events' units are submitted, or held.",
        f"""
        WITH reported AS ({_REPORTED}), submitted AS (
            SELECT submission.run_id, customer.external_id AS subject, submission.meter_id,
                   submission.window_start AS hour, sum(submission.value) AS units
            FROM usage_submission submission
            JOIN billing_customer customer ON customer.id = submission.customer_id
            JOIN billing_meter meter ON meter.id = submission.meter_id
            WHERE submission.replaces_id IS NULL AND meter.aggregation IN ('sum', 'count')
            GROUP BY 1, 2, 3, 4
        ), held AS (
            SELECT held.run_id, held.subject, held.meter_id, held.window_start AS hour,
                   sum(held.quantity) AS units
            FROM usage_heldusage held
            JOIN billing_meter meter ON meter.id = held.meter_id
            WHERE held.released_at IS NULL AND held.replaces_id IS NULL
              AND meter.aggregation IN ('sum', 'count')
            GROUP BY 1, 2, 3, 4
        )
        SELECT format('run %%s, %%s, meter %%s, %%s: %%s reported, %%s submitted, %%s held',
                      run_id, subject, meter_id, hour, coalesce(reported.units, 0),
                      coalesce(submitted.units, 0), coalesce(held.units, 0))
        FROM reported
        FULL JOIN submitted USING (run_id, subject, meter_id, hour)
        FULL JOIN held USING (run_id, subject, meter_id, hour)
        WHERE coalesce(reported.units, 0)
              <> coalesce(submitted.units, 0) + coalesce(held.units, 0)
        """,  # noqa: S608 - put together of constants
    ),
    Invariant(
        "I3",
        "Every submission stands in exactly one state.",
        """
        SELECT 'submission ' || submission.identifier FROM usage_submission submission
        LEFT JOIN usage_submissionstate standing ON standing.submission_id = submission.id
        WHERE standing.submission_id IS NULL
           OR (standing.customer_id, standing.meter_id)
              <> (submission.customer_id, submission.meter_id)
        """,
    ),
    Invariant(
        "I3a",
        "In every customer, meter and hour: what was flushed stands in some state, is credited, or"
        " is held.",
        f"""
        WITH reported AS ({_REPORTED}), placed AS (
            {_SENT}
            WHERE standing.state <> 'superseded'
            UNION ALL
            {_CREDITED}
            UNION ALL
            SELECT subject, meter_id, window_start, quantity, false FROM usage_heldusage
            WHERE released_at IS NULL
        ), recorded AS (
            SELECT subject, meter_id, hour, sum(units) AS units FROM reported GROUP BY 1, 2, 3
        ), accounted AS (
            SELECT subject, meter_id, hour, sum(units) AS units
            FROM placed JOIN billing_meter meter ON meter.id = placed.meter_id
            WHERE meter.aggregation IN ('sum', 'count')
            GROUP BY 1, 2, 3
        )
        SELECT format('%%s, meter %%s, %%s: %%s recorded, %%s accounted for', subject, meter_id,
                      hour, coalesce(recorded.units, 0), coalesce(accounted.units, 0))
        FROM recorded FULL JOIN accounted USING (subject, meter_id, hour)
        WHERE coalesce(recorded.units, 0) <> coalesce(accounted.units, 0)
        """,  # noqa: S608 - put together of constants
    ),
    Invariant(
        "I4",
        "What a decision superseded is credited, sent anew or held, to the unit.",
        """
        SELECT 'replacement ' || decision.id
        FROM usage_replacement decision
        LEFT JOIN (
            SELECT standing.replaced_by_id, sum(value) AS units, min(value) AS least
            FROM usage_submissionstate standing
            JOIN usage_submission submission ON submission.id = standing.submission_id
            GROUP BY 1
        ) AS taken ON taken.replaced_by_id = decision.id
        LEFT JOIN (
            SELECT replaces_id, sum(value) AS units FROM usage_submission GROUP BY 1
        ) AS sent ON sent.replaces_id = decision.id
        LEFT JOIN (
            SELECT replaces_id, sum(quantity) AS units FROM usage_heldusage
            WHERE released_at IS NULL GROUP BY 1
        ) AS held ON held.replaces_id = decision.id
        WHERE taken.units IS DISTINCT FROM decision.superseded
           -- A newer running value stands for the older one, whatever it amounts to.
           OR (decision.kind <> 'running' AND decision.superseded
               <> decision.credit + coalesce(sent.units, 0) + coalesce(held.units, 0))
           OR (taken.least >= 0 AND decision.credit NOT BETWEEN 0 AND decision.superseded)
        """,
    ),
    Invariant(
        "I4a",
        "What is superseded, and nothing else, names its decision, as does what stands in for it:"
        " one of the same customer, meter and hour, but for a running value of a later hour.",
        """
        SELECT 'submission ' || submission.identifier
        FROM usage_submission submission
        JOIN usage_submissionstate standing ON standing.submission_id = submission.id
        LEFT JOIN usage_replacement took ON took.id = standing.replaced_by_id
        LEFT JOIN usage_replacement made ON made.id = submission.replaces_id
        JOIN billing_meter meter ON meter.id = submission.meter_id
        WHERE (standing.state = 'superseded') <> (took.id IS NOT NULL)
           OR (took.customer_id, took.meter_id, took.window_start)
              <> (submission.customer_id, submission.meter_id, submission.window_start)
           OR (made.customer_id, made.meter_id)
              <> (submission.customer_id, submission.meter_id)
           OR made.window_start > submission.window_start
           OR (made.window_start < submission.window_start AND made.kind <> 'running')
        """,
    ),
    Invariant(
        "I5",
        "A payload is the one that was frozen, and says what its columns say.",
        """
        SELECT 'submission ' || identifier FROM usage_submission
        WHERE payload_hash <> encode(sha256(convert_to(payload, 'UTF8')), 'hex')
           OR payload::jsonb <> jsonb_build_object(
                'event_name', event_name, 'identifier', identifier,
                'payload', jsonb_build_object('stripe_customer_id', stripe_customer_id,
                                              'value', trunc(value)::text),
                'timestamp', extract(epoch FROM timestamp)::bigint)
        """,
    ),
    Invariant(
        "I6",
        "Every call is on record: attempts are numbered without a gap up to the state's count.",
        """
        SELECT 'submission ' || submission.identifier
        FROM usage_submission submission
        JOIN usage_submissionstate standing ON standing.submission_id = submission.id
        LEFT JOIN usage_attempt attempt ON attempt.submission_id = submission.id
        GROUP BY submission.identifier, standing.attempt_count
        HAVING count(attempt.id) <> standing.attempt_count
            OR coalesce(max(attempt.number), 0) <> standing.attempt_count
        """,
    ),
    Invariant(
        "I7",
        "No identifier is sent 24 hours after an attempt whose outcome is unknown.",
        """
        SELECT 'submission ' || submission.identifier
        FROM usage_attempt doubtful
        JOIN usage_attempt later
          ON later.submission_id = doubtful.submission_id AND later.number > doubtful.number
        JOIN usage_submission submission ON submission.id = doubtful.submission_id
        WHERE (doubtful.outcome IS NULL OR doubtful.outcome = 'unknown')
          AND later.started_at >= doubtful.started_at + %(remembers)s::interval
        """,
    ),
    Invariant(
        "I8",
        "Stripe has, and may come to have, no more of an hour than was recorded.",
        f"""
        WITH reported AS ({_REPORTED}), placed AS (
            {_SENT}
            -- Refused, too old and given up: known never to be counted.
            WHERE standing.state NOT IN ('superseded', 'rejected', 'expired', 'written_off')
            UNION ALL
            {_CREDITED}
        ), recorded AS (
            SELECT subject, meter_id, hour, sum(units) AS units, bool_or(negative) AS negative
            FROM reported GROUP BY 1, 2, 3
        ), at_stripe AS (
            SELECT subject, meter_id, hour, sum(units) AS units, bool_or(negative) AS negative
            FROM placed JOIN billing_meter meter ON meter.id = placed.meter_id
            WHERE meter.aggregation IN ('sum', 'count')
            GROUP BY 1, 2, 3
        )
        SELECT format('%%s, meter %%s, %%s: %%s recorded, %%s may be at Stripe', subject, meter_id,
                      hour, coalesce(recorded.units, 0), at_stripe.units)
        FROM at_stripe LEFT JOIN recorded USING (subject, meter_id, hour)
        WHERE at_stripe.units > coalesce(recorded.units, 0)
          AND NOT at_stripe.negative AND recorded.negative IS NOT TRUE
        """,  # noqa: S608 - put together of constants
    ),
    Invariant(
        "I9",
        "An hour at rest was seen at Stripe with exactly what is settled and credited of it.",
        """
        WITH cells AS (
            SELECT submission.customer_id, submission.meter_id, submission.window_start,
                   coalesce(sum(value) FILTER (WHERE standing.state = 'settled'), 0) AS settled,
                   count(*) FILTER (WHERE standing.state = 'settled') AS settled_count,
                   coalesce((SELECT sum(credit) FROM usage_replacement decision
                    WHERE (decision.customer_id, decision.meter_id, decision.window_start)
                          = (submission.customer_id, submission.meter_id, submission.window_start)
                   ), 0) AS credited
            FROM usage_submission submission
            JOIN usage_submissionstate standing ON standing.submission_id = submission.id
            JOIN billing_meter meter ON meter.id = submission.meter_id
            WHERE meter.aggregation IN ('sum', 'count')
            GROUP BY 1, 2, 3
            HAVING NOT bool_or(standing.state IN (
                'ready', 'sending', 'retry', 'in_doubt', 'accepted', 'unproven'))
        )
        SELECT format('customer %%s, meter %%s, %%s: %%s settled, %%s credited', customer_id,
                      meter_id, window_start, settled, credited)
        FROM cells
        WHERE (settled_count > 0 OR credited <> 0) AND NOT EXISTS (
            SELECT FROM usage_observation seen
            WHERE (seen.customer_id, seen.meter_id, seen.window_start)
                  = (cells.customer_id, cells.meter_id, cells.window_start)
              AND seen.observed = settled + credited
        )
        """,
    ),
    Invariant(
        "I10",
        "Whatever is not final has a next action, or a case somebody must close.",
        """
        SELECT 'submission ' || submission.identifier || ' is ' || standing.state
        FROM usage_submissionstate standing
        JOIN usage_submission submission ON submission.id = standing.submission_id
        WHERE (standing.state IN ('ready', 'sending', 'retry', 'in_doubt', 'accepted')
               AND standing.next_action_at IS NULL)
           OR (standing.state = 'sending' AND standing.lease_until IS NULL)
           OR (standing.state = 'in_doubt' AND standing.doubt_since IS NULL)
           OR (standing.state IN ('rejected', 'unproven', 'expired')
               AND standing.next_action_at IS NULL
               AND NOT EXISTS (
                   SELECT FROM billing_case WHERE reference = submission.identifier
                   AND closed_at IS NULL))
        """,
    ),
    Invariant(
        "I12",
        "An event id stands once within its source.",
        """
        SELECT 'event ' || event_id FROM usage_usageevent
        GROUP BY source_id, event_id HAVING count(*) > 1
        """,
    ),
    Invariant(
        "I13",
        "A timestamp lies in its cell.",
        """
        SELECT 'submission ' || identifier FROM usage_submission
        WHERE date_trunc('hour', timestamp, 'UTC') <> window_start
           OR date_trunc('hour', segment_start, 'UTC') <> window_start
           OR timestamp < segment_start
        """,
    ),
    Invariant(
        "I14",
        "No call was made with a timestamp Stripe does not take.",
        """
        SELECT 'submission ' || submission.identifier
        FROM usage_attempt attempt
        JOIN usage_submission submission ON submission.id = attempt.submission_id
        WHERE submission.timestamp < attempt.started_at - %(accepts)s::interval
           OR submission.timestamp > attempt.started_at + %(ahead)s::interval
        """,
    ),
    Invariant(
        "I15",
        "Nothing was made for another mode of Stripe, live or test, than this deployment's.",
        """
        SELECT 'submission ' || identifier FROM usage_submission
        WHERE live_mode <> %(live_mode)s
        """,
    ),
    Invariant(
        "I16",
        "A customer at Stripe stands for one of ours, and is sent the usage of no other.",
        """
        SELECT format('%%s was sent the usage of %%s customers', stripe_customer_id,
                      count(DISTINCT customer_id))
        FROM usage_submission GROUP BY stripe_customer_id HAVING count(DISTINCT customer_id) > 1
        UNION ALL
        SELECT format('%%s stands for %%s customers', stripe_customer_id, count(*))
        FROM billing_customer WHERE stripe_customer_id IS NOT NULL
        GROUP BY stripe_customer_id HAVING count(*) > 1
        UNION ALL
        SELECT 'submission ' || submission.identifier || ' went to another customer of ours'
        FROM usage_submission submission
        JOIN billing_customer owner ON owner.stripe_customer_id = submission.stripe_customer_id
        WHERE owner.id <> submission.customer_id
        """,
    ),
    Invariant(
        "I17",
        "What is settled was seen equal after its last call.",
        """
        SELECT 'submission ' || submission.identifier
        FROM usage_submissionstate standing
        JOIN usage_submission submission ON submission.id = standing.submission_id
        WHERE standing.state = 'settled' AND NOT EXISTS (
            SELECT FROM usage_observation seen
            WHERE (seen.customer_id, seen.meter_id, seen.window_start)
                  = (submission.customer_id, submission.meter_id, submission.window_start)
              AND seen.expected = seen.observed
              AND seen.observed_at > ALL (
                  SELECT coalesce(attempt.finished_at, attempt.started_at)
                  FROM usage_attempt attempt WHERE attempt.submission_id = submission.id)
        )
        """,
    ),
    Invariant(
        "I21",
        "What takes an event back is the same usage with an author and a reason.",
        """
        SELECT 'event ' || coalesce(negative.event_id, void.event_id)
        FROM (SELECT * FROM usage_usageevent WHERE voids IS NOT NULL) AS negative
        FULL JOIN usage_void void ON void.void_event_id = negative.id
        LEFT JOIN usage_usageevent original ON original.id = negative.voids
        WHERE void.id IS NULL OR negative.id IS NULL OR original.id IS NULL
           OR negative.voids <> void.original_event_id OR original.voids IS NOT NULL
           OR (negative.type, negative.subject, negative.occurred_at, negative.data)
              IS DISTINCT FROM
              (original.type, original.subject, original.occurred_at, original.data)
        """,
    ),
    Invariant(
        "I22",
        "No call was begun while sending was stopped.",
        """
        SELECT 'submission ' || submission.identifier || ' attempt ' || attempt.number
        FROM usage_attempt attempt
        JOIN usage_submission submission ON submission.id = attempt.submission_id
        JOIN usage_fence fence ON fence.quarantined_at < attempt.started_at
        """,
    ),
)
