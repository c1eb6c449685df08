"""Meddling with a worker between its steps: it dies there, or another worker gets its turn there.

Put in the place of `billing.steps`' two functions. Steps of a transaction that is open already are
parts of it and no place to meddle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import InterfaceError, connection, transaction

from billing import steps
from stripe_emulator import Emulator
from tests.support.interruptions import Killed, Moment


class Meddler:
    """Strikes once, at the `position`-th step (from 0) that is taken after it was set."""

    def __init__(self, emulator: Emulator, *, depth: int) -> None:
        self._emulator = emulator
        self._depth = depth
        self._left: int | None = None
        self._moment: Moment | None = None
        self._action: Callable[[], object] | None = None
        self.struck = ""
        """Name of the step it struck; empty while it has not."""

    def kill(self, position: int, moment: Moment) -> None:
        """End the process at that step; with UNKNOWN it lives on without knowing what happened."""
        self._left, self._moment, self._action, self.struck = position, moment, None, ""

    def interleave(self, position: int, action: Callable[[], object]) -> None:
        """Let another worker do `action` right before that step."""
        self._left, self._moment, self._action, self.struck = position, None, action, ""

    def leave(self) -> None:
        """Meddle no more."""
        self._left = self._moment = self._action = None

    def _strikes(self, name: str) -> Moment | None:
        if self._left is None or len(connection.atomic_blocks) > self._depth:
            return None
        if self._left:
            self._left -= 1
            return None
        moment, action = self._moment, self._action
        self.leave()
        self.struck = name
        if action is not None:
            action()
        return moment

    @contextmanager
    def commit(self, name: str, *, durable: bool = False, savepoint: bool = True) -> Iterator[None]:
        del durable, savepoint  # the whole example is one transaction
        moment = self._strikes(name)
        if moment is Moment.BEFORE:
            raise Killed(name)
        with transaction.atomic():
            yield
            if moment is Moment.DURING:
                raise Killed(name)
        if moment is Moment.AFTER:
            raise Killed(name)
        if moment is Moment.UNKNOWN:
            raise InterfaceError("connection already closed")

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        moment = self._strikes(name)
        if moment is Moment.BEFORE:
            raise Killed(name)
        rule = None
        if moment is Moment.DURING:
            rule = self._emulator.faults.switch_on("drop_before", count=1)
        elif moment is Moment.UNKNOWN:
            rule = self._emulator.faults.switch_on("answer_lost", count=1)
        if rule is not None:
            # In front of what was on already: the first that strikes wins.
            rules = self._emulator.faults.rules
            rules.insert(0, rules.pop())
        try:
            yield
        except Exception:
            if moment is Moment.DURING:
                raise Killed(name) from None
            raise
        finally:
            if rule is not None:
                self._emulator.faults.remove(rule.id)
        if moment in {Moment.DURING, Moment.AFTER}:
            raise Killed(name)


@contextmanager
def meddling(meddler: Meddler) -> Iterator[None]:
    """Put `meddler` in the place of the product's named steps."""
    kept = steps.commit, steps.call
    steps.commit, steps.call = meddler.commit, meddler.call  # type: ignore[assignment]
    try:
        yield
    finally:
        steps.commit, steps.call = kept
