"""What the invoices and previews of a story must say, from the list of its steps alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from tests.emulator.histories.charging import charged
from tests.emulator.histories.day_walk import boundaries, next_boundary
from tests.emulator.histories.story import (
    ONE,
    CancelNow,
    EndTrial,
    Meter,
    Plan,
    Price,
    Reprice,
    Requantify,
    Send,
    Step,
    Story,
    Subscribe,
    Unplan,
    Void,
)

S = TypeVar("S", bound=Step)
NEVER = 10**12


@dataclass(frozen=True, slots=True, order=True)
class Line:
    item: int
    start: int
    end: int
    price: str
    quantity: int
    amount: int


@dataclass(frozen=True, slots=True)
class Bill:
    """One invoice: made at `at`, final from `final_at` on (None: not said), with its lines in order."""

    at: int
    final_at: int | None
    lines: tuple[Line, ...]

    @property
    def total(self) -> int:
        return sum(line.amount for line in self.lines)


class Subscriber:
    """One customer of a story, as far as its steps before `before` tell."""

    def __init__(self, story: Story, who: int, before: int = NEVER) -> None:
        self.lag, self.grace = story.lag, story.grace
        self.steps = [(place, step) for place, step in story.of(who) if place < before]
        [self.begun] = self._every(Subscribe) or [None]
        if self.begun is None:
            return
        self.trial_end = self.begun.trial_end
        for step in self._every(EndTrial):
            self.trial_end = step.at
        self.anchor = self.trial_end or self.begun.anchor or self.begun.start
        self.cancelled_at_place = NEVER
        self.ends_at, self.bills_the_end = self._end()
        self.at_once = [self._billed_at_once(item) for item in range(len(self.begun.prices))]

    def _every(self, kind: type[S]) -> list[S]:
        return [step for _, step in self.steps if isinstance(step, kind)]

    def _end(self) -> tuple[int, bool]:
        end = NEVER
        for place, step in self.steps:
            if step.at >= end:
                break
            if isinstance(step, CancelNow):
                self.cancelled_at_place = place
                return step.at, step.invoice_now
            if isinstance(step, Plan):
                end = self.next_end(step.at) if step.cancel_at is None else step.cancel_at
            if isinstance(step, Unplan):
                end = NEVER
        return end, True

    def next_end(self, now: int) -> int:
        """Return the next moment at which a period of any item ends."""
        if self.trial_end is not None and now < self.trial_end:
            return self.trial_end
        return min(
            next_boundary(self.anchor, price.interval, price.count, now)
            for price in self.begun.prices
        )

    def _starts_before(self, item: int) -> list[int]:
        """Return where the item's periods began until the subscription was made: it can be backdated."""
        price, begun = self.begun.prices[item], self.begun
        cuts = boundaries(self.anchor, price.interval, price.count, begun.start, begun.at)
        return [begun.start, *cuts]

    def _billed_at_once(self, item: int) -> list[Line]:
        """Return the lines of usage from before the subscription was made; without any usage there are none."""
        if self.begun.prices[item].meter is None or self.trial_end is not None:
            return []
        [place] = [place for place, step in self.steps if step is self.begun]
        lines = [
            line
            for start, end in pairwise([*self._starts_before(item), self.begun.at])
            if start < end
            for line in self._usage(item, start, end, self.begun.at, place)
        ]
        return lines if any(line.quantity for line in lines) else []

    def first(self, item: int) -> int:
        """Return where the item's first period begins that costs anything and is not billed at once."""
        if self.trial_end is not None:
            return self.trial_end
        return self.begun.at if self.at_once[item] else self._starts_before(item)[-1]

    def periods(self, item: int, until: int) -> list[tuple[int, int]]:
        """Return the item's periods that have begun before `until`; the last may be cut by the subscription's end."""
        price, first = self.begun.prices[item], self.first(item)
        cuts = boundaries(self.anchor, price.interval, price.count, first, until)
        starts = [first, *cuts]
        ends = [*cuts, next_boundary(self.anchor, price.interval, price.count, starts[-1])]
        return [
            (start, min(end, self.ends_at))
            for start, end in zip(starts, ends, strict=True)
            if start < self.ends_at
        ]

    def bills(self, as_of: int) -> list[Bill]:
        """Return the invoices there are at `as_of`, each with what is on it by then."""
        if self.begun is None:
            return []
        found = [self._first_bill()] if self.trial_end is None else [self._after_trial(as_of)]
        moments = {
            end
            for item in range(len(self.begun.prices))
            for _, end in self.periods(item, as_of)
            if end <= as_of
        }
        for moment in sorted(moments):
            if moment == self.ends_at and not self.bills_the_end:
                continue
            place = self.cancelled_at_place if moment == self.ends_at else NEVER
            final_at = moment + self.grace if place == NEVER else moment
            counted_by = final_at if final_at <= as_of else moment
            found.append(Bill(moment, final_at, self._lines_at(moment, counted_by, place)))
        return [bill for bill in found if bill.lines and bill.at <= as_of]

    def _first_bill(self) -> Bill:
        lines = [line for lines in self.at_once for line in lines]
        if self.begun.classic:
            lines += self._named_at_zero()
        for item, price in enumerate(self.begun.prices):
            if price.meter is None:
                for start in self._starts_before(item):
                    lines += self._fee(item, start, self.begun.at)
        return Bill(self.begun.at, self.begun.at, tuple(sorted(lines)))

    def _named_at_zero(self) -> list[Line]:
        """Return the lines that name the metered items on the first invoice: 0 for the period that begins."""
        at = self.begun.at
        return [
            Line(item, at, self.next_end(at), price.name, 0, 0)
            for item, price in enumerate(self.begun.prices)
            if price.meter is not None
        ]

    def _after_trial(self, as_of: int) -> Bill:
        moment = self.trial_end
        if moment >= self.ends_at or moment > as_of:
            return Bill(moment, None, ())
        by_hand = any(step.at == moment for step in self._every(EndTrial))
        return Bill(moment, None if by_hand else moment + self.grace, self._ahead(moment, moment))

    def _lines_at(self, moment: int, counted_by: int, place: int) -> tuple[Line, ...]:
        lines = list(self._ahead(moment, moment)) if moment < self.ends_at else []
        for item, price in enumerate(self.begun.prices):
            if price.meter is not None:
                for start, end in self.periods(item, moment):
                    if end == moment:
                        lines += self._usage(item, start, end, counted_by, place)
        return tuple(sorted(lines))

    def _ahead(self, moment: int, decided_at: int) -> tuple[Line, ...]:
        """Return the fees of the licensed items whose period begins at `moment`."""
        lines = []
        for item, price in enumerate(self.begun.prices):
            first = self.trial_end or self.begun.start
            if price.meter is None and (
                moment == first
                or moment in boundaries(self.anchor, price.interval, price.count, first, moment)
            ):
                lines += self._fee(item, moment, decided_at)
        return tuple(sorted(lines))

    def _fee(self, item: int, start: int, decided_at: int) -> list[Line]:
        price = self.begun.prices[item]
        quantity = self.begun.quantities[item] or 0
        for step in self._every(Requantify):
            if step.item == item and step.at < decided_at:
                quantity = step.quantity
        end = next_boundary(self.anchor, price.interval, price.count, start)
        return [
            Line(item, start, end, price.name, billed, amount)
            for billed, amount in charged(price, quantity * ONE)
        ]

    def _usage(self, item: int, start: int, end: int, counted_by: int, place: int) -> list[Line]:
        lines = []
        for since, until, price in self._stretches(item, start, end):
            used = self._used(price.meter, since, until, counted_by, place)
            lines += [
                Line(item, since, until, price.name, quantity, amount)
                for quantity, amount in charged(price, used)
            ]
        return lines

    def _stretches(self, item: int, start: int, end: int) -> list[tuple[int, int, Price]]:
        """Return the parts of a period, each with the price that was in force."""
        price, since, found = self.begun.prices[item], start, []
        for step in self._every(Reprice):
            if step.item != item or step.at >= end:
                continue
            if step.at > since:
                found.append((since, step.at, price))
                since = step.at
            price = step.price
        return [*([] if self.begun.classic else found), (since, end, price)]

    def _used(self, meter: Meter, start: int, end: int, counted_by: int, place: int) -> int:
        """Return the meter's figure over [start, end), of what counts at `counted_by` and was sent before `place`."""
        found = [
            step
            for sent_at, step in self.steps
            if isinstance(step, Send)
            and step.meter == meter
            and start <= step.timestamp < end
            and self.counts(step.at, sent_at, counted_by, place)
            and not any(
                isinstance(void, Void)
                and void.name == step.name
                and self.counts(void.at, void_at, counted_by, place)
                for void_at, void in self.steps
            )
        ]
        if meter.formula == "count":
            return len(found) * ONE
        if meter.formula == "sum":
            return sum(step.value for step in found)
        latest = None
        for step in found:
            if latest is None or step.timestamp >= latest.timestamp:
                latest = step
        return latest.value if latest is not None else 0

    def counts(self, received: int, sent_place: int, counted_by: int, place: int) -> bool:
        """Tell whether something received counts at a second, or at the step `place` in that second.

        What falls due at a second is done before that second's steps; what has waited out its lag by then counts.
        """
        if place < NEVER or self.lag:
            return sent_place < place and received + self.lag <= counted_by
        return received < counted_by

    def preview(self, now: int, place: int) -> tuple[Line, ...]:
        """Return the lines of the next invoice as they stand; without another invoice there are none."""
        if self.ends_at <= now:
            return ()
        moment = min(self.next_end(now), self.ends_at)
        lines = list(self._ahead(moment, NEVER)) if moment < self.ends_at else []
        for item, price in enumerate(self.begun.prices):
            if price.meter is None or moment == self.trial_end:
                continue
            for start, end in self.periods(item, now):
                if end == moment:
                    lines += self._usage(item, start, end, now, place)
        return tuple(sorted(lines))
