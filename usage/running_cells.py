"""An hour of running values: which of them Stripe's last one can be, and what that proves. Pure.

The counterpart of `cells` for max, unique and latest meters, whose hour at Stripe is its last
value by timestamp and no sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from usage.cells import MAX_EXACT, Cell, Decision, Part, Proof
from usage.lifecycle import COUNTED, State

EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RunningCell(Cell):
    """The running values of one UTC hour from `window_start`, in whatever state.

    An hour without any is 0. A value that was superseded while in doubt may still be the one
    Stripe has, and nobody will ask again: a later one stands for it, though maybe in another hour.
    """

    @property
    def expected(self) -> Decimal:
        """The latest value Stripe is known to have taken."""
        newest = self._newest_counted
        return Decimal(0) if newest is None else newest.value

    @property
    def least(self) -> Decimal:
        """The smallest of the values Stripe may have as its last."""
        return min(self._possible)

    @property
    def most(self) -> Decimal:
        """The largest of the values Stripe may have as its last."""
        return max(self._possible)

    def decision(self, *, observed: Decimal, observed_at: datetime) -> Decision:
        """Return what a last value proves that was read from `observed_at` on.

        The latest known to be taken proves those before it, too. Nothing is concluded about
        values in doubt: a later one is sent in their place sooner than absence could be proven.
        While one of them is later than all that is known, nothing at all is.
        """
        if (
            any(part.state == State.SENDING for part in self.parts)
            or self.was_attempted_since(observed_at)
            or abs(observed) > MAX_EXACT
            or any(part.may_have_arrived for part in self._later)
            or observed not in self._possible
        ):
            return Decision(Proof.NOTHING)
        return Decision(Proof.COMPLETE)

    @property
    def _by_timestamp(self) -> list[Part]:
        return sorted(self.parts, key=lambda part: (part.timestamp or EARLIEST, part.submission_id))

    @property
    def _newest_counted(self) -> Part | None:
        counted = [part for part in self._by_timestamp if part.state in COUNTED]
        return counted[-1] if counted else None

    @property
    def _later(self) -> tuple[Part, ...]:
        """Parts later than all that are known to be taken, of which Stripe may have any."""
        parts = self._by_timestamp
        newest = self._newest_counted
        later = parts if newest is None else parts[parts.index(newest) + 1 :]
        return tuple(part for part in later if part.may_have_arrived or _lingers(part))

    @property
    def _possible(self) -> frozenset[Decimal]:
        return frozenset({self.expected, *(part.value for part in self._later)})


def _lingers(part: Part) -> bool:
    """Return whether a superseded value may have arrived before it was."""
    return part.state == State.SUPERSEDED and (part.has_open_doubt or part.recount)
