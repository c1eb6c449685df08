"""Ending the process at a named step: before it, in it, after it, or with its outcome unknown.

`billing.steps` is the one place through which every commit and call of the money's path goes, so
putting these in the place of its two functions is all it takes.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from django.db import InterfaceError, transaction
from structlog.contextvars import bound_contextvars

from billing import steps
from stripe_emulator import Emulator

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("billing", "usage", "reconciliation")


class Kind(StrEnum):
    COMMIT = "commit"
    CALL = "call"


class Moment(StrEnum):
    """When the process ends, or with UNKNOWN goes on without knowing what happened."""

    BEFORE = "before"
    DURING = "during"
    AFTER = "after"
    UNKNOWN = "unknown"


class Killed(BaseException):
    """The process is gone. No `except Exception` of the product may see it."""


@dataclass(frozen=True, order=True)
class Step:
    kind: Kind
    name: str


def named_steps() -> list[Step]:
    """Return every step the product names, read from its source."""
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id == "steps"
                ):
                    [name] = node.args
                    assert isinstance(name, ast.Constant), f"{path}: a step's name is a literal"
                    found.add(Step(Kind(node.func.attr), name.value))
    return sorted(found)


class Interruptions:
    """Counts the steps taken, and ends the process once at the step it is set on.

    `occurrence` counts the times that step is taken, from 1.
    """

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._target: tuple[Step, Moment, int] | None = None
        self.taken: Counter[Step] = Counter()
        self.struck = False

    def set_on(self, step: Step, moment: Moment, *, occurrence: int = 1) -> None:
        self._target = (step, moment, occurrence)
        self.taken.clear()
        self.struck = False

    def _moment(self, step: Step) -> Moment | None:
        self.taken[step] += 1
        if self._target is None or self.struck:
            return None
        target, moment, occurrence = self._target
        if step != target or self.taken[step] != occurrence:
            return None
        self.struck = True
        return moment

    @contextmanager
    def commit(self, name: str, *, durable: bool = False) -> Iterator[None]:
        del durable  # a test stands in a transaction of its own
        moment = self._moment(Step(Kind.COMMIT, name))
        if moment is Moment.BEFORE:
            raise Killed(name)
        with bound_contextvars(step=name), transaction.atomic():
            yield
            if moment is Moment.DURING:
                raise Killed(name)
        if moment is Moment.AFTER:
            raise Killed(name)
        if moment is Moment.UNKNOWN:
            # Committed, and the connection was lost with the answer.
            raise InterfaceError("connection already closed")

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        moment = self._moment(Step(Kind.CALL, name))
        if moment is Moment.BEFORE:
            raise Killed(name)
        if moment is Moment.DURING:
            # It left, never arrived, and nobody is there to notice.
            self._emulator.faults.switch_on("drop_before", count=1)
        elif moment is Moment.UNKNOWN:
            self._emulator.faults.switch_on("answer_lost", count=1)
        try:
            with bound_contextvars(step=name):
                yield
        except Exception:
            if moment is Moment.DURING:
                raise Killed(name) from None
            raise
        finally:
            if moment in {Moment.DURING, Moment.UNKNOWN}:
                self._emulator.faults.clear()
        if moment in {Moment.DURING, Moment.AFTER}:
            raise Killed(name)


@contextmanager
def interruptible(emulator: Emulator) -> Iterator[Interruptions]:
    """Put interruptions in the place of the product's named steps."""
    interruptions = Interruptions(emulator)
    kept = steps.commit, steps.call
    steps.commit, steps.call = interruptions.commit, interruptions.call
    try:
        yield interruptions
    finally:
        steps.commit, steps.call = kept
