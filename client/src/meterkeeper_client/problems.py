"""What went wrong, told to the log and to a callback, each kind at most once in ten seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

log = logging.getLogger("meterkeeper_client")

EVERY_SECONDS = 10.0


@dataclass(frozen=True)
class Problem:
    """One kind of trouble.

    `kind` is one of
    - "invalid", "full", "closed", "spool": events were dropped; `detail` is about the last one,
    - "refused": the server refuses the event `event_id` for good,
    - "unreachable", "busy": the server does not answer, or not now; events wait,
    - "denied": a person must mend something, such as a key that is not valid; events wait,
    - "internal": a mistake of this package.

    `count` is how often it happened since this kind was last told.
    """

    kind: str
    detail: str
    event_id: str = ""
    count: int = 1


class Problems:
    """Collects problems cheaply, and tells them later from the sender's thread."""

    def __init__(self, callback: Callable[[Problem], object] | None) -> None:
        self._callback = callback
        self._untold: dict[str, Problem] = {}
        self._told_at: dict[str, float] = {}

    def note(self, kind: str, detail: str, event_id: str = "") -> None:
        """Remember one. The caller holds the sender's lock."""
        before = self._untold.get(kind)
        count = 1 if before is None else before.count + 1
        self._untold[kind] = Problem(kind, detail, event_id, count)

    def tell(self) -> None:
        """Tell what was noted and is due. Whatever the callback raises is logged."""
        now = time.monotonic()
        for kind in list(self._untold):
            if now - self._told_at.get(kind, -EVERY_SECONDS) >= EVERY_SECONDS:
                problem = self._untold.pop(kind, None)
                if problem is not None:
                    self._told_at[kind] = now
                    log.warning("%s (%d x): %s", problem.kind, problem.count, problem.detail)
                    self._call(problem)

    def refused(self, problem: Problem) -> None:
        """Tell the callback of every refused event, so that none is lost from sight; log some."""
        now = time.monotonic()
        if now - self._told_at.get(problem.kind, -EVERY_SECONDS) >= EVERY_SECONDS:
            self._told_at[problem.kind] = now
            log.error("event %s is refused: %s", problem.event_id, problem.detail)
        self._call(replace(problem, count=1))

    def _call(self, problem: Problem) -> None:
        if self._callback is not None:
            try:
                self._callback(problem)
            except Exception:
                log.exception("on_problem failed")
