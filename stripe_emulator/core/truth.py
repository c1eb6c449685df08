"""The judge's totals, folded from the arrival log alone.

Summaries are computed elsewhere and otherwise.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, TypeVar

from stripe_emulator.core import exact
from stripe_emulator.core.arrivals import Arrival, EventVerdict
from stripe_emulator.core.settings import HOUR_SECONDS

K = TypeVar("K")


class Tally:
    """How many events, and their exact sum."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = Decimal(0)

    def take(self, value: str, sign: int) -> None:
        self.count += sign
        amount = Decimal(value)
        self.total = (
            exact.add(self.total, amount) if sign > 0 else exact.subtract(self.total, amount)
        )

    def as_dict(self) -> dict[str, Any]:
        return {"count": self.count, "sum": exact.plain(self.total)}


class Truth:
    """Accepted usage per event name, per customer, and per cell.

    A cell is a customer, an event name and a UTC hour.
    """

    def __init__(self) -> None:
        self._meters: dict[str, Tally] = {}
        self._customers: dict[tuple[str, str], Tally] = {}
        self._cells: dict[tuple[str, str, int], Tally] = {}

    @classmethod
    def folded(cls, arrivals: Iterable[Arrival]) -> "Truth":
        """Count a whole log again, from nothing."""
        truth = cls()
        for arrival in arrivals:
            truth.observe(arrival)
        return truth

    def observe(self, arrival: Arrival) -> None:
        """Take in one arrival: its accepted events, less the one it cancelled."""
        for event in arrival.events:
            if event.verdict == "accepted":
                self._take(event, 1)
        if arrival.cancelled is not None:
            self._take(arrival.cancelled, -1)

    def _take(self, event: EventVerdict, sign: int) -> None:
        if event.customer is None or event.timestamp is None:
            return
        hour = event.timestamp - event.timestamp % HOUR_SECONDS
        value = event.value or "0"
        name, customer = event.event_name, event.customer
        _tally(self._meters, name).take(value, sign)
        _tally(self._customers, (customer, name)).take(value, sign)
        _tally(self._cells, (customer, name, hour)).take(value, sign)

    def as_dict(
        self, *, customer: str | None = None, event_name: str | None = None
    ) -> dict[str, Any]:
        """Return the totals, of one customer or event name when asked; sums are decimal strings."""

        def wanted(name: str, owner: str | None) -> bool:
            return (event_name in {None, name}) and (owner is None or customer in {None, owner})

        return {
            "event_names": {
                name: tally.as_dict() for name, tally in self._meters.items() if wanted(name, None)
            },
            "customers": [
                {"customer": owner, "event_name": name, **tally.as_dict()}
                for (owner, name), tally in self._customers.items()
                if wanted(name, owner)
            ],
            "cells": [
                {"customer": owner, "event_name": name, "hour": hour, **tally.as_dict()}
                for (owner, name, hour), tally in self._cells.items()
                if wanted(name, owner)
            ],
        }


def _tally(tallies: dict[K, Tally], key: K) -> Tally:
    found = tallies.get(key)
    if found is None:
        found = tallies[key] = Tally()
    return found
