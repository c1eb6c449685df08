"""Cancelling at Stripe: a submission that is wrong as a whole is taken back by its identifier.

Its events are voided and folded at once in a run of their own, and the negative submission that
comes of it is delivered by cancelling the original instead of by sending a meter event. In every
other respect it is a submission like any other: its value is minus the original's whichever way it
went, so the books know nothing of cancelling. Where the cancellation cannot be had, it is sent as
a negative meter event; that is `delivery`'s, and so are leases that ran out.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from django.conf import settings
from django.db import connection
from django.db.models import QuerySet

from billing import cases, steps
from billing.enums import Aggregation, CaseKind
from billing.gateway import adjustments, errors
from billing.gateway.meter_events import new_idempotency_key
from billing.gateway.transport import NotSent
from usage import flush, voiding
from usage.backoff import delay
from usage.clock import Clock
from usage.delivery import CASE_HOURS, MISCONFIGURED, SETTLE_HOURS
from usage.enums import Outcome, Wire
from usage.lifecycle import COUNTED, State
from usage.models import Attempt, Cancellation, IngestBatch, Submission, SubmissionState
from usage.voiding import EventKey

log = structlog.get_logger(__name__)

MARGIN = timedelta(hours=1)
"""No call begins later than this before Stripe's span is over: no clock of ours is Stripe's."""
LATE_ARRIVAL = timedelta(minutes=15)
"""How long after its start a call given up on may still arrive. Stripe does not say whether a
cancelled identifier is still refused, so a stray repeat of the original must be over by then."""
ADDED = frozenset({Aggregation.SUM, Aggregation.COUNT})
"""Aggregations whose submissions Stripe adds up, so that one less is its value less."""
NEVER = datetime.min.replace(tzinfo=UTC)
FOLDED_OTHERWISE = "its events do not fold into it any more"
ROWS_PER_SWEEP = 1_000


class CannotCancel(Exception):
    """The submission cannot be cancelled at Stripe. Nothing was voided; its events still can be."""

    def __init__(self, submission: Submission, obstacle: str) -> None:
        super().__init__(
            f"{submission.identifier} cannot be cancelled: {obstacle}. Nothing was voided; its"
            " events can be, which sends their negative."
        )
        self.submission = submission
        self.obstacle = obstacle


@dataclass(frozen=True, slots=True)
class Requested:
    """What a cancellation set going: events voided, submissions to be cancelled, others made.

    An event feeds several meters, so one submission's events may be all, or a part, of others'.
    """

    event_count: int
    cancelled: tuple[Submission, ...]
    negative_count: int
    """Submissions that take the rest back by a negative meter event."""


def cancel_submission(
    submission: Submission, *, author: str, reason: str, now: datetime
) -> Requested:
    """Void all events of `submission` and have Stripe cancel it. One transaction, and no call.

    `cancel_due` calls. The events are voided for every meter they feed: whatever else they alone
    made up is cancelled with it, and the rest is taken back by negative meter events.

    Raises:
        CannotCancel: Stripe may not have it, or had it too long, or some of its events were voided.
        Unexplained: author or reason is blank.
    """
    with steps.commit("usage.cancelling.request"):
        siblings = _lock(submission)
        obstacle = _obstacle(siblings.get(submission.pk), now=now)
        if obstacle:
            raise CannotCancel(submission, obstacle)
        events = _events_of(submission)
        if not events:
            raise CannotCancel(submission, FOLDED_OTHERWISE)
        voided = voiding.void(events, author=author, reason=reason, now=now)
        if voided.already:
            raise CannotCancel(submission, "some of its events were voided before")
        _lock_batches(voided.batches)
        flush.fold_batches(voided.batches, now=now)
        run_id = IngestBatch.objects.values_list("run_id", flat=True).get(pk=voided.batches[0][0])
        cancelled = []
        negatives = list(Submission.objects.filter(run_id=run_id).order_by("pk"))
        for negative in negatives:
            standing = _whole(negative, siblings)
            if standing is not None and not _obstacle(standing, now=now):
                _mark(negative, standing.submission, author=author, reason=reason, now=now)
                cancelled.append(standing.submission)
        if submission not in cancelled:
            raise CannotCancel(submission, FOLDED_OTHERWISE)
        return Requested(len(voided.voided), tuple(cancelled), len(negatives) - len(cancelled))


def _lock(submission: Submission) -> Mapping[int, SubmissionState]:
    """Lock where the submissions of the same run, customer and hour stand; return it by id."""
    rows = (
        SubmissionState.objects.filter(
            submission__run_id=submission.run_id,
            submission__customer_id=submission.customer_id,
            submission__window_start=submission.window_start,
        )
        .select_related("submission__meter", "submission__customer")
        .order_by("submission_id")
        .select_for_update(of=("self",))
    )
    return {row.submission_id: row for row in rows}


def _lock_batches(batches: tuple[tuple[int, int], ...]) -> None:
    # Ours alone until the commit; by the same rule as every flush all the same.
    ids = [batch_id for batch_id, _ in batches]
    list(IngestBatch.objects.filter(pk__in=ids).order_by("pk").select_for_update())


def _obstacle(standing: SubmissionState | None, *, now: datetime) -> str:
    """Return why Stripe cannot be asked to cancel it, or nothing."""
    if standing is None:
        return "it stands nowhere"
    submission = standing.submission
    is_unverified = standing.wire == Wire.STREAM and standing.state != State.SETTLED
    is_known = standing.state in COUNTED and standing.doubt_since is None and not is_unverified
    obstacles = (
        (submission.replaces_id is not None, "it stands in for others, and its events are theirs"),
        (submission.meter.aggregation not in ADDED, "a running value is computed again instead"),
        (submission.value <= 0, "it takes usage back itself"),
        (not is_known, "Stripe is not known to have it"),
        (now >= _possible_until(submission), "Stripe received it too long ago"),
        (Cancellation.objects.filter(original=submission).exists(), "it has been cancelled"),
    )
    return next((text for stands, text in obstacles if stands), "")


def _possible_until(submission: Submission) -> datetime:
    """Return until when Stripe surely takes a cancellation of it, not included.

    Counted from the first attempt, because any of them may be the one that Stripe received. One
    that was never sent has nothing to be cancelled.
    """
    started_at: datetime | None = (
        submission.attempts.order_by("number").values_list("started_at", flat=True).first()
    )
    return NEVER if started_at is None else started_at + adjustments.SPAN - MARGIN


EVENTS = """
SELECT DISTINCT event.source_id, event.event_id
FROM usage_usageevent event
JOIN usage_flushrun run ON run.id = %(run)s
JOIN billing_meterversion version
  ON version.id = ANY(run.meter_versions) AND version.event_type = event.type
 AND version.meter_id = %(meter)s AND event.occurred_at >= version.effective_from
 AND (version.effective_until IS NULL OR event.occurred_at < version.effective_until)
