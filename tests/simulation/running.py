"""Taking steps: of a list, or drawn by a seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tests.simulation import checks, world
from tests.simulation.rules import RULES
from usage.models import Replacement

Step = tuple[str, dict[str, Any]]


class Failed(AssertionError):
    """Something that must hold did not; the steps up to there are what replays it."""

    def __init__(self, steps: list[Step], error: BaseException) -> None:
        super().__init__(str(error) or repr(error))
        self.steps = steps
        self.error = error


def drawn(seed: int, *, count: int) -> Iterator[Step]:
    """Yield steps of the rules by their weights; the same seed yields the same."""
    draw = random.Random(seed)
    names = list(RULES)
    weights = [RULES[name].weight for name in names]
    for _ in range(count):
        [name] = draw.choices(names, weights)
        yield name, {key: draw.choice(values) for key, values in RULES[name].draws.items()}


def run(steps: Iterable[Step], *, seed: int) -> Counter[str]:
    """Take `steps` in a new world, judge after each and at rest; return what befell it.

    Raises:
        Failed: something that must hold did not.
    """
    taken: list[Step] = []
    with world.opened(seed) as company:
        try:
            for number, (name, draws) in enumerate(steps, 1):
                taken.append((name, draws))
                RULES[name].act(company, **draws)
                checks.after_step(company, step=number)
            checks.run_to_rest(company)
        except Exception as error:
            raise Failed(taken, error) from error
        company.counts["steps"] = len(taken)
        company.counts["replacements"] = Replacement.objects.filter(
            kind__in=("doubt", "restore")
        ).count()
        return company.counts


def shrunk(failure: Failed, *, seed: int, tries: int) -> Failed:
    """Leave out steps as long as the rest still fails, in at most so many tries."""
    chunk = max(1, len(failure.steps) // 2)
    while tries > 0:
        start = 0
        while start < len(failure.steps) and tries > 0:
            tries -= 1
            fewer = failure.steps[:start] + failure.steps[start + chunk :]
            try:
                run(fewer, seed=seed)
            except Failed as again:
                failure = again
            else:
                start += chunk
        if chunk == 1:
            break
        chunk = max(1, chunk // 2)
    return failure
