"""Cancelling at Stripe: a submission that is wrong as a whole is taken back by its identifier.

Its events are voided and folded at once in a run of their own, and the negative submission that
comes of it is delivered by cancelling the original instead of by sending a meter event. In every
other respect it is a submission like any other: its value is minus the original's whichever way it
went, so the books know nothing of cancelling. `delivery` makes the call in a lane of its own; where
the cancellation cannot be had, it sends a negative meter event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import connection
from django.db.models import QuerySet

from billing import cases, steps
from billing.enums import Aggregation, CaseKind
from billing.gateway import adjustments
from usage import flush, voiding
from usage.enums import Outcome, Wire
from usage.folding import share_boundaries
from usage.lifecycle import COUNTED, State
from usage.models import Cancellation, IngestBatch, Submission, SubmissionState
from usage.outcomes import CASE_HOURS
from usage.voiding import EventKey

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

    The call is the next delivery pass's. The events are voided for every meter they feed:
    whatever else they alone made up is cancelled with it, and the rest is taken back by negative
    meter events.

    Raises:
        CannotCancel: Stripe may not have it, or had it too long, or some of its events were voided.
        Unexplained: author or reason is blank.
    """
    with steps.commit("usage.cancelling.request"):
        share_boundaries()
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
-- By the span first, as in `folding`.
WHERE event.batch_id BETWEEN %(first)s AND %(last)s
  AND event.batch_id + 0 = ANY(%(batches)s::bigint[]) AND event.subject = %(subject)s
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
    batches = list(run.batches.values_list("pk", flat=True))
    with connection.cursor() as cursor:
        cursor.execute(
            EVENTS,
            {
                "run": run.pk,
                "meter": submission.meter_id,
                "batches": batches,
                "first": min(batches),
                "last": max(batches),
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


def _open_case(submission: Submission, *, reason: str, now: datetime) -> None:
    cases.open_case(
        kind=CaseKind.UNPROVEN,
        reference=submission.identifier,
        reason=reason,
        quantity=submission.value,
        deadline_at=now + timedelta(hours=CASE_HOURS),
    )
