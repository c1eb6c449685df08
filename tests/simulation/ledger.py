"""What callers were told is stored, and what Stripe took: two books that share nothing with ours."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from stripe_emulator import Emulator
from usage.reports import ReportedEvent

Cell = tuple[str, str, int]
"""A customer's external id, a meter's slug, and the start of a UTC hour in seconds."""

HOUR = 3_600
ADDITIVE = ("tokens", "calls")


def hour_of(instant: datetime) -> int:
    seconds = int(instant.timestamp())
    return seconds - seconds % HOUR


def additive(report: ReportedEvent) -> list[tuple[Cell, Decimal]]:
    """Return what an event adds to cells."""
    assert report.occurred_at is not None
    hour = hour_of(report.occurred_at)
    return [
        ((report.subject, "tokens", hour), Decimal(report.data["tokens"])),
        ((report.subject, "calls", hour), Decimal(1)),
    ]


@dataclass
class Ledger:
    """Acknowledged events. `forgotten` ones a restore lost and no caller could report again."""

    events: dict[str, ReportedEvent] = field(default_factory=dict)
    voided: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    most: Counter[Cell] = field(default_factory=Counter)
    """All that was ever acknowledged: more than this Stripe may never have."""

    def acknowledge(self, report: ReportedEvent) -> None:
        if report.event_id not in self.events:
            self.events[report.event_id] = report
            for cell, units in additive(report):
                self.most[cell] += units
        self.forgotten.discard(report.event_id)

    def recorded(self) -> Counter[Cell]:
        """Return what is to be billed in the end: what is stored, less what was taken back."""
        units: Counter[Cell] = Counter()
        for event_id, report in self.events.items():
            if event_id not in self.voided and event_id not in self.forgotten:
                for cell, value in additive(report):
                    units[cell] += value
        return units

    def loose(self) -> set[Cell]:
        """Return the cells of events that Stripe may have and we cannot: refused when replayed."""
        return {
            cell
            for event_id in self.forgotten
            for cell, _ in additive(self.events[event_id])
        }  # fmt: skip

    def stored(self) -> set[str]:
        return self.events.keys() - self.forgotten


@dataclass
class Judge:
    """Stripe's cells, folded from what arrived; `owners` says whose a Stripe customer is."""

    emulator: Emulator
    owners: dict[str, str] = field(default_factory=dict)
    taken: Counter[Cell] = field(default_factory=Counter)
    running: list[tuple[str, int, Decimal]] = field(default_factory=list)
    """Accepted running values in order: Stripe customer, timestamp, value."""
    seen: int = 0

    def look(self) -> set[Cell]:
        """Take in what arrived since the last look; return the cells that changed."""
        changed = set()
        for arrival in self.emulator.arrivals.read(after=self.seen, limit=1_000_000):
            self.seen = arrival.number
            signed = [(event, 1) for event in arrival.events if event.verdict == "accepted"]
            if arrival.cancelled is not None:
                signed.append((arrival.cancelled, -1))
            for event, sign in signed:
                assert event.customer is not None
                assert event.timestamp is not None
                slug = event.event_name.removeprefix("mk_")
                value = Decimal(event.value or 0)
                if slug not in ADDITIVE:
                    self.running.append((event.customer, event.timestamp, value))
                    continue
                hour = event.timestamp - event.timestamp % HOUR
                cell = (self.owners[event.customer], slug, hour)
                self.taken[cell] += sign * value
                changed.add(cell)
        return changed
