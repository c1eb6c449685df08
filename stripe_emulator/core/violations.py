"""Breaches of a good client's duties, noticed by the emulator itself."""

from collections import Counter
from typing import Any

import msgspec

KEPT = 10_000
"""So many are kept in full; later ones are only counted, so that memory stays bounded."""


class Violation(msgspec.Struct, frozen=True):
    """One breach, with what is needed to find its cause."""

    kind: str
    at: float
    arrival: int
    detail: dict[str, Any]


class Violations:
    """Collect breaches by kind."""

    def __init__(self) -> None:
        self.kept: list[Violation] = []
        self.counts: Counter[str] = Counter()

    def add(self, violation: Violation) -> None:
        self.counts[violation.kind] += 1
        if len(self.kept) < KEPT:
            self.kept.append(violation)
