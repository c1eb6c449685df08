"""Cutting again: what was folded before a billing-period boundary was known is folded by it now.

Folding itself is `folding`'s; running values of a meter are not cut, they belong to their period.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeAlias

import structlog
from django.db import OperationalError, connection
from psycopg.errors import LockNotAvailable

from billing import cases, steps
from billing.enums import Aggregation, CaseKind
from billing.models import Customer, PeriodBoundary
from usage.clock import Clock
from usage.enums import HeldReason, ReplacementKind
from usage.folding import FoldedCell, FoldMismatch, await_folds, fold
from usage.freezing import freeze
from usage.holding import hold
from usage.lifecycle import State
from usage.models import FlushRun, HeldUsage, Submission, SubmissionState
from usage.replacing import supersede

log = structlog.get_logger(__name__)

DELTAS = (Aggregation.SUM, Aggregation.COUNT)
"""Meters whose cells add up, so that one can be cut in two."""
BOUNDARIES_PER_STEP = 1_000
FOLDS_WAIT_SECONDS = 2
"""Whoever comes to fold waits behind us, and the database lets nobody wait for longer than 3 s."""
CASE_HOURS = 72
UNSENT = frozenset({State.READY, State.RETRY})
AT_STRIPE = frozenset(
    {State.SENDING, State.RETRY, State.IN_DOUBT, State.ACCEPTED, State.SETTLED, State.UNPROVEN}
)
"""States in which Stripe has it or may have it; in the others there is nothing to set right."""

Piece: TypeAlias = tuple[int, int, datetime, int | None]
"""A run, a meter, a segment and the decision it stands in for: what was folded as one."""


@dataclass(frozen=True, slots=True)
class Recut:
    """What one pass did: cells folded again, and cells sent in one piece that a person must see.

    `failed_count`: customers whose usage could not be cut; it is not sent until it is.
    """

    recut_count: int = 0
    case_count: int = 0
    failed_count: int = 0


def recut(*, clock: Clock, seconds: float) -> Recut:
    """Cut by every boundary that was learned since the usage around it was folded.

    Unsent submissions across it are superseded by one for each side, held late usage is held by
    side, and for what Stripe has or may have a case proposes how to set it right. Each customer is
    a transaction, and none is begun after `seconds`; a repetition finds what is left. When folds
    are under way for too long it gives up until the next pass.
    """
    ends = time.monotonic() + seconds
    total = Recut()
    try:
        if not PeriodBoundary.objects.filter(recut_at=None).exists():
            return total
        _pass_over_untouched(now=clock())
        for customer in Customer.objects.filter(boundaries__recut_at=None).distinct():
            if time.monotonic() >= ends:
                break
            try:
                with steps.commit("usage.recutting.cut"):
                    done = _cut(customer, now=clock())
                total = Recut(
                    total.recut_count + done.recut_count,
                    total.case_count + done.case_count,
                    total.failed_count,
                )
            except FoldMismatch as error:
                log.exception("usage.recutting.impossible", customer=customer.external_id)
                _report_failure(customer, error, now=clock())
                total = Recut(total.recut_count, total.case_count, total.failed_count + 1)
    except OperationalError as error:
        if not isinstance(error.__cause__, LockNotAvailable):
            raise
        log.warning("usage.recutting.folds_under_way")
    return total


UNTOUCHED = """
WITH untouched AS (
    SELECT boundary.id FROM billing_periodboundary boundary
    WHERE boundary.recut_at IS NULL
      AND (boundary.at = date_trunc('hour', boundary.at, 'UTC') OR NOT EXISTS (
          SELECT FROM usage_submission submission
          WHERE submission.customer_id = boundary.customer_id
            AND submission.window_start = date_trunc('hour', boundary.at, 'UTC')
            AND submission.segment_start < boundary.at AND submission.timestamp >= boundary.at
      ) AND NOT EXISTS (
          SELECT FROM usage_heldusage held
          JOIN billing_customer customer ON customer.external_id = held.subject
          WHERE customer.id = boundary.customer_id AND held.released_at IS NULL
            AND held.window_start = date_trunc('hour', boundary.at, 'UTC')
            AND held.segment_start < boundary.at
      ))
    ORDER BY boundary.id LIMIT %(limit)s
)
UPDATE billing_periodboundary boundary SET recut_at = %(now)s
FROM untouched WHERE boundary.id = untouched.id
"""
"""Nearly all: a boundary is mostly known before its hour, and one on the hour cuts nothing."""


def _pass_over_untouched(*, now: datetime) -> None:
    with steps.commit("usage.recutting.pass_over"):
        await_folds(seconds=FOLDS_WAIT_SECONDS)
        with connection.cursor() as cursor:
            cursor.execute(UNTOUCHED, {"now": now, "limit": BOUNDARIES_PER_STEP})


def _cut(customer: Customer, *, now: datetime) -> Recut:
    """Cut what one customer's new boundaries lie in, and note that it is done.

    Raises:
        FoldMismatch: some cell does not amount to what it was; nothing was changed.
    """
    await_folds(seconds=FOLDS_WAIT_SECONDS)
    boundaries = list(
        PeriodBoundary.objects.filter(customer=customer, recut_at=None)
        .order_by("at")
        .select_for_update(of=("self",))
    )
    recut_count = case_count = 0
    for hour in sorted({_hour(boundary.at) for boundary in boundaries}):
        instants = [boundary.at for boundary in boundaries if _hour(boundary.at) == hour]
        folds = _Folds(customer, hour, now=now)
        for parts in _straddling(customer, hour, instants):
            if parts[0].submission.replaces_id is None or _is_refolded(parts[0].submission):
                cells = folds.within(parts)
                if len(cells) <= 1:
                    continue
                if all(_is_unsent(part) for part in parts):
                    _supersede(parts, cells, now=now)
                    recut_count += 1
                    continue
            else:
                cells = []
            if any(part.state in AT_STRIPE for part in parts):
                _propose(customer, parts, cells, instants, now=now)
                case_count += 1
        for held in _held(customer, hour, instants):
            recut_count += _hold_by_side(held, folds.after(held), now=now)
    PeriodBoundary.objects.filter(pk__in=[boundary.pk for boundary in boundaries]).update(
        recut_at=now
    )
    return Recut(recut_count, case_count)


def _hour(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)


def _straddling(
    customer: Customer, hour: datetime, instants: Sequence[datetime]
) -> list[list[SubmissionState]]:
    """Return the parts of each cell of the hour that reaches across one of the instants, locked.

    A claim of delivery's waits for us, or we see it as being sent.
    """
    pieces: defaultdict[Piece, list[SubmissionState]] = defaultdict(list)
    for standing in (
        SubmissionState.objects.filter(
            submission__customer=customer,
            submission__window_start=hour,
            submission__meter__aggregation__in=DELTAS,
        )
        .exclude(state__in=[State.SUPERSEDED, State.WRITTEN_OFF])
        .select_related("submission__run", "submission__meter", "submission__replaces")
        .order_by("submission_id")
        .select_for_update(of=("self",))
    ):
        made = standing.submission
        if any(made.segment_start < at <= made.timestamp for at in instants):
            pieces[made.run_id, made.meter_id, made.segment_start, made.replaces_id].append(
                standing
            )
    return list(pieces.values())


def _is_refolded(submission: Submission) -> bool:
    """Return whether it stands for all of its run's events in its segment, as an original does."""
    return submission.replaces is not None and submission.replaces.kind == ReplacementKind.REFOLD


