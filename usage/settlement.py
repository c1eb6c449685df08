"""Settling: reading the hours of a customer and meter, and acting on what Stripe's total proves.

Called by whoever has read Stripe; what a difference means is the caller's. What a total proves is
`cells`', and how submissions are replaced `replacing`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import structlog
from django.db.models import Max, QuerySet, Sum
from django.db.models.functions import Coalesce

from billing import cases, steps
from billing.enums import Aggregation, CaseKind
from billing.models import Customer, Meter
from usage.cells import ABSENCE_STABLE_HOURS, HOUR, Cell, Decision, Part, Proof, cell_name
from usage.enums import ReplacementKind
from usage.lifecycle import State
from usage.models import Attempt, Observation, Replacement, Submission, SubmissionState
from usage.replacing import replace, unprove
from usage.running_cells import RunningCell

log = structlog.get_logger(__name__)

LOOK_AGAIN_AFTER = timedelta(days=1)
"""When a submission believed but not settled is next asked about, if no run came by before."""
CASE_HOURS = 72
"""Stripe's longest wait before an invoice is final, so that it is still the right invoice."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How many submissions a settling moved, and how many hours only a person can decide."""

    settled_count: int = 0
    believed_count: int = 0
    replaced_count: int = 0
    impossible_count: int = 0


def cells(
    *, customer_id: int, meter_id: int, start: datetime, end: datetime
) -> dict[datetime, Cell]:
    """Return the pair's UTC hours in [`start`, `end`) that have a submission, by their start.

    Read after Stripe was read, they show every call that read may have missed.
    """
    return _folded(
        _standings(customer_id, meter_id).filter(
            submission__window_start__gte=start, submission__window_start__lt=end
        ),
        customer_id=customer_id,
        meter_id=meter_id,
    )


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
    holds are accepted first. Where the total proves doubtful ones absent, wholly or in part, they
    are superseded and what is missing is frozen anew; where it proves that no story of ours is
    true, one case an hour says so and nothing is sent. A repetition, or a second reconciler at
    the same time, adds an observation and moves nothing.
    """
    with steps.commit("usage.settlement.settle"):
        # In id order, so that two settlers of one pair wait for each other and do not deadlock.
        locked = (
            _standings(customer_id, meter_id)
            .filter(submission__window_start__in=observed.keys())
            .order_by("submission_id")
            .select_for_update(of=("self",))
        )
        ours = _folded(locked, customer_id=customer_id, meter_id=meter_id)
        decisions = {
            hour: cell.decision(observed=observed[hour], observed_at=observed_at)
            for hour, cell in ours.items()
        }
        Observation.objects.bulk_create(
            Observation(
                customer_id=customer_id,
                meter_id=meter_id,
                window_start=hour,
                window_end=hour + HOUR,
                expected=_expected(ours.get(hour), decisions.get(hour), observed=value),
                observed=value,
                observed_at=observed_at,
            )
            for hour, value in observed.items()
        )
        believed = _believe(ours, decisions, at=observed_at)
        replaced = _replace(decisions, at=observed_at)
        settled = [
            part.submission_id
            for hour, decision in decisions.items()
            if decision.proof.settles
            for part in ours[hour].accepted
            + (decision.doubtful if decision.proof == Proof.COMPLETE else ())
        ]
        # By id and not by hour: what was not locked above was not part of the proof.
        SubmissionState.objects.filter(pk__in=settled).update(
            state=State.SETTLED, next_action_at=None, reason="", changed_at=observed_at
        )
        impossible = _report(
            ours,
            decisions,
            names=_names(ours, customer_id=customer_id, meter_id=meter_id),
            observed=observed,
            at=observed_at,
        )
        return Settlement(
            settled_count=len(settled),
            believed_count=believed,
            replaced_count=replaced,
            impossible_count=impossible,
        )


def _standings(customer_id: int, meter_id: int) -> QuerySet[SubmissionState]:
    # By the submission's columns: its index of cells holds settled rows, too; the standing's own
    # index of pairs holds only open ones.
    return SubmissionState.objects.filter(
        submission__customer_id=customer_id, submission__meter_id=meter_id
    ).select_related("submission")


def _folded(
    standings: QuerySet[SubmissionState], *, customer_id: int, meter_id: int
) -> dict[datetime, Cell]:
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
            _part(row, last_attempt_at=last_attempts.get(row.submission_id))
        )
    # After the rows, too: a decision is made under their locks only.
    credited = dict(
        Replacement.objects.filter(
            customer_id=customer_id, meter_id=meter_id, window_start__in=parts.keys()
        )
        .order_by()
        .values_list("window_start")
        .annotate(credited=Sum("credit"))
    )
    aggregation = Meter.objects.values_list("aggregation", flat=True).get(pk=meter_id)
    kind = RunningCell if Aggregation(aggregation).is_running else Cell
    return {
        hour: kind(hour, tuple(parts[hour]), credit=credited.get(hour, Decimal(0)))
        for hour in sorted(parts)
    }


def _part(standing: SubmissionState, *, last_attempt_at: datetime | None) -> Part:
    submission = standing.submission
    if standing.recount:
        # Attempts may be among what a restore lost, so the wait for absence begins no earlier.
        last_attempt_at = max(last_attempt_at or standing.changed_at, standing.changed_at)
    return Part(
        submission_id=standing.submission_id,
        value=submission.value,
        state=State(standing.state),
        has_open_doubt=standing.doubt_since is not None,
        last_attempt_at=last_attempt_at,
        wire=standing.wire,
        segment_start=submission.segment_start,
        timestamp=submission.timestamp,
        stripe_customer_id=submission.stripe_customer_id,
        recount=standing.recount,
    )


def _expected(cell: Cell | None, decision: Decision | None, *, observed: Decimal) -> Decimal:
    """Return what Stripe is known to have taken, this very proof included."""
    if cell is None or decision is None:
        return Decimal(0)
    return observed if decision.proof.settles else cell.expected


def _believe(
    ours: Mapping[datetime, Cell], decisions: Mapping[datetime, Decision], *, at: datetime
) -> int:
    """Accept what was unproven and Stripe's totals hold, close its cases, and return how many."""
    believed = [
        part.submission_id
        for hour, decision in decisions.items()
        if decision.proof in {Proof.PRESENT, Proof.COMPLETE}
        for part in (decision.doubtful if decision.proof == Proof.COMPLETE else ours[hour].unproven)
        # What the stream took stands accepted already.
        if not part.is_unverified
    ]
    if not believed:
        return 0
    unprove(believed, states=(State.READY, State.RETRY), now=at)
    SubmissionState.objects.filter(pk__in=believed).update(
        state=State.ACCEPTED,
        doubt_since=None,
        next_action_at=at + LOOK_AGAIN_AFTER,
        reason="",
        changed_at=at,
    )
    _close_cases(believed, "Stripe's summary of the hour holds it.")
    return len(believed)


