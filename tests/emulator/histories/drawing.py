"""Stories drawn by chance from a seed: the same seed tells the same story."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tests.emulator.histories import price_list
from tests.emulator.histories.day_walk import DAY, boundaries, next_boundary
from tests.emulator.histories.expecting import NEVER, Subscriber
from tests.emulator.histories.story import (
    ONE,
    CancelNow,
    EndTrial,
    Look,
    Meter,
    Plan,
    Preview,
    Price,
    Reprice,
    Requantify,
    Restart,
    Send,
    Step,
    Story,
    Subscribe,
    Unplan,
    Void,
)

PAST, AHEAD = 35 * DAY, 300
HOUR = 3600
AROUND = (-HOUR, -61, -1, 0, 0, 1, 59, 3 * HOUR, 2 * DAY)
"""Where things happen, seen from a moment that decides."""


def story(seed: int) -> Story:
    """Return the story of a seed."""
    draw = Random(seed)
    begin = _beginning(draw)
    meters = price_list.meters(draw)
    grace = draw.choice((HOUR, HOUR, HOUR, 60, 7321))
    by_test_clock = draw.random() < 0.25
    # A test clock moves days in a moment, in which nothing settles.
    lag = 0 if by_test_clock else draw.choice((0, 0, 0, 60, grace - 1, grace, 5000))
    told = Story(seed, begin, begin, lag, grace, by_test_clock, meters, ())
    main = draw.choice(price_list.INTERVALS)
    tellers = [_Teller(draw, told, who, main) for who in range(draw.choice((1, 1, 1, 2)))]
    steps: list[Step] = []
    for teller in tellers:
        steps += teller.tell()
    steps.sort(key=lambda step: step.at)
    return replace(
        told,
        end=max(teller.end for teller in tellers),
        prices=tuple(price for teller in tellers for price in teller.prices),
        steps=tuple(steps),
    )


def _beginning(draw: Random) -> int:
    """Return any second of some years, or one near the end of a month."""
    at = 1_767_225_600 + draw.randrange(7 * 365 * DAY)
    if draw.random() < 0.4:
        first = next_boundary(0, "month", 1, at)
        at = first + draw.choice((-3, -2, -1, 0)) * DAY + draw.choice((0, 1, 43_217, DAY - 1))
    return at


class _Teller:
    """Draws the steps of one subscriber."""

    def __init__(self, draw: Random, told: Story, who: int, main: tuple[str, int]) -> None:
        self.draw, self.told, self.who, self.main = draw, told, who, main
        self.prices: list[Price] = []
        self.steps: list[Step] = []
        self.subscribe = self._subscribe()
        self.end = self._end()

    def tell(self) -> list[Step]:
        """Return the steps in order."""
        self.steps = [self.subscribe]
        self._trial()
        ends_at = self._cancel()
        self._changes(ends_at)
        self.moments = self._moments()
        self._usage()
        self._questions()
        self.steps.sort(key=lambda step: step.at)
        return self.steps

    def _new_price(self, meter: Meter | None, interval: str, count: int) -> Price:
        name = f"p{self.who}.{len(self.prices)}"
        self.prices.append(price_list.price(self.draw, name, meter, interval, count))
        return self.prices[-1]

    def _subscribe(self) -> Subscribe:
        draw, at = self.draw, self.told.begin + self.draw.choice((0, 1, 7, 3 * DAY + 59))
        kind = draw.choice(("plain", "plain", "anchor", "anchor", "backdated", "trial", "classic"))
        prices, quantities = [], []
        for number in range(draw.choice((1, 1, 2, 3))):
            is_licensed = kind != "anchor" and draw.random() < 0.3
            interval, count = self.main
            if number and kind != "classic" and draw.random() < 0.3:
                interval, count = draw.choice(price_list.beside(*self.main))
            meter = None if is_licensed else draw.choice(self.told.meters)
            prices.append(self._new_price(meter, interval, count))
            quantities.append(draw.choice((0, 1, 2, 3, 12)) if is_licensed else None)
        nearest = min(next_boundary(at, each.interval, each.count, at) for each in prices)
        anchor = at + draw.randrange(1, nearest - at) if kind == "anchor" else None
        start = at
        if kind == "backdated":
            start -= draw.randrange(1, min((nearest - at) * draw.choice((1, 3)), 40 * DAY))
            # Of usage from before, the emulator keeps whole minutes: its books are made for traffic.
            start -= start % 60
        trial_end = None
        if kind == "trial":
            trial_end = at + draw.choice((DAY, 7 * DAY, 30 * DAY, draw.randrange(60, 40 * DAY)))
        return Subscribe(
            at,
            self.who,
            tuple(prices),
            tuple(quantities),
            start,
            anchor,
            trial_end,
            classic=kind == "classic",
        )

    def _end(self) -> int:
        """Return a moment some periods later, now and then just where something falls due."""
        draw, subscribe = self.draw, self.subscribe
        at = subscribe.trial_end or subscribe.at
        anchor = subscribe.trial_end or subscribe.anchor or subscribe.start
        for _ in range(draw.choice((1, 2, 3))):
            at = next_boundary(anchor, *self.main, at)
        return at + draw.choice((-1, 0, self.told.grace - 1, self.told.grace, 2 * HOUR, 2 * DAY))

    def _life(self) -> Subscriber:
        steps = tuple(sorted(self.steps, key=lambda step: step.at))
        return Subscriber(replace(self.told, steps=steps), self.who)

    def _trial(self) -> None:
        trial_end = self.subscribe.trial_end
        if trial_end is not None and self.draw.random() < 0.25:
            at = self.draw.randrange(self.subscribe.at + 1, trial_end)
            self.steps.append(EndTrial(at, self.who))

    def _cancel(self) -> int:
        """Perhaps plan an end or cancel; return when the subscription ends."""
        draw, subscribe = self.draw, self.subscribe
        way = draw.choice(("never", "never", "never", "period end", "moment", "now", "now", "undo"))
        life = self._life()
        at = draw.randrange(subscribe.at + 1, max(self.end, subscribe.at + 3))
        # An end planned in a trial, and by hand in its last second, are stories of their own.
        if way == "never" or at in self._dues():
            return NEVER
        if life.trial_end is not None and at < life.trial_end:
            if any(isinstance(step, EndTrial) for step in self.steps):
                return NEVER
            way = {"undo": "period end"}.get(way, way)
        if way == "now":
            self.steps.append(CancelNow(at, self.who, draw.random() < 0.6))
            return at
        if way in {"period end", "undo"}:
            self.steps.append(Plan(at, self.who, None))
        if way == "moment":
            latest = (
                min(
                    next_boundary(life.anchor, price.interval, price.count, at)
                    for price in subscribe.prices
                    if price.meter is None
                )
                if any(price.meter is None for price in subscribe.prices)
                else self.end + HOUR
            )
            if latest - at < 2:
                return NEVER
            self.steps.append(Plan(at, self.who, draw.randrange(at + 1, latest + 1)))
        if way == "undo":
            until = min(self._life().ends_at, self.end)
            if until - at > 2:
                back = draw.randrange(at + 1, until)
                self.steps.append(Unplan(back, self.who, draw.random() < 0.5))
        return self._life().ends_at

    def _dues(self) -> set[int]:
        life, subscribe = self._life(), self.subscribe
        return {
            moment
            for price in subscribe.prices
            for moment in boundaries(
                life.anchor, price.interval, price.count, subscribe.start, self.end + 3 * HOUR
            )
        } | {life.trial_end or subscribe.start}

    def _changes(self, ends_at: int) -> None:
        draw, subscribe = self.draw, self.subscribe
        last = min(self.end, ends_at - 1)
        for item, price in enumerate(subscribe.prices):
            for _ in range(draw.choice((0, 0, 1, 2))):
                dues = sorted(due for due in self._dues() if subscribe.at < due < last)
                at = draw.choice(dues) if dues and draw.random() < 0.2 else None
                at = at or draw.randrange(subscribe.at, max(last, subscribe.at + 1))
                at = max(at, subscribe.at + 1)
                if at >= ends_at:
                    continue
                if price.meter is None:
                    self.steps.append(Requantify(at, self.who, item, draw.randrange(5)))
                elif price.meter.formula != "last":
                    other = self._new_price(price.meter, price.interval, price.count)
                    self.steps.append(Reprice(at, self.who, item, other))

    def _moments(self) -> list[int]:
        life = self._life()
        found = {self.subscribe.at, self.subscribe.start, self.end, *self._dues()}
        found |= {step.at for step in self.steps}
        if life.ends_at < NEVER:
            found.add(life.ends_at)
        return sorted(moment for moment in found if moment <= self.end + 3 * HOUR)

    def _near(self) -> int:
        """Return a moment of the story at which the clock can be."""
        draw = self.draw
        low, high = self.told.begin, self.end
        if draw.random() < 0.4:
            return draw.randrange(low, high + 1)
        final = draw.choice((0, 0, self.told.grace))
        return min(max(draw.choice(self.moments) + final + draw.choice(AROUND), low), high)

    def _usage(self) -> None:
        draw = self.draw
        for number in range(draw.choice((0, 3, 6, 10, 16))):
            at = self._near()
            low, high = at - PAST, at + AHEAD
            close = [each for each in self.moments if low < each <= high]
            timestamp = at
            if close and draw.random() < 0.6:
                timestamp = draw.choice(close) + draw.choice((-1, -1, 0, 0, 1, -40, -7000))
            elif draw.random() < 0.6:
                timestamp = at - draw.choice((1, 60, HOUR, DAY, draw.randrange(PAST)))
            timestamp = min(max(timestamp, low), high)
            meter = draw.choice(self.told.meters)
            name = f"e{self.who}.{number}"
            self.steps.append(Send(at, self.who, name, meter, self._value(), timestamp))
            if not self.told.lag and draw.random() < 0.1:
                later = at + draw.choice((0, 1, 600, HOUR, DAY - 1))
                if later <= self.end:
                    self.steps.append(Void(later, self.who, name, meter))

    def _value(self) -> int:
        draw = self.draw
        size = draw.random()
        if size < 0.55:
            value = draw.choice((0, 1, 2, 3, 5, 10, 11, 999, 1000, 1001)) * ONE
        elif size < 0.75:
            value = draw.randrange(1, 10**8) * ONE // 10 ** draw.choice((1, 2, 3, 6))
        elif size < 0.8:
            value = draw.randrange(10**14, 10**15) * ONE // 10 ** draw.choice((0, 3, 12))
        elif size < 0.84:
            value = draw.choice((1, ONE - 1, 999_999_999_999_999 * ONE))
        else:
            value = draw.randrange(1, 3000) * ONE
        return -value if draw.random() < 0.12 else value

    def _questions(self) -> None:
        for _ in range(self.draw.choice((0, 1, 2, 3))):
            at = self._near()
            if at > self.subscribe.at:
                self.steps.append(Preview(at, self.who))
        for kind in (Look, Restart):
            if self.draw.random() < 0.4:
                self.steps.append(kind(self._near(), self.who))
