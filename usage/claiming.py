"""Claiming: due submissions taken for a lease, with their attempts on record before a byte leaves.

Any number of workers claim at once. A row is held by its state and lease, a pair on v1 by a unique
index; making the call and writing how it ended are `calling`'s and `outcomes`'.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.conf import settings
from django.db import IntegrityError, connection

from billing import steps
from usage import fence
from usage.clock import Clock
from usage.enums import Wire
from usage.lateness import MAY_BE_SENT

STRIPE_ACCEPTS_DAYS = 34.5
"""Stripe refuses a timestamp 35 days old; half a day is left for the call and its repetitions."""
CANDIDATES_PER_CALL = 8
"""So many due rows are looked at for each call wanted on v1, since of a pair only one may go."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A submission taken by this worker until its lease is over."""

    submission_id: int
    identifier: str
    payload: str
    payload_hash: str
    value: Decimal
    meter_id: int
    wire: Wire
    attempt_number: int
    started_at: datetime
    doubt_since: datetime | None
    lease_ends: float
    """On the monotonic clock, which no time server turns back."""
    cancels: str = ""
    """Identifier of the submission that is to be cancelled, when it goes over that wire."""


_MAY_GO = f"""
      due.next_action_at <= %(now)s AND due.state IN ('ready', 'retry', 'in_doubt')
      AND due.wire = %(stored_wire)s
      AND (due.doubt_since IS NULL OR due.doubt_since > %(doubt_ends)s)
      AND submission.timestamp > %(too_old)s AND submission.live_mode = %(live_mode)s
      AND meter.checked_at IS NOT NULL AND meter.blocked = ''
      AND {MAY_BE_SENT}
      -- While Stripe's total must decide about an hour, nothing is added to it (F88: derived from
      -- the rows, since a stored flag could outlive its cause).
      AND NOT EXISTS (
          SELECT FROM usage_submissionstate frozen
          JOIN usage_submission part ON part.id = frozen.submission_id
          WHERE frozen.state = 'unproven' AND frozen.customer_id = due.customer_id
            AND frozen.meter_id = due.meter_id
            AND part.window_start = submission.window_start
            -- A running value adds to nothing: a newer one may go, and stands for it.
            AND meter.aggregation IN ('sum', 'count')
      )
"""
_TAKE = {
    Wire.V1: f"""
    candidates AS MATERIALIZED (
        SELECT due.submission_id, due.customer_id, due.meter_id, due.next_action_at
        FROM usage_submissionstate due
        JOIN usage_submission submission ON submission.id = due.submission_id
        JOIN billing_meter meter ON meter.id = due.meter_id
        WHERE {_MAY_GO}
          AND NOT EXISTS (
              SELECT FROM usage_submissionstate flying
              WHERE flying.customer_id = due.customer_id AND flying.meter_id = due.meter_id
                AND flying.state = 'sending' AND flying.wire = 'v1'
          )
        ORDER BY due.next_action_at, due.submission_id
        LIMIT %(candidates)s
    ), heads AS MATERIALIZED (
        SELECT DISTINCT ON (customer_id, meter_id) submission_id, next_action_at
        FROM candidates
        ORDER BY customer_id, meter_id, next_action_at, submission_id
    ), taken AS MATERIALIZED (
        SELECT due.submission_id
        FROM usage_submissionstate due JOIN heads USING (submission_id)
        -- Once more, for the row as it is when the lock is had.
        WHERE due.state IN ('ready', 'retry', 'in_doubt') AND due.next_action_at <= %(now)s
        ORDER BY heads.next_action_at, due.submission_id
        LIMIT %(limit)s
        FOR UPDATE OF due SKIP LOCKED
    )""",  # noqa: S608 - put together of this module's own texts
    Wire.CANCEL: f"""
    taken AS MATERIALIZED (
        SELECT due.submission_id
        FROM usage_submissionstate due
        JOIN usage_submission submission ON submission.id = due.submission_id
        JOIN billing_meter meter ON meter.id = due.meter_id
        JOIN usage_cancellation cancellation ON cancellation.submission_id = due.submission_id
        WHERE {_MAY_GO} AND cancellation.possible_until > %(now)s
        ORDER BY due.next_action_at, due.submission_id
        LIMIT %(limit)s
        FOR UPDATE OF due SKIP LOCKED
    )""",  # noqa: S608 - put together of this module's own texts
    Wire.STREAM: f"""
    taken AS MATERIALIZED (
        SELECT due.submission_id
        FROM usage_submissionstate due
        JOIN usage_submission submission ON submission.id = due.submission_id
        JOIN billing_meter meter ON meter.id = due.meter_id
        WHERE {_MAY_GO}
        ORDER BY due.next_action_at, due.submission_id
        LIMIT %(limit)s
        FOR UPDATE OF due SKIP LOCKED
    )""",  # noqa: S608 - put together of this module's own texts
}
_CLAIM = """
WITH {take}, claimed AS (
    UPDATE usage_submissionstate standing
    SET state = 'sending', wire = %(wire)s, attempt_count = standing.attempt_count + 1,
        lease_until = %(lease_until)s, next_action_at = %(lease_until)s, changed_at = %(now)s
    FROM taken
    WHERE standing.submission_id = taken.submission_id
    RETURNING standing.submission_id, standing.attempt_count, standing.doubt_since
), written AS (
    INSERT INTO usage_attempt (submission_id, number, wire, started_at, code, message, request_id)
    SELECT submission_id, attempt_count, %(wire)s, %(now)s, '', '', '' FROM claimed
)
SELECT submission.id, submission.identifier, submission.payload, submission.payload_hash,
       submission.value, submission.meter_id, claimed.attempt_count, claimed.doubt_since,
       coalesce((SELECT original.identifier FROM usage_cancellation cancellation
                 JOIN usage_submission original ON original.id = cancellation.original_id
                 WHERE %(wire)s = 'cancel' AND cancellation.submission_id = submission.id), '')
FROM claimed JOIN usage_submission submission ON submission.id = claimed.submission_id
ORDER BY submission.id
"""


