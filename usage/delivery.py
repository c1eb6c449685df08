"""Sending submissions to Stripe: claim and commit, call with nothing open, record the outcome.

The state machine is `lifecycle`'s; what goes over the wire was frozen by `flush`. A crash at any
point leaves a row that says what was tried, and `sweep` finds it by its lease.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import QuerySet

from billing import cases
from billing.enums import CaseKind
from billing.gateway import errors, meter_events
from billing.gateway.transport import NotSent
from usage import wire
from usage.backoff import delay
from usage.clock import Clock
from usage.enums import Outcome, Wire
from usage.lateness import MAY_BE_SENT
from usage.lifecycle import State
from usage.models import Attempt, Submission, SubmissionState

log = structlog.get_logger(__name__)

STRIPE_ACCEPTS_DAYS = 34.5
"""Stripe refuses a timestamp 35 days old; half a day is left for the call and its repetitions."""
MISCONFIGURED = "misconfigured"
"""Our own code for an attempt Stripe refused for what we are, not for what was sent."""
SILENCES_IN_A_ROW = 5
"""After so many calls without a proper answer Stripe counts as unwell."""
CASE_HOURS = 72
ROWS_PER_SWEEP = 1_000
"""Bounds the transaction in which a long outage's rows become cases; the next pass goes on."""
SETTLE_HOURS = 36
"""By then Stripe's summary shows what it accepted; later somebody has to look."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A submission taken by this worker until its lease is over."""

    submission: Submission
    attempt_number: int
    started_at: datetime
    doubt_since: datetime | None
    lease_ends: float
    """On the monotonic clock, which no time server turns back."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended and where its submission goes."""

    outcome: Outcome
    state: State
    reason: str = ""
    http_status: int | None = None
    code: str = ""
    request_id: str = ""

    @property
    def is_misconfigured(self) -> bool:
        """Whether Stripe refuses our key or our set-up, so that no other call would fare better."""
        return self.code == MISCONFIGURED

    @property
    def is_silence(self) -> bool:
        """Whether it says that Stripe is unwell, rather than something about the submission."""
        return _is_silence(self.outcome, self.http_status)


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one pass did: attempts by outcome, and rows the sweep moved by what befell them."""

    counts: Counter[str]
    ran_out_of_time: bool


def deliver_due(*, clock: Clock, seconds: float | None = None) -> PassResult:
    """Send what is due, oldest first, one call at a time; make no new claim after `seconds`.

    Any number of workers may run it at once; a repetition finds only what is still due. It ends
    early when Stripe is unwell, and for every row when our set-up is refused. As long as the last
    calls of any worker met silence, a pass begins with a harmless read and ends if that fails, so
    that hours of outage put no more into doubt than their first moments did.
    """
    ends = time.monotonic() + (seconds or settings.USAGE_DELIVERY_PASS_SECONDS)
    counts = sweep(now=clock())
    if _met_silence() and not _answers():
        log.warning("usage.delivery.stripe_unwell")
        return PassResult(counts, ran_out_of_time=False)
    silences = 0
    for claim in _claims(clock, until=ends):
        verdict = _attempt(claim)
        _record(claim, verdict, now=clock())
        counts[verdict.outcome] += 1
        silences = silences + 1 if verdict.is_silence else 0
        if silences == SILENCES_IN_A_ROW or verdict.is_misconfigured:
            log.warning("usage.delivery.pass_ended_early", reason=verdict.reason)
            return PassResult(counts, ran_out_of_time=False)
    return PassResult(counts, ran_out_of_time=time.monotonic() >= ends)


def _met_silence() -> bool:
    """Return whether the newest calls, whoever made them, all met silence.

    Read from the attempts and never stored: a flag could outlive its cause.
    """
    newest = (
        Attempt.objects.filter(outcome__isnull=False)
        .order_by("-pk")
        .values_list("outcome", "http_status")[:SILENCES_IN_A_ROW]
    )
    met = [_is_silence(outcome, http_status) for outcome, http_status in newest]
    return len(met) == SILENCES_IN_A_ROW and all(met)


def _is_silence(outcome: str | None, http_status: int | None) -> bool:
    # No connection is no doubt, but no sign of health either.
    return outcome == Outcome.UNKNOWN or (outcome == Outcome.NOT_ACCEPTED and http_status is None)


def _answers() -> bool:
    """Return whether Stripe answers a read, which puts nothing into doubt."""
    try:
        meter_events.probe()
    except errors.GatewayError as error:
        # Any other answer is one; what it has against us, the submissions' own calls will tell.
        return not isinstance(error, errors.Unavailable | errors.NotAccepted)
    return True


STALLED = """
WITH stalled AS (
    SELECT submission_id, attempt_count FROM usage_submissionstate
    WHERE state = 'sending' AND lease_until < %(now)s
    FOR UPDATE SKIP LOCKED
)
UPDATE usage_submissionstate standing
SET state = 'in_doubt', lease_until = NULL, changed_at = %(now)s, next_action_at = %(now)s,
    doubt_since = coalesce(standing.doubt_since, attempt.started_at),
    reason = 'the worker that sent it never said how it ended'