def _is_unsent(standing: SubmissionState) -> bool:
    return standing.state in UNSENT and standing.doubt_since is None


class _Folds:
    """The runs of one customer's hour as they fold today, each folded once."""

    def __init__(self, customer: Customer, hour: datetime, *, now: datetime) -> None:
        self._customer = customer
        self._hour = hour
        self._now = now
        self._by_run: dict[int, list[FoldedCell]] = {}

    def within(self, parts: Sequence[SubmissionState]) -> list[FoldedCell]:
        """Return the cells a submission's events are in today.

        Raises:
            FoldMismatch: they do not add up to it.
        """
        made = parts[0].submission
        cells = [
            cell
            for cell in self._of(made.run, made.meter_id)
            if cell.segment_start >= made.segment_start
            and cell.latest.replace(microsecond=0) <= made.timestamp
        ]
        _check(cells, sum((part.submission.value for part in parts), Decimal(0)), made.identifier)
        return cells

    def after(self, held: HeldUsage) -> list[FoldedCell]:
        """Return the cells a held row's events are in today.

        Raises:
            FoldMismatch: they do not add up to it.
        """
        folded_as_one = {
            "run": held.run,
            "meter": held.meter,
            "window_start": held.window_start,
            "segment_start__gt": held.segment_start,
        }
        starts = [
            *HeldUsage.objects.filter(
                **folded_as_one, subject=held.subject, released_at=None
            ).values_list("segment_start", flat=True),
            *Submission.objects.filter(
                **folded_as_one, customer=self._customer, replaces=None
            ).values_list("segment_start", flat=True),
        ]
        until = min(starts, default=held.window_start + timedelta(hours=1))
        cells = [
            cell
            for cell in self._of(held.run, held.meter_id)
            if held.segment_start <= cell.segment_start < until
        ]
        _check(cells, held.quantity, f"held row {held.pk}")
        return cells

    def _of(self, run: FlushRun, meter_id: int) -> list[FoldedCell]:
        if run.pk not in self._by_run:
            self._by_run[run.pk] = fold(
                batch_ids=list(run.batches.values_list("pk", flat=True)),
                versions=run.meter_versions,
                now=self._now,
                subjects=[self._customer.external_id],
            )
        return [
            cell
            for cell in self._by_run[run.pk]
            if cell.meter_id == meter_id and cell.window_start == self._hour
        ]


