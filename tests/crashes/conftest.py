"""What every test of interruptions shares: the stories, told once without any."""

from __future__ import annotations

import functools
import time
from collections import Counter
from dataclasses import dataclass

from django.db import transaction

from tests.crashes.shop import Shop, opened
from tests.crashes.stories import STORIES, Story
from tests.support.interruptions import Kind, Moment, Step

RUN: Counter[tuple[Step, Moment]] = Counter()
"""The cases run in this session."""


@dataclass(frozen=True, slots=True)
class Told:
    """How a story went when nothing interrupted it.

    `occurrences` are, for each step, the times it was taken to an effect: the others would
    interrupt a pass that found nothing to do.
    """

    occurrences: dict[Step, list[int]]
    seconds: float


def tell(shop: Shop, story: Story) -> None:
    for operation in story.tell(shop):
        shop.perform(operation)


@functools.cache
def told() -> dict[str, Told]:
    """Tell every story without interruption, leave nothing behind, and judge each at rest."""
    found = {}
    for name, story in STORIES.items():
        with transaction.atomic(), opened(*story.meters) as shop:
            began = time.perf_counter()
            tell(shop, story)
            seconds = time.perf_counter() - began
            times: Counter[Step] = Counter()
            occurrences: dict[Step, list[int]] = {}
            for taken in shop.interruptions.taken:
                times[taken.step] += 1
                if taken.effect:
                    occurrences.setdefault(taken.step, []).append(times[taken.step])
            shop.rest()
            shop.judge()
            found[name] = Told(occurrences, seconds)
            transaction.set_rollback(True)
    return found


def pytest_terminal_summary(terminalreporter) -> None:
    if RUN:
        points = {step for step, _ in RUN}
        calls = sum(step.kind is Kind.CALL for step in points)
        terminalreporter.write_line(
            f"crash points: {len(points)} ({len(points) - calls} commits, {calls} calls),"
            f" {sum(RUN.values())} cases of {len(Moment)} moments"
        )
