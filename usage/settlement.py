"""Settling: reading the hours of a customer and meter, and closing what Stripe's total proves.

Called by whoever has read Stripe; what a difference means is the caller's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import transaction
from django.db.models import Max, QuerySet
from django.db.models.functions import Coalesce

from billing.cases import close_case
from billing.enums import CaseKind
from usage.cells import HOUR, Cell, Part, Proof
from usage.lifecycle import State
from usage.models import Attempt, Observation, Submission, SubmissionState

LOOK_AGAIN_AFTER = timedelta(days=1)
"""When a submission believed but not settled is next asked about, if no run came by before."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How many submissions a settling moved."""

    settled_count: int = 0
    believed_count: int = 0


def cells(
    *, customer_id: int, meter_id: int, start: datetime, end: datetime
) -> dict[datetime, Cell]:
    """Return the pair's UTC hours in [`start`, `end`) that have a submission, by their start.

    Read after Stripe was read, they show every call that read may have missed.
    """
    return _folded(
        _standings(customer_id, meter_id).filter(
            submission__window_start__gte=start, submission__window_start__lt=end
        )
    )


@transaction.atomic
def settle(
    *,
    customer_id: int,
    meter_id: int,
    observed: Mapping[datetime, Decimal],
    observed_at: datetime,
) -> Settlement:
    """Store what Stripe said of the pair's hours and move the submissions it proves.

    `observed` maps the start of each UTC hour to Stripe's total of it, 0 where it had none;
    `observed_at` is an instant before that read began. Each hour is folded again under a lock, so
    the proof counts for the rows as they are now: an hour attempted since then moves nothing. An
    equal hour's accepted submissions become settled, and unproven ones whose values Stripe's total
    holds are accepted first. A repetition, or a second reconciler at the same time, adds an
    observation and moves nothing.
    """
    # In id order, so that two settlers of one pair wait for each other instead of deadlocking.
    locked = (
        _standings(customer_id, meter_id)
        .filter(submission__window_start__in=observed.keys())
        .order_by("submission_id")
        .select_for_update(of=("self",))
    )
    ours = _folded(locked)
    Observation.objects.bulk_create(
        Observation(
            customer_id=customer_id,
            meter_id=meter_id,
            window_start=hour,
            window_end=hour + HOUR,
            expected=ours[hour].expected if hour in ours else Decimal(0),
            observed=value,
            observed_at=observed_at,
        )
        for hour, value in observed.items()
    )
    proven = {
        hour: proof
        for hour, cell in ours.items()
        if (proof := cell.proof(observed=observed[hour], observed_at=observed_at)) != Proof.NOTHING
    }
    believed = [part.submission_id for hour in proven for part in ours[hour].unproven]
    settled = [
        part.submission_id
        for hour, proof in proven.items()
        if proof == Proof.COMPLETE
        for part in ours[hour].accepted + ours[hour].unproven
    ]
    _believe(believed, at=observed_at)
    # By id and not by hour: what was not locked above was not part of the proof.
    SubmissionState.objects.filter(pk__in=settled).update(
        state=State.SETTLED, next_action_at=None, reason="", changed_at=observed_at
    )
    return Settlement(settled_count=len(settled), believed_count=len(believed))


def _standings(customer_id: int, meter_id: int) -> QuerySet[SubmissionState]:
    # By the submission's columns: its index of cells holds settled rows, too; the standing's own
    # index of pairs holds only open ones.
    return SubmissionState.objects.filter(
        submission__customer_id=customer_id, submission__meter_id=meter_id
    ).select_related("submission")


def _folded(standings: QuerySet[SubmissionState]) -> dict[datetime, Cell]:
    rows = list(standings)
    # After the rows: an attempt starts only by moving one, so none can hide between the two reads
    # of a locked row; for an unlocked one a later attempt only makes the proof more careful.
    last_attempts = dict(
        Attempt.objects.filter(submission_id__in=[row.submission_id for row in rows])
        .order_by()
        .values_list("submission_id")
        .annotate(last_at=Max(Coalesce("finished_at", "started_at")))
    )
    parts: defaultdict[datetime, list[Part]] = defaultdict(list)
    for row in rows:
        parts[row.submission.window_start].append(
            Part(
                submission_id=row.submission_id,
                value=row.submission.value,
                state=State(row.state),
                has_open_doubt=row.doubt_since is not None,
                last_attempt_at=last_attempts.get(row.submission_id),
            )
        )
    return {hour: Cell(hour, tuple(parts[hour])) for hour in sorted(parts)}


def _believe(submission_ids: Sequence[int], *, at: datetime) -> None:
    """Accept unproven submissions that Stripe's total holds, and close their cases."""
    SubmissionState.objects.filter(pk__in=submission_ids).update(
        state=State.ACCEPTED,
        doubt_since=None,
        next_action_at=at + LOOK_AGAIN_AFTER,
        reason="",
        changed_at=at,
    )
    for submission in Submission.objects.filter(pk__in=submission_ids):
        close_case(
            CaseKind.UNPROVEN, submission.identifier, "Stripe's summary of the hour holds it."
        )
