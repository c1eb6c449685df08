"""Breaches of a good client's duties, noticed by the emulator itself."""

from collections import Counter
from typing import Any

import msgspec

KINDS = {
    "identifier_with_two_payloads": "one identifier arrived with different contents",
    "identifier_after_window": "an identifier came again when it was no longer remembered, and "
    "counted again",
    "timestamp_out_of_range": "older than 35 days or more than five minutes ahead",
    "two_calls_in_flight": "a second single-event call for a customer and meter before the first "
    "was answered",
}
"""Every kind of breach and what it means."""

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
