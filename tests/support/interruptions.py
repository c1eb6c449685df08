"""Ending the process at a named step: before it, in it, after it, or with its outcome unknown.

`billing.steps` is the one place through which every commit and call of the money's path goes, so
putting these in the place of its two functions is all it takes. While they are there, they also
watch: whatever is written with no named commit open, and whatever is asked of Stripe with no named
call open, is objected to.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from django.db import InterfaceError, connection, transaction
from structlog.contextvars import bound_contextvars

from billing import steps
from stripe_emulator import Emulator

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("billing", "usage", "reconciliation")
WRITES = re.compile(r"\b(?:INSERT\s+INTO|DELETE\s+FROM|(?<!FOR )(?<!KEY )UPDATE\s+\S+\s)")
"""What tells a statement that writes; `FOR UPDATE` and `FOR NO KEY UPDATE` only lock."""


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

    def __str__(self) -> str:
        return self.name


@dataclass(slots=True)
class Taken:
    """One time a step was taken, and how many rows it wrote; a call always counts as 1."""

    step: Step
    effect: int = 0


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
                    and node.func.attr in set(Kind)
                ):
                    [name] = node.args
                    assert isinstance(name, ast.Constant), f"{path}: a step's name is a literal"
                    found.add(Step(Kind(node.func.attr), name.value))
    return sorted(found)


class Interruptions:
    """Notes the steps taken, and ends the process once at the step it is set on.

    `occurrence` counts the times that step is taken, from 1.
    """

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._target: tuple[Step, Moment, int] | None = None
        self._open: list[Taken] = []
        self.taken: list[Taken] = []
        self.objections: list[str] = []
        self.struck = False

    def set_on(self, step: Step, moment: Moment, *, occurrence: int = 1) -> None:
        self._target = (step, moment, occurrence)
        self.taken.clear()
        self.struck = False

    def wrote(self, sql: str, rows: int) -> None:
        """Note a statement that wrote `rows`; outside of every named commit it is objected to."""
        if not any(taken.step.kind is Kind.COMMIT for taken in self._open):
            self.objections.append(f"written outside of every named commit: {sql.strip()[:300]}")
        for taken in self._open:
            taken.effect += rows

    def asked(self, method: str, path: str) -> None:
        """Note a request to Stripe; outside of every named call it is objected to."""
        if not any(taken.step.kind is Kind.CALL for taken in self._open):
            self.objections.append(f"asked outside of every named call: {method} {path}")

    @contextmanager
    def _took(self, kind: Kind, name: str) -> Iterator[Moment | None]:
        taken = Taken(Step(kind, name), effect=int(kind is Kind.CALL))
        self.taken.append(taken)
        self._open.append(taken)
        try:
            with bound_contextvars(step=name):
                yield self._moment(taken.step)
        finally:
            self._open.remove(taken)

    def _moment(self, step: Step) -> Moment | None:
        if self._target is None or self.struck:
            return None
        target, moment, occurrence = self._target
        if step != target or sum(each.step == step for each in self.taken) != occurrence:
            return None
        self.struck = True
        return moment

    @contextmanager
    def commit(self, name: str, *, durable: bool = False, savepoint: bool = True) -> Iterator[None]:
        del durable, savepoint  # a test stands in a transaction of its own
        with self._took(Kind.COMMIT, name) as moment:
            if moment is Moment.BEFORE:
                raise Killed(name)
            with transaction.atomic():
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
        with self._took(Kind.CALL, name) as moment:
            if moment is Moment.BEFORE:
                raise Killed(name)
            with self._failing(moment):
                try:
                    yield
                except Exception:
                    if moment in {Moment.DURING, Moment.AFTER}:
                        raise Killed(name) from None
                    raise
        if moment in {Moment.DURING, Moment.AFTER}:
            raise Killed(name)

    @contextmanager
    def _failing(self, moment: Moment | None) -> Iterator[None]:
        """Lose the next request on its way, or its answer; before any fault the story has set."""
        kinds = {Moment.DURING: "drop_before", Moment.UNKNOWN: "answer_lost"}
        if moment not in kinds:
            yield
            return
        faults = self._emulator.faults
        rule = faults.switch_on(kinds[moment], count=1)
        faults.rules.remove(rule)
        faults.rules.insert(0, rule)
        try:
            yield
        finally:
            faults.remove(rule.id)


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


@contextmanager
def watched(interruptions: Interruptions) -> Iterator[None]:
    """Have every statement and request inside the block noted by `interruptions`."""

    def execute(
        run: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        result = run(sql, params, many, context)
        if WRITES.search(sql):
            interruptions.wrote(sql, max(0, context["cursor"].rowcount))
        return result

    emulator = interruptions._emulator
    begin = emulator.begin

    def watched_begin(request: Any) -> Any:
        interruptions.asked(request.method, request.path)
        return begin(request)

    emulator.begin = watched_begin  # type: ignore[method-assign]
    try:
        with connection.execute_wrapper(execute):
            yield
    finally:
        del emulator.begin
