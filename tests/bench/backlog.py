"""A backlog of submissions, written as an outage leaves it: run after run, none ever sent.

Set-based SQL, because what is measured is sending it and not making it. Each run holds one
submission of every pair, of an hour of its own in the last twenty days.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from django.db import connection

from billing.enums import Aggregation
from billing.models import Customer, Meter
from tests.bench import stack
from usage import wire
from usage.lifecycle import State
from usage.models import Submission, SubmissionState

HOURS = 470
"""Distinct hours of a pair, the newest two hours old: all within twenty days."""

TABLES = (
    "usage_attempt",
    "usage_submissionstate",
    "usage_submission",
    "usage_ingestbatch",
    "usage_flushrun",
    "billing_case",
)

RUNS = """
INSERT INTO usage_flushrun (id, started_at, batch_count, event_count, meter_versions)
SELECT number, now() - make_interval(secs => 60 * (%(runs)s - number + 1)), 1, 5 * %(pairs)s, '{}'
FROM generate_series(1, %(runs)s) number
"""

SUBMISSIONS = """
WITH pair AS (
    SELECT row_number() OVER (ORDER BY meter.id, customer.id) - 1 AS position,
           customer.id AS customer_id, customer.stripe_customer_id,
           meter.id AS meter_id, meter.event_name
    FROM billing_customer customer CROSS JOIN billing_meter meter
), located AS (
    SELECT number, pair.customer_id, pair.stripe_customer_id, pair.meter_id, pair.event_name,
           number / %(pairs)s + 1 AS run_id, gen_random_uuid()::text AS identifier,
           1 + number %% 1000 AS value, number / %(pairs)s / %(hours)s AS part,
           date_trunc('hour', now(), 'UTC')
               - make_interval(hours => (2 + number / %(pairs)s %% %(hours)s)::int) AS hour
    FROM generate_series(0, %(count)s - 1) series (number)
    JOIN pair ON pair.position = number %% %(pairs)s
), timed AS (
    SELECT located.*, hour + make_interval(secs => number %% 3600) AS timestamp FROM located
), rendered AS (
    SELECT timed.*, format(
        '{"event_name":"%%s","identifier":"%%s",'
        '"payload":{"stripe_customer_id":"%%s","value":"%%s"},"timestamp":%%s}',
        event_name, identifier, stripe_customer_id, value, extract(epoch FROM timestamp)::bigint
    ) AS payload
    FROM timed
)
INSERT INTO usage_submission (
    identifier, run_id, customer_id, meter_id, window_start, segment_start, part, event_count,
    value, timestamp, stripe_customer_id, event_name, payload, payload_hash, live_mode, created_at
)
SELECT identifier, run_id, customer_id, meter_id, hour, hour, part, 5,
       value, timestamp, stripe_customer_id, event_name, payload,
       encode(sha256(convert_to(payload, 'UTF8')), 'hex'), true, run.started_at
FROM rendered JOIN usage_flushrun run ON run.id = run_id
ORDER BY number
"""

STATES = """
INSERT INTO usage_submissionstate (
    submission_id, customer_id, meter_id, state, wire, attempt_count, next_action_at, reason,
    recount, changed_at
)
SELECT id, customer_id, meter_id, %(state)s, '', 0,
       CASE %(state)s WHEN 'ready' THEN created_at END, '', false, created_at
FROM usage_submission ORDER BY id
"""


def write_parties(*, customers: Sequence[str], meters: Sequence[tuple[str, str]]) -> None:
    """Replace customers and meters by these, known at Stripe: ids, and (event name, id)."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE billing_customer, billing_meter RESTART IDENTITY CASCADE")
    Customer.objects.bulk_create(
        Customer(external_id=f"bench-{number}", stripe_customer_id=stripe_id)
        for number, stripe_id in enumerate(customers)
    )
    Meter.objects.bulk_create(
        Meter(
            slug=event_name.replace("_", "-"),
            display_name=event_name,
            event_name=event_name,
            aggregation=Aggregation.SUM,
            unit="token",
            stripe_meter_id=stripe_id,
        )
        for event_name, stripe_id in meters
    )


def clear() -> None:
    """Remove all submissions, and what hangs on them."""
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(TABLES)} RESTART IDENTITY CASCADE")


def write(count: int, *, state: State = State.READY) -> None:
    """Replace all submissions by `count` of live mode, spread over all pairs; READY ones are due.

    Raises:
        BenchFailed: they are not what the product itself would have frozen.
    """
    pairs = Customer.objects.count() * Meter.objects.count()
    values = {
        "count": count,
        "pairs": pairs,
        "runs": math.ceil(count / pairs),
        "hours": HOURS,
        "state": state.value,
    }
    clear()
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
        # The rows refer to what was just read, and checking that takes most of the time.
        cursor.execute("SET session_replication_role = replica")
        for statement in (RUNS, SUBMISSIONS, STATES):
            cursor.execute(statement, values)
        cursor.execute("SET session_replication_role = DEFAULT")
        cursor.execute("VACUUM (ANALYZE) usage_submission, usage_submissionstate, usage_attempt")
        cursor.execute("RESET statement_timeout")
    _require_as_frozen(Submission.objects.order_by("pk")[count // 2])


def unaccepted() -> dict[str, int]:
    """Return how many submissions are in each state but ACCEPTED, with a reason of theirs."""
    return {
        f"{state} ({reason})" if reason else state: SubmissionState.objects.filter(
            state=state, reason=reason
        ).count()
        for state, reason in SubmissionState.objects.exclude(state=State.ACCEPTED)
        .order_by()
        .values_list("state", "reason")
        .distinct()[:10]
    }


def expected() -> dict[tuple[str, str, int], tuple[int, str]]:
    """Return the submissions and the sum of their values by cell, as the emulator states it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT stripe_customer_id, event_name, extract(epoch FROM window_start)::bigint,"
            " count(*), sum(value)::text FROM usage_submission GROUP BY 1, 2, 3"
        )
        return {
            (customer, event_name, hour): (number, total)
            for customer, event_name, hour, number, total in cursor.fetchall()
        }


def _require_as_frozen(submission: Submission) -> None:
    payload = wire.render(
        identifier=submission.identifier,
        event_name=submission.event_name,
        stripe_customer_id=submission.stripe_customer_id,
        value=Decimal(submission.value),
        timestamp=submission.timestamp.astimezone(UTC),
    )
    frozen = (payload, wire.fingerprint(payload))
    if (submission.payload, submission.payload_hash) != frozen:
        raise stack.BenchFailed(f"The product would freeze {payload}, not {submission.payload}.")
    age = datetime.now(UTC) - submission.timestamp
    if not 0 < age.days + 1 <= 21:
        raise stack.BenchFailed(f"A submission's usage is {age} old.")
