"""What is measured: variants, and the samples each repeat of one gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.bench.cpu import Reading


def _nothing() -> None:
    """Stand in where a variant has nothing to prepare or clean."""


def _no_figures() -> dict[str, float]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way of doing the same work. Only `run` is on the clock.

    `check` follows it and raises unless the work was done; `clean` is always called.

    `meters` reads the CPU time each role has used so far; `app` and `db` are the roles that make
    up the cost of an event, others (such as the load generator) are shown apart. `figures` is
    asked after each run for more of its numbers, such as latencies.
    """

    name: str
    events: int
    run: Callable[[], None]
    prepare: Callable[[], None] = _nothing
    check: Callable[[], None] = _nothing
    clean: Callable[[], None] = _nothing
    meters: Mapping[str, Callable[[], Reading | None]] = field(default_factory=dict)
    figures: Callable[[], Mapping[str, float]] = _no_figures
    reference: str | None = None
    """The variant of this case that ratios are taken to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One repeat of one variant. A role whose CPU could not be read wholly has None."""

    variant: str
    repeat: int
    events: int
    seconds: float
    cpu_microseconds: Mapping[str, float | None]
    """Per event, by role."""
    figures: Mapping[str, float]

    @property
    def events_per_second(self) -> float:
        """Events by the wall clock."""
        return self.events / self.seconds

    @property
    def cost(self) -> float | None:
        """CPU microseconds per event of application and database together."""
        parts = [self.cpu_microseconds.get(role) for role in ("app", "db")]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None