WHERE event.batch_id = ANY(%(batches)s) AND event.subject = %(subject)s
  AND event.voids IS NULL
  AND event.occurred_at >= %(start)s AND event.occurred_at < %(end)s
"""
"""Voids are left out: a submission they had a part in is refused, its total being another."""


def _events_of(submission: Submission) -> list[EventKey]:
    """Return the events its run folded into it, by today's boundaries."""
    run = submission.run
    boundary: datetime | None = (
        submission.customer.boundaries.filter(at__gt=submission.segment_start)
        .order_by("at")
        .values_list("at", flat=True)
        .first()
    )
    end = submission.window_start + timedelta(hours=1)
    with connection.cursor() as cursor:
        cursor.execute(
            EVENTS,
            {
                "run": run.pk,
                "meter": submission.meter_id,
                "batches": list(run.batches.values_list("pk", flat=True)),
                "subject": submission.customer.external_id,
                "start": submission.segment_start,
                "end": min(end, boundary) if boundary is not None else end,
            },
        )
        return [EventKey(source_id, event_id) for source_id, event_id in cursor.fetchall()]


def _whole(negative: Submission, siblings: Mapping[int, SubmissionState]) -> SubmissionState | None:
    """Return where the submission stands that `negative` takes back, if it does so exactly."""
    wanted = _place(negative), negative.event_count, -negative.value
    for standing in siblings.values():
        submission = standing.submission
        if (_place(submission), submission.event_count, submission.value) == wanted:
            return standing
    return None


def _place(submission: Submission) -> tuple[object, ...]:
    return (
        submission.customer_id,
        submission.meter_id,
        submission.segment_start,
        submission.part,
        # A customer or meter that is another one at Stripe by now has another total there.
        submission.stripe_customer_id,
        submission.event_name,
        submission.live_mode,
    )


def _mark(
    negative: Submission, original: Submission, *, author: str, reason: str, now: datetime
) -> None:
    """Have `negative` delivered by cancelling `original`."""
    Cancellation.objects.create(
        submission=negative,
        original=original,
        possible_until=_possible_until(original),
        author=author.strip(),
        reason=reason.strip(),
        created_at=now,
    )
    stray = (
        original.attempts.exclude(outcome__in=[Outcome.ACCEPTED, Outcome.DUPLICATE])
        .order_by("-started_at")
        .values_list("started_at", flat=True)
        .first()
    )
    SubmissionState.objects.filter(submission=negative).update(
        wire=Wire.CANCEL,
        next_action_at=now if stray is None else max(now, stray + LATE_ARRIVAL),
    )


