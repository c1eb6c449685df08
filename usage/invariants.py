"""What must hold of usage's tables at any moment, each as a query that returns what violates it.

The numbers are those of `docs/reliability.md`. The database enforces some of it too; a check that
asks again costs little and also sees what was done past the guards.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction

from billing import cases
from billing.enums import CaseKind

STRIPE_REMEMBERS = "24 hours"
STRIPE_ACCEPTS = "35 days"
STRIPE_AHEAD = "5 minutes"
"""Stripe's limits, as PostgreSQL's intervals. Source: its reference of meter events."""
CASE_HOURS = 24
SAMPLE = 20
"""So many violating rows of each are shown."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """One statement about the tables. `query` returns a row, with one text, per violation."""

    id: str
    statement: str
    query: str


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, how often, and where first."""

    invariant: Invariant
    count: int
    sample: tuple[str, ...]


INVARIANTS = (
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
        """
        WITH reported AS (
            SELECT batch.run_id, event.subject, version.meter_id,
                   date_trunc('hour', event.occurred_at, 'UTC') AS hour,
                   sum(CASE meter.aggregation WHEN 'count' THEN 1
                       ELSE coalesce((event.data ->> version.value_property)::numeric, 0)
                            * ('1e' || meter.scale)::numeric END) AS units
            FROM usage_usageevent event
            JOIN usage_ingestbatch batch ON batch.id = event.batch_id
            JOIN usage_flushrun run ON run.id = batch.run_id
            JOIN billing_meterversion version
              ON version.id = ANY(run.meter_versions) AND version.event_type = event.type
             AND event.occurred_at >= version.effective_from
             AND (version.effective_until IS NULL
                  OR event.occurred_at < version.effective_until)
            JOIN billing_meter meter ON meter.id = version.meter_id
             AND meter.aggregation IN ('sum', 'count')
            GROUP BY 1, 2, 3, 4
        ), submitted AS (
            SELECT submission.run_id, customer.external_id AS subject, submission.meter_id,
                   submission.window_start AS hour, sum(submission.value) AS units
            FROM usage_submission submission
            JOIN billing_customer customer ON customer.id = submission.customer_id
            JOIN billing_meter meter ON meter.id = submission.meter_id
             AND meter.aggregation IN ('sum', 'count')
            GROUP BY 1, 2, 3, 4
        ), held AS (
            SELECT run_id, subject, meter_id, window_start AS hour
            FROM usage_heldusage WHERE released_at IS NULL
        )
        SELECT format('run %%s, %%s, meter %%s, %%s: %%s reported, %%s submitted%%s',
                      run_id, subject, meter_id, hour, coalesce(reported.units, 0),
                      coalesce(submitted.units, 0),
                      CASE WHEN held.run_id IS NULL THEN '' ELSE ' and held' END)
        FROM reported
        FULL JOIN submitted USING (run_id, subject, meter_id, hour)
        LEFT JOIN held USING (run_id, subject, meter_id, hour)
        WHERE CASE WHEN held.run_id IS NULL
              THEN coalesce(reported.units, 0) <> coalesce(submitted.units, 0)
              ELSE submitted.units IS NOT NULL END
        """,
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
        "I10",
        "Whatever is not final has a next action, or a case somebody must close.",
        """
        SELECT 'submission ' || submission.identifier || ' is ' || standing.state
        FROM usage_submissionstate standing
        JOIN usage_submission submission ON submission.id = standing.submission_id
        WHERE (standing.state IN ('ready', 'sending', 'retry', 'in_doubt', 'accepted')
               AND standing.next_action_at IS NULL)
           OR (standing.state IN ('rejected', 'unproven', 'expired') AND NOT EXISTS (
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
)


def violations() -> tuple[Violation, ...]:
    """Return every invariant that does not hold now; none is the only good answer.

    All are asked of one snapshot, so they may run beside everything else. Tables are read whole:
    minutes on large ones.
    """
    found = []
    with transaction.atomic(), connection.cursor() as cursor:
        if not connection.savepoint_ids and not connection.needs_rollback:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SET LOCAL statement_timeout = 0")
        for invariant in INVARIANTS:
            cursor.execute(
                invariant.query,
                {
                    "remembers": STRIPE_REMEMBERS,
                    "accepts": STRIPE_ACCEPTS,
                    "ahead": STRIPE_AHEAD,
                },
            )
            rows = cursor.fetchall()
            if rows:
                sample = tuple(text for (text,) in rows[:SAMPLE])
                found.append(Violation(invariant, len(rows), sample))
    return tuple(found)


def report(*, now: datetime) -> tuple[Violation, ...]:
    """Open a case for each invariant that does not hold, close those that do again; return them.

    A repetition brings the open cases up to date.
    """
    found = {violation.invariant.id: violation for violation in violations()}
    for invariant in INVARIANTS:
        violation = found.get(invariant.id)
        if violation is None:
            cases.close_case(CaseKind.INVARIANT, invariant.id, "it holds again")
            continue
        cases.open_case(
            kind=CaseKind.INVARIANT,
            reference=invariant.id,
            reason=f"{invariant.statement} {violation.count:,} do not, such as"
            f" {violation.sample[0]}",
            deadline_at=now + timedelta(hours=CASE_HOURS),
        )
    return tuple(found.values())
