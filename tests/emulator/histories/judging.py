"""Playing stories and telling where the emulator's invoices differ from the expected ones."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.emulator.histories.drawing import story
from tests.emulator.histories.expecting import Bill, Line, Subscriber
from tests.emulator.histories.fates import unaccounted
from tests.emulator.histories.playing import Refused, Stage
from tests.emulator.histories.story import Look, Preview, Story, spoken


def differences(seed: int) -> list[str]:
    """Return one sentence for each thing that is not as it must be, in the order it was asked."""
    told = story(seed)
    try:
        stage = Stage(told).run()
    except Refused as refusal:
        return [str(refusal)]
    return judged(told, stage)


def judged(told: Story, stage: Stage) -> list[str]:
    """Return what differs on a stage that the story was told to."""
    found = []
    for place, step in enumerate(told.steps):
        if isinstance(step, Preview):
            expected = Subscriber(told, step.who, place).preview(step.at, place)
            found += _preview_differs(step, expected, stage.seen[place], told)
        if isinstance(step, Look):
            due = Subscriber(told, step.who, place).bills(step.at)
            found += _bills_differ(f"look {_at(step.at)}", due, stage.seen[place], told, step.who)
    for who in range(len(stage.customers)):
        seen = stage.bills(who)
        found += _bills_differ("end", Subscriber(told, who).bills(told.end), seen, told, who)
        found += unaccounted(told, who, seen)
    return found


def report(seed: int, found: list[str]) -> str:
    """Return what differs, the whole story, and how to have it told again."""
    told = story(seed)
    steps = [f"{_at(step.at)} {step}" for step in told.steps]
    return "\n".join(
        [
            f"the history of seed {seed} is billed wrongly; `make billing-histories SEED={seed}` tells it again",
            *(f"  {each}" for each in found),
            f"  lag {told.lag} s, ends {_at(told.end)}, amounts and quantities in 10^-12:",
            *(f"    {each}" for each in steps),
        ]
    )


def _preview_differs(
    step: Preview, expected: tuple[Line, ...] | None, seen: tuple[Line, ...] | None, told: Story
) -> list[str]:
    free = _free_until(told, step.who)
    if seen is not None:
        seen = _without_trial(seen, free)
    if expected == seen:
        return []
    return [f"preview {_at(step.at)}: expected {_lines(expected)}, got {_lines(seen)}"]


def _bills_differ(
    what: str, expected: list[Bill], seen: list[Bill], told: Story, who: int
) -> list[str]:
    free = _free_until(told, who)
    now = [Bill(each.at, each.final_at, _without_trial(each.lines, free)) for each in seen]
    now = [each for each in now if each.lines]
    found = []
    if [each.at for each in expected] != [each.at for each in now]:
        found.append(
            f"{what}: invoices expected at {[_at(b.at) for b in expected]}, got {[_at(b.at) for b in now]}"
        )
    made = {each.at: each for each in now}
    for bill in expected:
        other = made.get(bill.at)
        if other is not None and bill.lines != other.lines:
            found.append(
                f"{what}: invoice of {_at(bill.at)}: expected {_lines(bill.lines)}, got {_lines(other.lines)}"
            )
    return found


def _free_until(told: Story, who: int) -> int:
    life = Subscriber(told, who)
    return life.trial_end or 0


def _without_trial(lines: tuple[Line, ...], free: int) -> tuple[Line, ...]:
    """Leave out what an invoice says about a trial, as long as it costs nothing (whether it says so is not stated)."""
    return tuple(line for line in lines if line.amount or line.start >= free)


def _at(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _lines(lines: Any) -> str:
    if lines is None:
        return "none"
    return (
        "; ".join(
            f"item {line.item} {line.price} {_at(line.start)}..{_at(line.end)} "
            f"{spoken(line.quantity)} = {line.amount}"
            for line in lines
        )
        or "no lines"
    )