@dataclass(frozen=True, slots=True)
class _Claim:
    negative: Submission
    original: Submission
    attempt_number: int
    started_at: datetime
    doubt_since: datetime | None
    lease_ends: float
    """On the monotonic clock."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    outcome: Outcome
    state: State
    wire: Wire | None = Wire.CANCEL
    """None gives up cancelling: it is sent as a negative meter event."""
    error: errors.GatewayError | None = None
    request_id: str = ""

    @property
    def reason(self) -> str:
        return self.error.message if self.error else ""

    @property
    def is_misconfigured(self) -> bool:
        return isinstance(self.error, errors.Misconfigured)


def cancel_due(*, clock: Clock, seconds: float) -> Counter[str]:
    """Ask Stripe for the cancellations that are due, oldest first; begin none after `seconds`.

    Return the calls by their outcome, and how many waited too long. Any number of workers may run
    it at once; a repetition finds only what is still due. It ends early when Stripe is unwell or
    refuses our set-up.
    """
    ends = time.monotonic() + seconds
    counts = sweep(now=clock())
    while time.monotonic() < ends:
        claim = _claim(clock)
        if claim is None:
            break
        verdict = _attempt(claim)
        _record(claim, verdict, now=clock())
        counts[verdict.outcome] += 1
        if isinstance(verdict.error, errors.Unavailable | errors.Misconfigured):
            log.warning("usage.cancelling.pass_ended_early", reason=verdict.reason)
            break
    return +counts


def sweep(*, now: datetime) -> Counter[str]:
    """Give up cancellations that Stripe takes no more.

    One that is known not to be done goes on as a negative meter event; of one in doubt, only
    Stripe's total can tell.
    """
    counts: Counter[str] = Counter()
    late = SubmissionState.objects.filter(
        wire=Wire.CANCEL,
        state__in=[State.READY, State.RETRY, State.IN_DOUBT],
        submission__cancellation__possible_until__lte=now,
    )
    with steps.commit("usage.cancelling.fall_back"):
        undone = _locked(late.filter(doubt_since__isnull=True))
        counts["fell_back"] = SubmissionState.objects.filter(
            pk__in=[standing.pk for standing in undone]
        ).update(wire="", next_action_at=now, changed_at=now, reason="too late to cancel it")
    reason = "whether it was cancelled is not known; only Stripe's summary can tell now"
    with steps.commit("usage.cancelling.give_up"):
        locked = _locked(late.filter(doubt_since__isnull=False))
        for standing in locked:
            _open_case(standing.submission, reason=reason, now=now)
        counts["unproven"] = SubmissionState.objects.filter(
            pk__in=[standing.pk for standing in locked]
        ).update(
            state=State.UNPROVEN,
            next_action_at=None,
            lease_until=None,
            reason=reason,
            changed_at=now,
        )
    return +counts


def _locked(rows: QuerySet[SubmissionState]) -> list[SubmissionState]:
    return list(
        rows.select_related("submission")
        .order_by("pk")
        .select_for_update(skip_locked=True, of=("self",))[:ROWS_PER_SWEEP]
    )


CLAIM = """
UPDATE usage_submissionstate standing
SET state = 'sending', attempt_count = standing.attempt_count + 1,
    lease_until = %(lease_until)s, next_action_at = %(lease_until)s, changed_at = %(now)s