def _check(cells: Iterable[FoldedCell], quantity: Decimal, of: str) -> None:
    folded = sum((cell.quantity for cell in cells), Decimal(0))
    if folded != quantity:
        raise FoldMismatch(f"The events of {of}, {quantity:f}, fold again to {folded:f}.")


def _supersede(
    parts: Sequence[SubmissionState], cells: Sequence[FoldedCell], *, now: datetime
) -> None:
    made = parts[0].submission
    reason = "a billing-period boundary in its hour became known before it was sent"
    replacement = supersede(
        [part.submission for part in parts], kind=ReplacementKind.REFOLD, reason=reason, now=now
    )
    freeze(
        made.run,
        [cell for cell in cells if not cell.held_reason],
        now=now,
        replaces=replacement,
    )
    hold(made.run, cells, now=now, replaces=replacement)


def _propose(
    customer: Customer,
    parts: Sequence[SubmissionState],
    cells: Sequence[FoldedCell],
    instants: Sequence[datetime],
    *,
    now: datetime,
) -> None:
    """Open a case for usage of two periods that was sent, or may have been, into the later one.

    Its quantity is what belongs earlier; unknown for what replaced only a part of its usage.
    """
    made = parts[0].submission
    text = (
        f"{customer.external_id!r}: {made.meter.slug} of the hour from {_stamp(made.window_start)}"
        f" went in one piece, timestamped {_stamp(made.timestamp)}, across the"
        f" billing-period boundary at {', '.join(map(_stamp, instants))}."
    )
    earlier = cells[:-1]
    if earlier:
        pairs = "; ".join(
            f"{-cell.quantity:+f} at {_stamp(made.timestamp)} and {cell.quantity:+f} at"
            f" {_stamp(cell.latest)}"
            for cell in earlier
        )
        text += f" While the earlier invoice is a draft, this pair sets it right: {pairs}."
    else:
        text += " It stands in for a part of its usage, so what belongs earlier must be looked up."
    cases.open_case(
        kind=CaseKind.BOUNDARY,
        reference=made.identifier,
        reason=text,
        quantity=sum((cell.quantity for cell in earlier), Decimal(0)) if earlier else None,
        deadline_at=now + timedelta(hours=CASE_HOURS),
    )


def _stamp(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"


def _held(customer: Customer, hour: datetime, instants: Sequence[datetime]) -> list[HeldUsage]:
    """Return late usage of the hour that a run folded before the boundaries were known.

    Usage held for another reason is folded by the hour when it is released, and so by them.
    """
    return [
        row
        for row in HeldUsage.objects.filter(
            subject=customer.external_id,
            window_start=hour,
            reason=HeldReason.LATE,
            released_at=None,
            replaces=None,
            meter__aggregation__in=DELTAS,
        )
        .select_related("run", "meter")
        .order_by("id")
        .select_for_update(of=("self",))
        if any(row.segment_start < at for at in instants)
    ]


def _hold_by_side(held: HeldUsage, cells: Sequence[FoldedCell], *, now: datetime) -> bool:
    if len(cells) <= 1:
        return False
    HeldUsage.objects.filter(pk=held.pk).update(released_at=now)
    freeze(held.run, [cell for cell in cells if not cell.held_reason], now=now)
    hold(held.run, cells, now=now)
    return True


def _report_failure(customer: Customer, error: FoldMismatch, *, now: datetime) -> None:
    with steps.commit("usage.recutting.report_failure"):
        cases.open_case(
            kind=CaseKind.INVARIANT,
            reference=f"boundaries of customer {customer.pk}",
            reason=f"{customer.external_id!r} cannot be cut at a boundary and is not sent: {error}",
            deadline_at=now + timedelta(hours=CASE_HOURS),
        )
