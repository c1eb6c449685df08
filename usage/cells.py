"""What an hour of a customer and meter amounts to with us, and what Stripe's total of it proves.

Pure. Reading the hours and acting on the proof is `settlement`'s; naming a difference is
reconciliation's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from usage.enums import Wire
from usage.lifecycle import COUNTED, DOUBTFUL, SENDABLE, State

HOUR = timedelta(hours=1)
MAX_EXACT = Decimal(2**53 - 1)
"""The largest total of Stripe's that is trusted: its summaries are floats, inexact beyond this."""
ABSENCE_STABLE_HOURS = 36
"""How long after an hour's last call Stripe's total of it counts as all there will ever be.

Stripe promises no such bound, so this is assumption A4 of `docs/reliability.md`, the one on which
replacements rest: with 24 hours instead, the model of this machine billed twice as soon as
summaries lagged 48. With the 23 hours of a doubt before it, it still ends within the 72 hours
that an invoice may stay a draft.
"""
MAX_SUMS = 20_000
"""So many different sums of either half of the doubtful values are tried before giving up."""
LONGEST_NAME = 150
"""A cell's name holds the customer, a meter's slug and an hour in 255 characters."""


class Proof(StrEnum):
    """What one total of Stripe's allows for the submissions of its hour."""

    NOTHING = "nothing"
    PRESENT = "present"
    """All that was ever sent is there, but some call's end is unknown: delivery repeats it."""
    COMPLETE = "complete"
    """All that was ever sent is there, and every call has ended."""
    ABSENT = "absent"
    """Nothing of what was doubtful is there, and nothing of it will ever be."""
    PARTIAL = "partial"
    """A part of what was doubtful is there, and the rest never will be."""
    IMPOSSIBLE = "impossible"
    """No story of ours comes to this total, or several do that are not the same: a person's."""

    @property
    def settles(self) -> bool:
        """Whether nothing of the hour that was sent is left to be asked about."""
        return self in {Proof.COMPLETE, Proof.ABSENT, Proof.PARTIAL}


@dataclass(frozen=True, slots=True)
class Part:
    """One submission as a part of its hour.

    `last_attempt_at` is when its newest attempt ended, or began while its end is unknown; None
    before the first. After a restore it is the restore at the earliest, since attempts are among
    what may have been lost: `recount`.
    """

    submission_id: int
    value: Decimal
    state: State
    has_open_doubt: bool = False
    last_attempt_at: datetime | None = None
    wire: str = ""
    segment_start: datetime | None = None
    timestamp: datetime | None = None
    stripe_customer_id: str = ""
    recount: bool = False

    @property
    def may_have_arrived(self) -> bool:
        """Whether Stripe may have it, without our knowing."""
        return self.state in DOUBTFUL or (self.state == State.RETRY and self.has_open_doubt)

    @property
    def is_unverified(self) -> bool:
        """Whether it was taken by the stream, whose answer says nothing of any one event."""
        return self.state == State.ACCEPTED and self.wire == Wire.STREAM


