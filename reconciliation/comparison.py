"""Comparing an hour of our books with Stripe's total of it: pure, exact, tolerance zero.

What is compared is read by `sources`; what follows from a verdict is done by `runs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from billing.gateway.values import Summary
from usage.cells import HOUR, MAX_EXACT, Cell, Proof


class Verdict(StrEnum):
    """What comparing a cell came to."""

    EQUAL = "equal"
    WAITING = "waiting"
    """Not equal or not complete for a reason that time or delivery removes."""
    DISCREPANCY = "discrepancy"


class Reason(StrEnum):
    """Why a cell is not simply equal."""

    NONE = ""
    ATTEMPTED_SINCE = "attempted_since"
    UNSENT = "unsent"
    IN_DOUBT = "in_doubt"
    UNPROVEN = "unproven"
    UNVERIFIED = "unverified"
    REPLACED = "replaced"
    SETTLING = "settling"
    MISSING = "missing"
    EXCESS = "excess"
    FOREIGN = "foreign"
    INEXACT = "inexact"

    @property
    def label(self) -> str:
        """The sentence shown to people."""
        return _LABELS[self]


_LABELS = {
    Reason.NONE: "",
    Reason.ATTEMPTED_SINCE: "something was sent while Stripe was read",
    Reason.UNSENT: "nothing of it has been sent yet",
    Reason.IN_DOUBT: "a call's outcome is unknown and it will be repeated",
    Reason.UNPROVEN: "a call's outcome is unknown for good and a case is open",
    Reason.UNVERIFIED: "sent over the stream, which tells nothing of an event",
    Reason.REPLACED: "what Stripe never took of it is sent again",
    Reason.SETTLING: "Stripe may still be counting",
    Reason.MISSING: "Stripe has less than it accepted",
    Reason.EXCESS: "Stripe has more than we ever sent",
    Reason.FOREIGN: "Stripe has usage in an hour for which we sent none",
    Reason.INEXACT: "Stripe's total is too large to be exact",
}


class UnusableSummaries(ValueError):
    """Stripe's answer is not one total per UTC hour of the range asked."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One cell with both figures. `ours` is what Stripe is known to have taken."""

    window_start: datetime
    ours: Decimal
    stripe: Decimal
    verdict: Verdict
    reason: Reason
    is_closed: bool
    """Whether nothing of it is left to send, to learn or to settle at our side."""

    @property
    def difference(self) -> Decimal:
        """How much more Stripe has than we expect; negative when it has less."""
        return self.stripe - self.ours


def compare(
    *,
    ours: Mapping[datetime, Cell],
    stripe: Mapping[datetime, Decimal],
    read_at: datetime,
    settle_seconds: int,
) -> tuple[Compared, ...]:
    """Compare every hour in which either book has something, oldest first.

    Both are keyed by the start of a UTC hour; an absent hour is 0. `read_at` is an instant before
    the read of Stripe began, and `ours` was read after it ended. Within `settle_seconds` of a
    cell's last attempt a difference may be Stripe's lag and waits.
    """
    hours = sorted({*ours, *(hour for hour, total in stripe.items() if total)})
    return tuple(
        _compared(
            ours.get(hour) or Cell(hour),
            stripe.get(hour, Decimal(0)),
            read_at=read_at,
            settling=timedelta(seconds=settle_seconds),
        )
        for hour in hours
    )


def _compared(cell: Cell, total: Decimal, *, read_at: datetime, settling: timedelta) -> Compared:
    verdict, reason = _judged(cell, total, read_at=read_at, settling=settling)
    return Compared(
        window_start=cell.window_start,
        # What was unproven counts as ours from here on: `settle` accepts it.
        ours=total if verdict == Verdict.EQUAL else cell.expected,
        stripe=total,
        verdict=verdict,
        reason=reason,
        is_closed=cell.is_closed,
    )


def _judged(  # noqa: PLR0911 - one line a rule, in the order they bind
    cell: Cell, total: Decimal, *, read_at: datetime, settling: timedelta
) -> tuple[Verdict, Reason]:
    if cell.was_attempted_since(read_at):
        return Verdict.WAITING, Reason.ATTEMPTED_SINCE
    if abs(total) > MAX_EXACT:
        return Verdict.DISCREPANCY, Reason.INEXACT
    if not cell.parts and total:
        return Verdict.DISCREPANCY, Reason.FOREIGN
    proof = cell.decision(observed=total, observed_at=read_at).proof
    if proof == Proof.COMPLETE:
        if cell.unsent and not total:
            return Verdict.WAITING, Reason.UNSENT
        return Verdict.EQUAL, Reason.NONE
    if proof in {Proof.ABSENT, Proof.PARTIAL}:
        return Verdict.WAITING, Reason.REPLACED
    if cell.is_doubtful and cell.least <= total <= cell.most:
        return Verdict.WAITING, _doubt_of(cell)
    if total > cell.most:
        # Lag only takes away: what is too much now stays too much.
        return Verdict.DISCREPANCY, Reason.EXCESS
    if cell.last_attempt_at is not None and read_at - cell.last_attempt_at < settling:
        return Verdict.WAITING, Reason.SETTLING
    return Verdict.DISCREPANCY, Reason.MISSING


def _doubt_of(cell: Cell) -> Reason:
    """Name the doubt that keeps a cell open, the one that ends soonest first."""
    if cell.in_doubt:
        return Reason.IN_DOUBT
    return Reason.UNPROVEN if cell.unproven else Reason.UNVERIFIED


def by_hour(
    summaries: Iterable[Summary], *, start: datetime, end: datetime
) -> dict[datetime, Decimal]:
    """Return Stripe's hourly totals of [`start`, `end`), by the start of each UTC hour.

    Raises:
        UnusableSummaries: a total is not of one UTC hour of the range, or an hour comes twice.
    """
    totals: dict[datetime, Decimal] = {}
    for summary in summaries:
        hour = summary.window_start
        if hour != hour_of(hour) or summary.window_end != hour + HOUR:
            raise UnusableSummaries(f"{hour:%Y-%m-%d %H:%M} is not the start of a whole hour")
        if not start <= hour < end:
            raise UnusableSummaries(f"{hour:%Y-%m-%d %H:%M} was not asked for")
        if hour in totals:
            raise UnusableSummaries(f"{hour:%Y-%m-%d %H:%M} came twice")
        totals[hour] = summary.value
    return totals


def merged(
    ranges: Iterable[tuple[datetime, datetime]], *, bridge_hours: int
) -> Iterator[tuple[datetime, datetime]]:
    """Yield the fewest half-open ranges that hold all `ranges`, oldest first.

    A gap of up to `bridge_hours` is read along with its neighbours: as long as it fits a page, it
    costs less than a call of its own.
    """
    start = end = None
    for next_start, next_end in sorted(ranges):
        if start is None or end is None:
            start, end = next_start, next_end
        elif next_start - end > bridge_hours * HOUR:
            yield start, end
            start, end = next_start, next_end
        else:
            end = max(end, next_end)
    if start is not None and end is not None:
        yield start, end


def hour_of(instant: datetime) -> datetime:
    """Return the start of the UTC hour `instant` lies in."""
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def hour_after(instant: datetime) -> datetime:
    """Return the first full UTC hour at or after `instant`."""
    hour = hour_of(instant)
    return hour if hour == instant else hour + HOUR
