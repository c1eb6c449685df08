"""Writing down how attempts ended. An outcome names its attempt; a late one changes nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import structlog
from django.db import connection

from billing import cases, meter_checks, steps
from billing.enums import CaseKind
from usage.backoff import delay
from usage.calling import NO_METER, Ended
from usage.claiming import Claim
from usage.lifecycle import State

log = structlog.get_logger(__name__)

CASE_HOURS = 72
SETTLE_HOURS = 36
"""By then Stripe's summary shows what it accepted; later somebody has to look."""

_RECORD = """
WITH news AS (
    -- One document: to send as many arrays costs several times as much.
    SELECT * FROM json_to_recordset(%(news)s) AS told (
        id bigint, number int, state text, reason text, due timestamptz, started_at timestamptz,
        next_wire text, outcome text, status smallint, code text, request text
    )
), held AS MATERIALIZED (
    -- In the order of their ids, like everybody who locks several. By the key alone: the index of
    -- all that is being sent holds the other workers' rows and those that were.
    SELECT standing.submission_id FROM usage_submissionstate standing
    JOIN news ON news.id = standing.submission_id
    ORDER BY standing.submission_id
    FOR UPDATE OF standing
), moved AS (
    UPDATE usage_submissionstate standing
    SET state = news.state, lease_until = NULL, next_action_at = news.due, reason = news.reason,
        changed_at = %(now)s,
        doubt_since = CASE news.state
            WHEN 'in_doubt' THEN coalesce(standing.doubt_since, news.started_at)
            WHEN 'accepted' THEN NULL ELSE standing.doubt_since END,
        -- What was never taken by either wire may yet choose.
        wire = CASE WHEN news.state = 'retry' AND standing.doubt_since IS NULL
            THEN news.next_wire ELSE standing.wire END
    FROM news JOIN held ON held.submission_id = news.id
    WHERE standing.submission_id = news.id
      AND standing.state = 'sending' AND standing.attempt_count = news.number
    RETURNING standing.submission_id
), ended AS (
    UPDATE usage_attempt attempt
    SET finished_at = %(now)s, outcome = news.outcome, http_status = news.status,
        code = news.code, message = news.reason, request_id = news.request
    FROM news JOIN moved ON moved.submission_id = news.id
    WHERE attempt.submission_id = news.id AND attempt.number = news.number
      AND attempt.outcome IS NULL
)
SELECT submission_id FROM moved
"""


def record(ended: Sequence[Ended], *, now: datetime) -> None:
    """Write how attempts ended, each if the claim is still this worker's, and open their cases."""
    if not ended:
        return
    with steps.commit("usage.delivery.record"):
        moved = _moved(ended, now=now)
        for claim, verdict in ended:
            if claim.submission_id not in moved:
                log.warning(
                    "usage.delivery.late_outcome_discarded",
                    identifier=claim.identifier,
                    attempt=claim.attempt_number,
                    outcome=verdict.outcome,
                )
            elif verdict.state in {State.REJECTED, State.UNPROVEN}:
                _open_case(claim, state=verdict.state, reason=verdict.reason, now=now)
        _report_set_up(ended, now=now)


def _moved(ended: Sequence[Ended], *, now: datetime) -> set[int]:
    news = [
        {
            "id": claim.submission_id,
            "number": claim.attempt_number,
            "started_at": claim.started_at,
            "due": _next_action_at(claim.attempt_number, verdict.state, now=now),
            "state": verdict.state,
            "reason": verdict.reason,
            "next_wire": verdict.next_wire or "",
            "outcome": verdict.outcome,
            "status": verdict.http_status,
            "code": verdict.code,
            "request": verdict.request_id,
        }
        for claim, verdict in ended
    ]
    with connection.cursor() as cursor:
        cursor.execute(_RECORD, {"now": now, "news": msgspec.json.encode(news).decode()})
        return {submission_id for (submission_id,) in cursor.fetchall()}


def _next_action_at(attempt_number: int, state: State, *, now: datetime) -> datetime | None:
    if state == State.ACCEPTED:
        return now + timedelta(hours=SETTLE_HOURS)
    if state in {State.RETRY, State.IN_DOUBT}:
        return now + delay(attempt_count=attempt_number, chance=random.random())  # noqa: S311 - spreads load
    return None


def _open_case(claim: Claim, *, state: State, reason: str, now: datetime) -> None:
    cases.open_case(
        kind=CaseKind.REJECTED if state == State.REJECTED else CaseKind.UNPROVEN,
        reference=claim.identifier,
        reason=reason,
        quantity=claim.value,
        deadline_at=now + timedelta(hours=CASE_HOURS),
    )


def _report_set_up(ended: Sequence[Ended], *, now: datetime) -> None:
    """Tell of what is wrong with our set-up and not with one submission."""
    refusals = {
        claim.meter_id: verdict.reason for claim, verdict in ended if verdict.code == NO_METER
    }
    for meter_id, reason in sorted(refusals.items()):
        meter_checks.block(meter_id, reason, now)
    refused = next((verdict for _, verdict in ended if verdict.is_misconfigured), None)
    if refused is not None:
        cases.open_case(
            kind=CaseKind.MISCONFIGURED,
            reference="stripe",
            reason=refused.reason,
            deadline_at=now + timedelta(hours=4),
        )
