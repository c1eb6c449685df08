"""Records of submissions: what is on file of some of them, and lists to look through.

Reading only; the whole of a usage event's way is `life_story`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import QuerySet

from billing.models import Customer, Meter
from usage.enums import HeldReason
from usage.lifecycle import State
from usage.models import Attempt, Cancellation, HeldUsage, Observation, Submission


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What a list is narrowed to; None is everything.

    `customers` are external ids. Of the hours, `since` is included and `until` is not.
    """

    customers: Collection[str] | None = None
    meter: Meter | None = None
    since: datetime | None = None
    until: datetime | None = None
    run_id: int | None = None


@dataclass(frozen=True, slots=True)
class SubmissionRecord:
    """One submission and everything on file about it.

    `submission` comes with its customer, meter, standing, the decision that superseded it and the
    one it stands in for. `proof` is the observation that settled it. `stand_ins` and `held` are
    what stands for it, when it was superseded. `takes_back` is its cancellation when it is the
    negative of another, `taken_back` when another is its negative.
    """

    submission: Submission
    attempts: tuple[Attempt, ...]
    proof: Observation | None
    stand_ins: tuple[Submission, ...]
    held: tuple[HeldUsage, ...]
    takes_back: Cancellation | None
    taken_back: Cancellation | None

    @property
    def state(self) -> State:
        """Where it stands."""
        return State(self.submission.standing.state)


WITH_ALL = (
    "customer",
    "meter",
    "standing__replaced_by",
    "replaces",
    "cancellation__original",
    "cancelled_by__submission",
)


def submissions(
    narrowed: Narrowing, *, states: Collection[State] = (), identifier: str = ""
) -> QuerySet[Submission]:
    """Return the submissions a list shows, in no order, with what `WITH_ALL` does not add."""
    rows = Submission.objects.select_related("customer", "meter", "standing").order_by()
    if narrowed.customers is not None:
        # By their ids, so that the database knows how many rows to expect.
        known = Customer.objects.filter(external_id__in=narrowed.customers)
        rows = rows.filter(customer_id__in=list(known.values_list("pk", flat=True)))
    if states:
        rows = rows.filter(standing__state__in=sorted(states))
    if identifier:
        rows = rows.filter(identifier=identifier)
    return _within(rows, narrowed)


def held_usage(
    narrowed: Narrowing,
    *,
    reasons: Collection[HeldReason] = (),
    is_released: bool | None = None,
) -> QuerySet[HeldUsage]:
    """Return the held rows a list shows, in no order; with `is_released` None, of either kind."""
    rows = HeldUsage.objects.select_related("meter").order_by()
    if narrowed.customers is not None:
        rows = rows.filter(subject__in=list(narrowed.customers))
    if is_released is not None:
        rows = rows.filter(released_at__isnull=not is_released)
    if reasons:
        rows = rows.filter(reason__in=sorted(reasons))
    return _within(rows, narrowed)


def _within(rows: QuerySet, narrowed: Narrowing) -> QuerySet:  # type: ignore[type-arg]  # of two tables
    if narrowed.meter is not None:
        rows = rows.filter(meter=narrowed.meter)
    if narrowed.since is not None:
        rows = rows.filter(window_start__gte=narrowed.since)
    if narrowed.until is not None:
        rows = rows.filter(window_start__lt=narrowed.until)
    if narrowed.run_id is not None:
        rows = rows.filter(run_id=narrowed.run_id)
    return rows


def records(rows: QuerySet[Submission]) -> list[SubmissionRecord]:
    """Return everything on file about some submissions, oldest first. Five queries, at most."""
    found = list(rows.select_related(*WITH_ALL).order_by("pk"))
    if not found:
        return []
    attempts: defaultdict[int, list[Attempt]] = defaultdict(list)
    for attempt in Attempt.objects.filter(submission__in=found).order_by("number"):
        attempts[attempt.submission_id].append(attempt)
    decisions = {each.standing.replaced_by_id for each in found} - {None}
    stand_ins: defaultdict[int | None, list[Submission]] = defaultdict(list)
    held: defaultdict[int | None, list[HeldUsage]] = defaultdict(list)
    if decisions:
        for stand_in in Submission.objects.filter(replaces__in=decisions).order_by("pk"):
            stand_ins[stand_in.replaces_id].append(stand_in)
        for row in HeldUsage.objects.filter(replaces__in=decisions).order_by("pk"):
            held[row.replaces_id].append(row)
    proofs = _proofs(each for each in found if each.standing.state == State.SETTLED)
    return [
        SubmissionRecord(
            submission=each,
            attempts=tuple(attempts[each.pk]),
            proof=proofs.get(each.pk),
            stand_ins=tuple(stand_ins[each.standing.replaced_by_id]),
            held=tuple(held[each.standing.replaced_by_id]),
            takes_back=getattr(each, "cancellation", None),
            taken_back=getattr(each, "cancelled_by", None),
        )
        for each in found
    ]


def _proofs(settled: Iterable[Submission]) -> dict[int, Observation]:
    """Return, by submission id, the observation each was settled by: both bear one instant."""
    rows: Sequence[Submission] = list(settled)
    if not rows:
        return {}
    seen = Observation.objects.filter(
        customer_id__in={each.customer_id for each in rows},
        meter_id__in={each.meter_id for each in rows},
        window_start__in={each.window_start for each in rows},
        observed_at__in={each.standing.changed_at for each in rows},
    )
    by_place = {
        (each.customer_id, each.meter_id, each.window_start, each.observed_at): each
        for each in seen
    }
    found = {
        each.pk: by_place.get(
            (each.customer_id, each.meter_id, each.window_start, each.standing.changed_at)
        )
        for each in rows
    }
    return {pk: proof for pk, proof in found.items() if proof is not None}