def claim(*, clock: Clock, stored_wire: str, wire: Wire, limit: int) -> Sequence[Claim]:
    """Take up to `limit` due submissions, oldest first, and write an attempt for each.

    `stored_wire` says which rows: those that went over a wire before, or with "" those that never
    were sent; `wire` is what they go over now. On v1 they are of different pairs, and of pairs with
    no call in flight. All is committed when this returns, before a byte leaves. Nothing is taken
    while the dispatch fence is closed. A repetition finds what is still due.
    """
    # Read before the clock: a worker that was stopped anywhere since then, with an instant gone
    # stale by which it judges doubts and leases, finds its lease over before the first byte.
    lease_ends = time.monotonic() + settings.USAGE_LEASE_SECONDS
    now = clock()
    try:
        with steps.commit("usage.delivery.claim"), connection.cursor() as cursor:
            if not fence.is_open():
                return ()
            cursor.execute(
                _CLAIM.format(take=_TAKE[wire]),
                {
                    "now": now,
                    "lease_until": now + timedelta(seconds=settings.USAGE_LEASE_SECONDS),
                    "doubt_ends": now - timedelta(hours=settings.USAGE_DOUBT_HOURS),
                    "too_old": now - timedelta(days=STRIPE_ACCEPTS_DAYS),
                    "live_mode": settings.STRIPE_LIVE_MODE,
                    "stored_wire": stored_wire,
                    "wire": wire,
                    "limit": limit,
                    "candidates": limit * CANDIDATES_PER_CALL,
                },
            )
            rows = cursor.fetchall()
    except IntegrityError as error:
        if "usage_one_call_in_flight_per_pair" not in str(error):
            raise
        # Another worker took a row of the same customer and meter in the same moment, and the
        # index let it win. The next claim skips its pair.
        return ()
    return [
        Claim(
            submission_id=submission_id,
            identifier=identifier,
            payload=payload,
            payload_hash=payload_hash,
            value=value,
            meter_id=meter_id,
            wire=wire,
            attempt_number=attempt_number,
            started_at=now,
            doubt_since=doubt_since,
            lease_ends=lease_ends,
            cancels=cancels,
        )
        for (
            submission_id,
            identifier,
            payload,
            payload_hash,
            value,
            meter_id,
            attempt_number,
            doubt_since,
            cancels,
        ) in rows
    ]


def waiting(*, now: datetime, at_most: int) -> int:
    """Return how many submissions that were never sent are due, counted up to `at_most`."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*) FROM (
                SELECT FROM usage_submissionstate
                WHERE state IN ('ready', 'retry', 'in_doubt') AND wire = ''
                  AND next_action_at <= %s
                LIMIT %s
            ) AS due
            """,
            [now, at_most],
        )
        count: int = cursor.fetchone()[0]
        return count