FROM stalled
JOIN usage_attempt attempt
  ON attempt.submission_id = stalled.submission_id AND attempt.number = stalled.attempt_count
WHERE standing.submission_id = stalled.submission_id
"""


def sweep(*, now: datetime) -> Counter[str]:
    """Move what waited too long: leases that are over, doubts that are, usage Stripe won't take.

    Each row goes by a legal move and, where only a person can go on, into a case. A repetition
    finds what is left, or nothing more.
    """
    counts: Counter[str] = Counter()
    with connection.cursor() as cursor:
        cursor.execute(STALLED, {"now": now})
        counts["stalled"] = cursor.rowcount
    due = SubmissionState.objects.filter(next_action_at__lte=now)
    counts["unproven"] = _give_to_a_person(
        due.filter(
            state__in=[State.IN_DOUBT, State.RETRY],
            doubt_since__lte=now - timedelta(hours=settings.USAGE_DOUBT_HOURS),
        ),
        state=State.UNPROVEN,
        kind=CaseKind.UNPROVEN,
        reason=f"in doubt for {settings.USAGE_DOUBT_HOURS} h; only Stripe's summary can tell now",
        now=now,
    )
    counts["expired"] = _give_to_a_person(
        due.filter(
            state__in=[State.READY, State.RETRY],
            doubt_since__isnull=True,
            submission__timestamp__lte=now - timedelta(days=STRIPE_ACCEPTS_DAYS),
        ),
        state=State.EXPIRED,
        kind=CaseKind.EXPIRED,
        reason="too old for Stripe to take",
        now=now,
    )
    return +counts


def _give_to_a_person(
    rows: QuerySet[SubmissionState], *, state: State, kind: CaseKind, reason: str, now: datetime
) -> int:
    """Move `rows` to `state`, each with a case, `ROWS_PER_SWEEP` at most; return how many."""
    with transaction.atomic():
        locked = list(
            rows.select_related("submission")
            .order_by("next_action_at", "pk")
            .select_for_update(skip_locked=True, of=("self",))[:ROWS_PER_SWEEP]
        )
        for standing in locked:
            _open_case(standing.submission, kind=kind, reason=reason, now=now)
        SubmissionState.objects.filter(pk__in=[standing.pk for standing in locked]).update(
            state=state, next_action_at=None, lease_until=None, reason=reason, changed_at=now
        )
        return len(locked)


def _open_case(submission: Submission, *, kind: CaseKind, reason: str, now: datetime) -> None:
    cases.open_case(
        kind=kind,
        reference=submission.identifier,
        reason=reason,
        quantity=submission.value,
        deadline_at=now + timedelta(hours=CASE_HOURS),
    )


CLAIM = f"""
UPDATE usage_submissionstate standing
SET state = 'sending', wire = 'v1', attempt_count = standing.attempt_count + 1, lease_until = %(lease_until)s,
    next_action_at = %(lease_until)s, changed_at = %(now)s
