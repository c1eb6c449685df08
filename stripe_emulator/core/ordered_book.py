"""Counted usage where the order of events matters: each one is kept."""

import bisect
from decimal import Decimal

from stripe_emulator.core import exact
from stripe_emulator.core.entries import Entry
from stripe_emulator.core.settings import DAY_SECONDS, HOUR_SECONDS


class OrderedBook:
    """The usage of one customer on a `last` meter or a pre-aggregated one."""

    def __init__(self, formula: str, window: str | None) -> None:
        self.formula = formula
        self.window_seconds = {None: 0, "hour": HOUR_SECONDS, "day": DAY_SECONDS}[window]
        self.windows: dict[int, list[Entry]] = {}
        self.standing: list[Entry] = []
        """The entries that count, by timestamp and then receipt."""

    def add(self, entry: Entry) -> None:
        if not self.window_seconds:
            bisect.insort(self.standing, entry)
            return
        received = self.windows.setdefault(entry.timestamp // self.window_seconds, [])
        before = _latest(received)
        bisect.insort(received, entry, key=lambda each: each.sequence)
        self._replace(before, _latest(received))

    def remove(self, entry: Entry) -> None:
        if not self.window_seconds:
            self.standing.remove(entry)
            return
        received = self.windows[entry.timestamp // self.window_seconds]
        before = _latest(received)
        received.remove(entry)
        self._replace(before, _latest(received))

    def _replace(self, before: Entry | None, after: Entry | None) -> None:
        if before is not None:
            self.standing.remove(before)
        if after is not None:
            bisect.insort(self.standing, after)

    def cut(self, at: int) -> None:
        """Do nothing: every event is kept with its second."""

    def lifetime(self) -> Decimal:
        """Return the formula's value over everything."""
        if not self.standing:
            return Decimal(0)
        return self.aggregate(self.standing[0].timestamp, self.standing[-1].timestamp + 1)

    def aggregate(self, start: int, end: int) -> Decimal:
        """Return the formula's value over [start, end)."""
        low = bisect.bisect_left(self.standing, start, key=lambda each: each.timestamp)
        high = bisect.bisect_left(self.standing, end, key=lambda each: each.timestamp)
        inside = self.standing[low:high]
        if self.formula == "count":
            return Decimal(len(inside))
        if self.formula == "last":
            return inside[-1].value if inside else Decimal(0)
        total = Decimal(0)
        for entry in inside:
            total = exact.add(total, entry.value)
        return total


def _latest(received: list[Entry]) -> Entry | None:
    return received[-1] if received else None
