"""Playing stories and telling where the emulator's invoices differ from the expected ones."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.emulator.histories import books
from tests.emulator.histories.drawing import story
from tests.emulator.histories.expecting import Bill, Line, Subscriber
from tests.emulator.histories.fates import unaccounted
from tests.emulator.histories.playing import Refused, Stage, WrongShape
from tests.emulator.histories.story import Look, Preview, Story, spoken


def differences(seed: int) -> list[str]:
    """Return one sentence for each thing that is not as it must be, in the order it was asked."""
    told = story(seed)
    try:
        stage = Stage(told).run()
        return judged(told, stage)
    except (Refused, WrongShape) as error:
        return [str(error)]


def judged(told: Story, stage: Stage) -> list[str]:
    """Return what differs on a stage that the story was told to."""
    found = []
    for place, step in enumerate(told.steps):
        if isinstance(step, Preview):
            life = Subscriber(told, step.who, place)
            found += _preview_differs(life, step, place, stage.seen[place])
        if isinstance(step, Look):
            life = Subscriber(told, step.who, place)
            found += _bills_differ(life, step.at, stage.seen[place])
    for who in range(len(stage.customers)):
        seen = stage.bills(who)
        found += _bills_differ(Subscriber(told, who), told.end, seen)
        found += unaccounted(told, who, seen)
        kept = stage.emulator.billed(customer=stage.customers[who])
        found += books.differ(told, who, kept, stage.meters)
    return found


def report(seed: int, found: list[str]) -> str:
    """Return what differs, the whole story, and how to have it told again."""
    told = story(seed)
    steps = [f"{_at(step.at)} {step}" for step in told.steps]
    return "\n".join(
        [
            f"the history of seed {seed} is billed wrongly; `make billing-histories SEED={seed}` tells it again",
            *(f"  {each}" for each in found),
            f"  lag {told.lag} s, grace {told.grace} s, test clock {told.by_test_clock}, ends {_at(told.end)}, amounts and quantities in 10^-12:",
            *(f"    {each}" for each in steps),
        ]
    )


def _preview_differs(
    life: Subscriber, step: Preview, place: int, seen: tuple[Line, ...] | None
) -> list[str]:
    expected = life.preview(step.at, place)
    if seen is None or expected == _without_trial(life, seen):
        return []
    return [f"preview of {_at(step.at)}: expected {_lines(expected)}, got {_lines(seen)}"]


def _bills_differ(life: Subscriber, now: int, seen: list[Bill]) -> list[str]:
    found, expected = [], life.bills(now)
    made = [Bill(each.at, each.final_at, _without_trial(life, each.lines)) for each in seen]
    made = [each for each in made if each.lines]
    due, there = ([_at(each.at) for each in bills] for bills in (expected, made))
    if due != there:
        found.append(f"by {_at(now)}: invoices expected of {due}, got {there}")
    by_moment = {each.at: each for each in made}
    for bill in expected:
        other = by_moment.get(bill.at)
        what = f"by {_at(now)}: invoice of {_at(bill.at)}: expected"
        if other is None:
            continue
        if bill.lines != other.lines:
            found.append(f"{what} {_lines(bill.lines)}, got {_lines(other.lines)}")
        if bill.final_at is not None and other.final_at != (
            bill.final_at if bill.final_at <= now else None
        ):
            found.append(f"{what} final from {bill.final_at}, got {other.final_at}")
    return found


def _without_trial(life: Subscriber, lines: tuple[Line, ...]) -> tuple[Line, ...]:
    """Leave out what an invoice says about a trial, as long as it costs nothing: that it says so is not stated."""
    free = life.trial_end or 0
    return tuple(line for line in lines if line.amount or line.start >= free)


def _at(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _lines(lines: Any) -> str:
    return (
        "; ".join(
            f"item {line.item} {line.price} {_at(line.start)}..{_at(line.end)} "
            f"{spoken(line.quantity)} = {line.amount}"
            for line in lines
        )
        or "no lines"
    )
