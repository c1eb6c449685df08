"""One process of the simulation: a database of its own, and one seed after the other."""

from __future__ import annotations

import json
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from multiprocessing.queues import Queue

import django

SHRINKING_TRIES = 150


@dataclass(frozen=True)
class Result:
    seed: int
    seconds: float
    counts: Counter[str]
    failure: str = ""


def one(seed: int, steps: int, shrink: bool) -> Result:
    from tests.simulation import running  # noqa: PLC0415 - needs Django set up

    began = time.monotonic()
    try:
        counts = running.run(running.drawn(seed, count=steps), seed=seed)
    except running.Failed as failure:
        told = _told(failure)
        first = failure.steps
        if shrink:
            failure = running.shrunk(failure, seed=seed, tries=SHRINKING_TRIES)
        text = (
            f"--- seed {seed} failed after {len(first)} steps: {told}\n"
            f"replay it: make simulate SEED={seed} STEPS={steps}\n"
            f"{len(failure.steps)} steps are enough, which end in: {_told(failure)}\n"
            + "\n".join(json.dumps(step) for step in failure.steps)
            + "\n"
            + "".join(traceback.format_exception(failure.error)[-6:])
        )
        return Result(seed, time.monotonic() - began, Counter(steps=len(first)), text)
    return Result(seed, time.monotonic() - began, counts)


def _told(failure: BaseException) -> str:
    return str(failure).splitlines()[0]


def settle_in(names: Queue[str]) -> None:
    django.setup()
    from django.db import connection  # noqa: PLC0415

    connection.settings_dict["NAME"] = names.get()