def _replace(decisions: Mapping[datetime, Decision], *, at: datetime) -> int:
    """Replace what the totals prove absent, wholly or in part; return how many submissions."""
    replaced = 0
    for hour, decision in decisions.items():
        if decision.proof not in {Proof.ABSENT, Proof.PARTIAL}:
            continue
        ids = [part.submission_id for part in decision.doubtful]
        replacement = replace(
            list(Submission.objects.filter(pk__in=ids).select_related("run", "customer")),
            kind=(
                ReplacementKind.RESTORE
                if any(part.recount for part in decision.doubtful)
                else ReplacementKind.DOUBT
            ),
            credit=decision.credit,
            reason=_reason(decision),
            now=at,
        )
        _close_cases(
            ids,
            f"Stripe's summary of the hour {_finding(decision)}: replacement {replacement.pk}.",
        )
        log.info(
            "usage.settlement.replaced",
            replacement=replacement.pk,
            hour=hour,
            submissions=len(ids),
            superseded=replacement.superseded,
            credit=replacement.credit,
        )
        replaced += len(ids)
    return replaced


def _reason(decision: Decision) -> str:
    return (
        f"{ABSENCE_STABLE_HOURS} h after the last call of the hour Stripe's summary of it"
        f" {_finding(decision)}"
    )


def _finding(decision: Decision) -> str:
    if decision.proof == Proof.ABSENT:
        return "holds nothing of it"
    return f"holds {decision.credit:,f} of what was in doubt"


def _close_cases(submission_ids: Sequence[int], resolution: str) -> None:
    identifiers = Submission.objects.filter(pk__in=submission_ids).values_list("identifier")
    cases.close_cases(CaseKind.UNPROVEN, [identifier for (identifier,) in identifiers], resolution)


def _report(
    ours: Mapping[datetime, Cell],
    decisions: Mapping[datetime, Decision],
    *,
    names: Mapping[datetime, str],
    observed: Mapping[datetime, Decimal],
    at: datetime,
) -> int:
    """Bring the hours' cases up to date: one for each total that is impossible; return how many."""
    impossible = 0
    for hour, decision in decisions.items():
        if decision.proof != Proof.IMPOSSIBLE:
            continue
        impossible += 1
        cell, total = ours[hour], observed[hour]
        cases.open_case(
            kind=CaseKind.UNPROVEN,
            reference=names[hour],
            reason=(
                f"Stripe's total is {total:,f}; {cell.expected:,f} are known to be taken, and"
                f" {len(cell.doubtful):,} submissions in doubt could make it {cell.most:,f}:"
                f" {decision.reason}"
            ),
            quantity=round(total - cell.expected),
            deadline_at=at + timedelta(hours=CASE_HOURS),
        )
    cases.close_cases(
        CaseKind.UNPROVEN,
        [
            names[hour]
            for hour, decision in decisions.items()
            if decision.proof.settles or not ours[hour].is_doubtful
        ],
        "Stripe's summary of the hour leaves nothing in doubt.",
    )
    return impossible


def _names(hours: Iterable[datetime], *, customer_id: int, meter_id: int) -> dict[datetime, str]:
    customer = Customer.objects.only("external_id").get(pk=customer_id).external_id
    meter = Meter.objects.only("slug").get(pk=meter_id).slug
    return {
        hour: cell_name(customer_id=customer_id, customer=customer, meter=meter, hour=hour)
        for hour in hours
    }
