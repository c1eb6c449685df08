"""What an hour of a customer and meter amounts to with us, and what Stripe's total of it proves.

Pure. Reading the hours and acting on the proof is `settlement`'s; naming a difference is
reconciliation's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from usage.lifecycle import COUNTED, DOUBTFUL, SENDABLE, State

HOUR = timedelta(hours=1)
MAX_EXACT = Decimal(2**53 - 1)
"""The largest total of Stripe's that is trusted: its summaries are floats, inexact beyond this."""


class Proof(StrEnum):
    """What one total of Stripe's allows for the submissions of its hour."""

    NOTHING = "nothing"
    PRESENT = "present"
    """All that was ever sent is there, but some call's end is unknown: delivery repeats it."""
    COMPLETE = "complete"
    """All that was ever sent is there, and every call has ended."""


@dataclass(frozen=True, slots=True)
class Part:
    """One submission as a part of its hour.

    `last_attempt_at` is when its newest attempt ended, or began while its end is unknown; None
    before the first.
    """

    submission_id: int
    value: Decimal
    state: State
    has_open_doubt: bool = False
    last_attempt_at: datetime | None = None

    @property
    def may_have_arrived(self) -> bool:
        """Whether Stripe may have it, without our knowing."""
        return self.state in DOUBTFUL or (self.state == State.RETRY and self.has_open_doubt)


@dataclass(frozen=True, slots=True)
class Cell:
    """The submissions of one UTC hour from `window_start`, in whatever state."""

    window_start: datetime
    parts: tuple[Part, ...] = ()

    @property
    def expected(self) -> Decimal:
        """The sum Stripe is known to have taken."""
        return _sum(part for part in self.parts if part.state in COUNTED)

    @property
    def accepted(self) -> tuple[Part, ...]:
        """Parts taken by Stripe and not settled yet."""
        return tuple(part for part in self.parts if part.state == State.ACCEPTED)

    @property
    def unproven(self) -> tuple[Part, ...]:
        """Parts whose fate only Stripe's total can tell."""
        return tuple(part for part in self.parts if part.state == State.UNPROVEN)

    @property
    def in_doubt(self) -> tuple[Part, ...]:
        """Parts that Stripe may have taken and that delivery will send again to learn it."""
        return tuple(
            part for part in self.parts if part.may_have_arrived and part.state != State.UNPROVEN
        )

    @property
    def unsent(self) -> tuple[Part, ...]:
        """Parts that are due and that Stripe cannot have."""
        return tuple(
            part for part in self.parts if part.state in SENDABLE and not part.may_have_arrived
        )

    @property
    def least(self) -> Decimal:
        """The smallest total Stripe can come to without having lost anything."""
        return self.expected + _sum(part for part in self._doubtful if part.value < 0)

    @property
    def most(self) -> Decimal:
        """The largest total Stripe can come to from our calls alone."""
        return self.expected + _sum(part for part in self._doubtful if part.value > 0)

    @property
    def is_doubtful(self) -> bool:
        """Whether Stripe may have more than `expected`, or with a negative part less."""
        return bool(self._doubtful)

    @property
    def is_closed(self) -> bool:
        """Whether nothing is left to send, to learn or to settle."""
        return not (self.accepted or self._doubtful or self.unsent)

    @property
    def last_attempt_at(self) -> datetime | None:
        """The newest attempt's end among all parts; None when nothing was ever sent."""
        return max(
            (part.last_attempt_at for part in self.parts if part.last_attempt_at is not None),
            default=None,
        )

    @property
    def _doubtful(self) -> tuple[Part, ...]:
        return self.unproven + self.in_doubt

    def was_attempted_since(self, instant: datetime) -> bool:
        """Return whether a read begun at `instant` may have missed a call of this hour."""
        return self.last_attempt_at is not None and self.last_attempt_at >= instant

    def proof(self, *, observed: Decimal, observed_at: datetime) -> Proof:
        """Return what a total proves that was read from `observed_at` on.

        Presence is believed at once: a total that holds every doubtful value shows that all of
        them arrived. Absence is never proven here, and neither is anything by a read that began
        before the hour's last attempt had ended, or by a total too large for a float.
        """
        if self.was_attempted_since(observed_at) or abs(observed) > MAX_EXACT:
            return Proof.NOTHING
        if observed != self.expected + _sum(self._doubtful):
            return Proof.NOTHING
        return Proof.PRESENT if self.in_doubt else Proof.COMPLETE


def _sum(parts: Iterable[Part]) -> Decimal:
    return sum((part.value for part in parts), Decimal(0))
