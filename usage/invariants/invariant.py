"""The form of an invariant: a sentence, and the query that returns what violates it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Invariant:
    """One statement about the tables. `query` returns a row, with one text, per violation."""

    id: str
    statement: str
    query: str


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, how often, and where first."""

    invariant: Invariant
    count: int
    sample: tuple[str, ...]