@dataclass(frozen=True, slots=True)
class Decision:
    """What a total of Stripe's proves, of which parts, and how much of them it holds.

    `doubtful` are the parts it decides on, all of them together. `credit` is what Stripe has of
    those that are `PARTIAL`, and 0 otherwise; `reason` says what is `IMPOSSIBLE` about the total.
    """

    proof: Proof
    doubtful: tuple[Part, ...] = ()
    credit: Decimal = Decimal(0)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """The submissions of one UTC hour from `window_start`, in whatever state.

    `credit` is what Stripe was seen to hold of those that earlier decisions took out.
    """

    window_start: datetime
    parts: tuple[Part, ...] = ()
    credit: Decimal = Decimal(0)

    @property
    def expected(self) -> Decimal:
        """The sum Stripe is known to have taken."""
        return self.credit + _sum(
            part for part in self.parts if part.state in COUNTED and not part.is_unverified
        )

    @property
    def accepted(self) -> tuple[Part, ...]:
        """Parts known to be taken by Stripe and not settled yet."""
        return tuple(
            part for part in self.parts if part.state == State.ACCEPTED and not part.is_unverified
        )

    @property
    def unverified(self) -> tuple[Part, ...]:
        """Parts the stream took; whether they were counted only Stripe's total can tell."""
        return tuple(part for part in self.parts if part.is_unverified)

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
        return self.expected + _sum(part for part in self.doubtful if part.value < 0)

    @property
    def most(self) -> Decimal:
        """The largest total Stripe can come to from our calls alone."""
        return self.expected + _sum(part for part in self.doubtful if part.value > 0)

    @property
    def doubtful(self) -> tuple[Part, ...]:
        """Parts that Stripe may have or not.

        After a restore the unsent ones are among them: a caller that reported again what the
        restore had lost may have made new submissions of usage that Stripe has from lost ones.
        """
        known = self.unproven + self.in_doubt + self.unverified
        return known + self.unsent if any(part.recount for part in self.unproven) else known

    @property
    def is_doubtful(self) -> bool:
        """Whether Stripe may have more than `expected`, or with a negative part less."""
        return bool(self.doubtful)

    @property
    def is_closed(self) -> bool:
        """Whether nothing is left to send, to learn or to settle."""
        return not (self.accepted or self.doubtful or self.unsent)

    @property
    def last_attempt_at(self) -> datetime | None:
        """The newest attempt's end among all parts; None when nothing was ever sent."""
        return max(
            (part.last_attempt_at for part in self.parts if part.last_attempt_at is not None),
            default=None,
        )

    def was_attempted_since(self, instant: datetime) -> bool:
        """Return whether a read begun at `instant` may have missed a call of this hour."""
        return self.last_attempt_at is not None and self.last_attempt_at >= instant

    def decision(self, *, observed: Decimal, observed_at: datetime) -> Decision:
        """Return what a total proves that was read from `observed_at` on.

        Presence is believed at once: a total that holds every doubtful value shows that all of
        them arrived. Absence, whole or in part, is believed `ABSENCE_STABLE_HOURS` after the
        hour's last attempt only, and so is presence where values of both signs could hide each
        other. Nothing is proven while a part is being sent, by a read that began before the
        hour's last attempt had ended, or by a total too large for a float.
        """
        if (
            any(part.state == State.SENDING for part in self.parts)
            or self.was_attempted_since(observed_at)
            or abs(observed) > MAX_EXACT
        ):
            return Decision(Proof.NOTHING)
        extra = observed - self.expected
        if not self.is_doubtful:
            return Decision(Proof.NOTHING if extra else Proof.COMPLETE)
        if self._is_stable(observed_at):
            return self._final_decision(extra)
        if extra == _sum(self.doubtful) and not _has_both_signs(self._sent):
            return self._all_present()
        return Decision(Proof.NOTHING)

    def _final_decision(self, extra: Decimal) -> Decision:
        """Decide on a total that is all there will ever be."""
        doubtful = self.doubtful
        places = {(part.segment_start, part.stripe_customer_id) for part in doubtful}
        if len(places) > 1 and _has_both_signs(doubtful):
            return _impossible("of both signs, they were sent for several segments or customers")
        if extra == _sum(doubtful):
            return self._all_present()
        if extra == 0:
            return Decision(Proof.ABSENT, doubtful)
        reason = self._why_impossible(extra, is_one_place=len(places) == 1)
        return _impossible(reason) if reason else Decision(Proof.PARTIAL, doubtful, credit=extra)

    def _why_impossible(self, extra: Decimal, *, is_one_place: bool) -> str:
        """Return why a part of the doubtful values cannot be what is there; "" when it can."""
        is_whole = extra == extra.to_integral_value()
        if not (is_whole and self.least <= self.expected + extra <= self.most):
            return "it is not between what was taken and what was ever sent"
        if not is_one_place:
            return "it holds a part, and they were sent for several segments or customers"
        if any(part.recount for part in self.doubtful):
            # Values and total need not fit: lost submissions may have carried any part of it.
            return ""
        is_sum = _is_sum_of(extra, [part.value for part in self.doubtful])
        if is_sum is None:
            return "there are too many to tell whether some of them come to it"
        return "" if is_sum else "no choice of them comes to it"

    def _all_present(self) -> Decision:
        return Decision(Proof.PRESENT if self.in_doubt else Proof.COMPLETE, self.doubtful)

    def _is_stable(self, instant: datetime) -> bool:
        last = self.last_attempt_at
        return last is None or instant - last >= ABSENCE_STABLE_HOURS * HOUR

    @property
    def _sent(self) -> tuple[Part, ...]:
        """Parts of which Stripe may have counted some and not others, by now."""
        counted = tuple(part for part in self.parts if part.state in COUNTED)
        return counted + self.doubtful


def cell_name(*, customer_id: int, customer: str, meter: str, hour: datetime) -> str:
    """Return how staff name a cell: customer, meter and UTC hour."""
    name = customer if len(customer) <= LONGEST_NAME else f"customer {customer_id}"
    return f"{name} / {meter} / {hour:%Y-%m-%d %H:00} UTC"


def _impossible(reason: str) -> Decision:
    return Decision(Proof.IMPOSSIBLE, reason=reason)


def _sum(parts: Iterable[Part]) -> Decimal:
    return sum((part.value for part in parts), Decimal(0))


def _has_both_signs(parts: Iterable[Part]) -> bool:
    signs = {part.value > 0 for part in parts if part.value}
    return len(signs) > 1


def _is_sum_of(total: Decimal, values: Sequence[Decimal]) -> bool | None:
    """Return whether some of the whole `values` add up to `total`; None: too many to tell.

    Each half's sums are listed and the halves matched, so that twice as many values can be
    decided on than by listing all sums.
    """
    # Whole numbers and not decimals, because there may be millions of additions.
    whole = sorted(int(value) for value in values)
    half = len(whole) // 2
    first, second = _sums(whole[:half]), _sums(whole[half:])
    if first is None or second is None:
        return None
    return any(int(total) - one in second for one in first)


def _sums(values: Iterable[int]) -> set[int] | None:
    sums = {0}
    for value, count in Counter(values).items():
        # In powers of two, out of which every multiple up to `count` is made.
        left, chunk = count, 1
        while left:
            taken = min(chunk, left)
            sums |= {one + value * taken for one in sums}
            if len(sums) > MAX_SUMS:
                return None
            left, chunk = left - taken, 2 * chunk
    return sums
