"""What became of every unit of usage: asked of each event alone, where `expecting` asks it of each line.

So usage that is billed twice or nowhere shows even when both ends of it look right.
"""

from __future__ import annotations

from enum import StrEnum

from tests.emulator.histories.day_walk import next_boundary
from tests.emulator.histories.expecting import NEVER, Bill, Subscriber
from tests.emulator.histories.story import Reprice, Send, Story, Void


class Fate(StrEnum):
    BILLED = "billed"
    RUNNING = "in a period that is not over"
    DRAFTED = "on a draft"
    FREE = "in a trial"
    BEFORE = "before the start"
    AFTER = "after the end"
    LATE = "too late"
    DROPPED = "before a change of price, of which classic billing leaves it unbilled"
    LOST = "in the last period, that a cancellation left unbilled"
    VOIDED = "taken back in time"


def fate(life: Subscriber, item: int, place: int, sent: Send, now: int) -> Fate:
    """Return what has become by `now` of an event that this item's meter counts."""
    if not life.first(item) <= sent.timestamp < life.ends_at:
        return _outside(life, item, place, sent)
    price = life.begun.prices[item]
    ends = next_boundary(life.anchor, price.interval, price.count, sent.timestamp)
    closes, before = ends + life.grace, NEVER
    if ends >= life.ends_at:
        ends, before = life.ends_at, life.cancelled_at_place
        closes = ends + life.grace if before == NEVER else ends
        if not life.bills_the_end:
            return Fate.LOST
    if life.begun.classic and any(
        isinstance(step, Reprice) and step.item == item and sent.timestamp < step.at < ends
        for _, step in life.steps
    ):
        return Fate.DROPPED
    if closes > now:
        return Fate.RUNNING if ends > now else Fate.DRAFTED
    return _by(life, place, sent, closes, before)


def _by(life: Subscriber, place: int, sent: Send, closes: int, before: int) -> Fate:
    """Return what an event's receipt made of it, when it had to be there at `closes` and before a step."""
    if not life.counts(sent.at, place, closes, before):
        return Fate.LATE
    for other, step in life.steps:
        is_taken_back = isinstance(step, Void) and step.name == sent.name
        if is_taken_back and life.counts(step.at, other, closes, before):
            return Fate.VOIDED
    return Fate.BILLED


def _outside(life: Subscriber, item: int, place: int, sent: Send) -> Fate:
    """Return what became of an event that no running period has: backdated ones are billed when they are made."""
    begun = life.begun
    if sent.timestamp >= life.ends_at:
        return Fate.AFTER
    if life.trial_end is not None and sent.timestamp >= begun.at:
        return Fate.FREE
    if life.trial_end is not None or sent.timestamp < begun.start or not life.at_once[item]:
        return Fate.BEFORE
    [subscribed] = [other for other, step in life.steps if step is begun]
    return _by(life, place, sent, begun.at, subscribed)


def unaccounted(told: Story, who: int, seen: list[Bill]) -> list[str]:
    """Return a sentence for each item on whose invoices another sum stands than what is to be billed.

    Only sums can be added up again: not packages, whose lines show packs, and no period below zero.
    """
    life, found = Subscriber(told, who), []
    if life.begun is None:
        return []
    names = {price.name: price for price in told.prices}
    for item, price in enumerate(life.begun.prices):
        if price.meter is None or price.meter.formula != "sum":
            continue
        lines = [
            line
            for bill in seen
            if bill.final_at is not None
            for line in bill.lines
            if line.item == item
        ]
        events = [
            (place, step)
            for place, step in life.steps
            if isinstance(step, Send) and step.meter == price.meter
        ]
        if any(names[line.price].divide_by for line in lines) or any(
            step.value < 0 for _, step in events
        ):
            continue
        due = sum(
            step.value
            for place, step in events
            if fate(life, item, place, step, told.end) is Fate.BILLED
        )
        billed = sum(line.quantity for line in lines)
        if due != billed:
            found.append(f"item {item}: {due} is to be billed in all, and {billed} is")
    return found