FROM (
    SELECT due.submission_id, cancellation.original_id
    FROM usage_submissionstate due
    JOIN usage_submission submission ON submission.id = due.submission_id
    JOIN usage_cancellation cancellation ON cancellation.submission_id = due.submission_id
    WHERE due.next_action_at <= %(now)s AND due.state IN ('ready', 'retry', 'in_doubt')
      AND due.wire = 'cancel' AND cancellation.possible_until > %(now)s
      AND submission.live_mode = %(live_mode)s
      -- An hour whose doubt only Stripe's total can settle holds still (F88).
      AND NOT EXISTS (
          SELECT FROM usage_submissionstate frozen
          JOIN usage_submission its ON its.id = frozen.submission_id
          WHERE frozen.customer_id = due.customer_id AND frozen.meter_id = due.meter_id
            AND frozen.state = 'unproven' AND its.window_start = submission.window_start
      )
    ORDER BY due.next_action_at, due.submission_id
    LIMIT 1
    FOR UPDATE OF due SKIP LOCKED
) AS oldest
WHERE standing.submission_id = oldest.submission_id
RETURNING standing.submission_id, oldest.original_id, standing.attempt_count, standing.doubt_since
"""


def _claim(clock: Clock) -> _Claim | None:
    """Take the oldest due cancellation and write its attempt, committed before a byte leaves."""
    # Before the clock is read: see `delivery`.
    lease_ends = time.monotonic() + settings.USAGE_LEASE_SECONDS
    now = clock()
    with steps.commit("usage.cancelling.claim"):
        with connection.cursor() as cursor:
            cursor.execute(
                CLAIM,
                {
                    "now": now,
                    "lease_until": now + timedelta(seconds=settings.USAGE_LEASE_SECONDS),
                    "live_mode": settings.STRIPE_LIVE_MODE,
                },
            )
            row = cursor.fetchone()
        if row is None:
            return None
        negative_id, original_id, attempt_number, doubt_since = row
        Attempt.objects.create(
            submission_id=negative_id, number=attempt_number, wire=Wire.CANCEL, started_at=now
        )
        both = Submission.objects.in_bulk([negative_id, original_id])
    return _Claim(
        negative=both[negative_id],
        original=both[original_id],
        attempt_number=attempt_number,
        started_at=now,
        doubt_since=doubt_since,
        lease_ends=lease_ends,
    )


def _attempt(claim: _Claim) -> _Verdict:
    """Make the call and say how it ended. Whatever is not known to be an end is a doubt."""

    def lease_holds() -> None:
        if time.monotonic() >= claim.lease_ends:
            raise NotSent("the lease was over before the first byte")

    try:
        with steps.call("usage.cancelling.cancel"):
            receipt = adjustments.cancel(
                event_name=claim.original.event_name,
                identifier=claim.original.identifier,
                check=lease_holds,
                idempotency_key=new_idempotency_key(),
            )
    except (errors.NotAccepted, errors.Misconfigured) as error:
        return _Verdict(Outcome.NOT_ACCEPTED, State.RETRY, error=error)
    except errors.Rejected as error:
        # It says nothing of an earlier attempt, which may have been done.
        if claim.doubt_since is not None:
            return _Verdict(Outcome.REJECTED, State.UNPROVEN, error=error)
        return _Verdict(Outcome.NOT_ACCEPTED, State.RETRY, wire=None, error=error)
    except errors.Unavailable as error:
        return _Verdict(Outcome.UNKNOWN, State.IN_DOUBT, error=error)
    outcome = Outcome.DUPLICATE if receipt.is_duplicate else Outcome.ACCEPTED
    return _Verdict(outcome, State.ACCEPTED, request_id=receipt.request_id)


def _record(claim: _Claim, verdict: _Verdict, *, now: datetime) -> None:
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
    error = verdict.error
    with steps.commit("usage.cancelling.record"):
        moved = SubmissionState.objects.filter(
            submission=claim.negative, state=State.SENDING, attempt_count=claim.attempt_number
        ).update(
            state=verdict.state,
            wire=verdict.wire or "",
            lease_until=None,
            doubt_since=doubt_since,
            next_action_at=next_action_at,
            reason=verdict.reason,
            changed_at=now,
        )
        if not moved:
            log.warning(
                "usage.cancelling.late_outcome_discarded",
                identifier=claim.negative.identifier,
                attempt=claim.attempt_number,
                outcome=verdict.outcome,
            )
            return
        Attempt.objects.filter(
            submission=claim.negative, number=claim.attempt_number, outcome__isnull=True
        ).update(
            finished_at=now,
            outcome=verdict.outcome,
            http_status=error.http_status if error else None,
            code=MISCONFIGURED if verdict.is_misconfigured else (error.code if error else ""),
            message=verdict.reason,
            request_id=error.request_id if error else verdict.request_id,
        )
        if verdict.state == State.UNPROVEN:
            _open_case(claim.negative, reason=verdict.reason, now=now)
        elif verdict.is_misconfigured:
            cases.open_case(
                kind=CaseKind.MISCONFIGURED,
                reference="stripe",
                reason=verdict.reason,
                deadline_at=now + timedelta(hours=4),
            )


def _open_case(submission: Submission, *, reason: str, now: datetime) -> None:
    cases.open_case(
        kind=CaseKind.UNPROVEN,
        reference=submission.identifier,
        reason=reason,
        quantity=submission.value,
        deadline_at=now + timedelta(hours=CASE_HOURS),
    )