FROM (
    SELECT due.submission_id FROM usage_submissionstate due
    JOIN usage_submission submission ON submission.id = due.submission_id
    WHERE due.next_action_at <= %(now)s AND due.state IN ('ready', 'retry', 'in_doubt')
      AND (due.doubt_since IS NULL OR due.doubt_since > %(doubt_ends)s)
      AND submission.timestamp > %(too_old)s AND submission.live_mode = %(live_mode)s
      AND {MAY_BE_SENT}
      AND NOT EXISTS (
          SELECT FROM usage_submissionstate flying
          WHERE flying.customer_id = due.customer_id AND flying.meter_id = due.meter_id
            AND flying.state = 'sending'
      )
    ORDER BY due.next_action_at, due.submission_id
    LIMIT 1
    FOR UPDATE OF due SKIP LOCKED
) AS oldest
WHERE standing.submission_id = oldest.submission_id
RETURNING standing.submission_id, standing.attempt_count, standing.doubt_since
"""


def _claims(clock: Clock, *, until: float) -> Iterator[Claim]:
    """Claim one due submission after the other, until none is due or the time is up."""
    while time.monotonic() < until:
        try:
            claim = _claim(clock)
        except IntegrityError:
            # Another worker took a row of the same customer and meter in the same moment; the
            # index that keeps one call in flight let it win. Its pair is skipped from now on.
            continue
        if claim is None:
            return
        yield claim


def _claim(clock: Clock) -> Claim | None:
    """Take the oldest due submission whose pair has no call in flight, and write the attempt.

    Both are committed when this returns, before a byte leaves. None: nothing is due.

    Raises:
        IntegrityError: another worker won the pair; nothing was changed.
    """
    # Read before the clock: a worker that was stopped anywhere since then, with an instant gone
    # stale by which it judges doubts and leases, finds its lease over before the first byte.
    lease_ends = time.monotonic() + settings.USAGE_LEASE_SECONDS
    now = clock()
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(
                CLAIM,
                {
                    "now": now,
                    "lease_until": now + timedelta(seconds=settings.USAGE_LEASE_SECONDS),
                    "doubt_ends": now - timedelta(hours=settings.USAGE_DOUBT_HOURS),
                    "too_old": now - timedelta(days=STRIPE_ACCEPTS_DAYS),
                    "live_mode": settings.STRIPE_LIVE_MODE,
                },
            )
            row = cursor.fetchone()
        if row is None:
            return None
        submission_id, attempt_number, doubt_since = row
        Attempt.objects.create(
            submission_id=submission_id, number=attempt_number, wire=Wire.V1, started_at=now
        )
        return Claim(
            submission=Submission.objects.get(pk=submission_id),
            attempt_number=attempt_number,
            started_at=now,
            doubt_since=doubt_since,
            lease_ends=lease_ends,
        )


def _attempt(claim: Claim) -> Verdict:
    """Make the call and say how it ended. Whatever is not known to be an end is a doubt."""
    submission = claim.submission
    if wire.fingerprint(submission.payload) != submission.payload_hash:
        return Verdict(Outcome.REJECTED, _refused(claim), "its payload is not the one frozen")

    def lease_holds() -> None:
        if time.monotonic() >= claim.lease_ends:
            raise NotSent("the lease was over before the first byte")

    try:
        receipt = meter_events.send(
            json.loads(submission.payload),
            check=lease_holds,
            idempotency_key=meter_events.new_idempotency_key(),
        )
    except errors.NotAccepted as error:
        return _failed(error, Outcome.NOT_ACCEPTED, State.RETRY)
    except errors.Misconfigured as error:
        return _failed(error, Outcome.NOT_ACCEPTED, State.RETRY, code=MISCONFIGURED)
    except errors.Rejected as error:
        return _failed(error, Outcome.REJECTED, _refused(claim))
    except errors.Unavailable as error:
        return _failed(error, Outcome.UNKNOWN, State.IN_DOUBT)
    outcome = Outcome.DUPLICATE if receipt.is_duplicate else Outcome.ACCEPTED
    return Verdict(outcome, State.ACCEPTED, request_id=receipt.request_id)


def _refused(claim: Claim) -> State:
    """Return where a final refusal leads: it says nothing of an earlier attempt in doubt."""
    return State.REJECTED if claim.doubt_since is None else State.UNPROVEN


def _failed(
    error: errors.GatewayError, outcome: Outcome, state: State, *, code: str = ""
) -> Verdict:
    return Verdict(
        outcome,
        state,
        reason=error.message,
        http_status=error.http_status,
        code=code or error.code,
        request_id=error.request_id,
    )


def _record(claim: Claim, verdict: Verdict, *, now: datetime) -> None:
    """Write the outcome, if the claim is still this worker's; a late one changes nothing."""
    repeat_at = now + delay(attempt_count=claim.attempt_number, chance=random.random())  # noqa: S311 - spreads load
    next_action_at = {
        State.ACCEPTED: now + timedelta(hours=SETTLE_HOURS),
        State.RETRY: repeat_at,
        State.IN_DOUBT: repeat_at,
    }.get(verdict.state)
    doubt_since = claim.doubt_since
    if verdict.state == State.IN_DOUBT:
        doubt_since = doubt_since or claim.started_at
    elif verdict.state == State.ACCEPTED:
        doubt_since = None
    with transaction.atomic():
        moved = SubmissionState.objects.filter(
            submission=claim.submission,
            state=State.SENDING,
            attempt_count=claim.attempt_number,
        ).update(
            state=verdict.state,
            lease_until=None,
            doubt_since=doubt_since,
            next_action_at=next_action_at,
            reason=verdict.reason,
            changed_at=now,
        )
        if not moved:
            log.warning(
                "usage.delivery.late_outcome_discarded",
                identifier=claim.submission.identifier,
                attempt=claim.attempt_number,
                outcome=verdict.outcome,
            )
            return
        Attempt.objects.filter(
            submission=claim.submission, number=claim.attempt_number, outcome__isnull=True
        ).update(
            finished_at=now,
            outcome=verdict.outcome,
            http_status=verdict.http_status,
            code=verdict.code,
            message=verdict.reason,
            request_id=verdict.request_id,
        )
        if verdict.state in {State.REJECTED, State.UNPROVEN}:
            _open_case(
                claim.submission,
                kind=CaseKind.REJECTED if verdict.state == State.REJECTED else CaseKind.UNPROVEN,
                reason=verdict.reason,
                now=now,
            )
        elif verdict.is_misconfigured:
            cases.open_case(
                kind=CaseKind.MISCONFIGURED,
                reference="stripe",
                reason=verdict.reason,
                deadline_at=now + timedelta(hours=4),
            )
