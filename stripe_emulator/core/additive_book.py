"""Counted usage of a raw sum or count meter: two running figures per minute and hour."""

from decimal import Decimal

from stripe_emulator.core import exact
from stripe_emulator.core.entries import MINUTE_SECONDS, Entry
from stripe_emulator.core.settings import HOUR_SECONDS

DETAIL_SECONDS = 6 * MINUTE_SECONDS
"""Events may be five minutes ahead of us, and a period can begin in any second from now."""


class Bucket:
    """Two running figures."""

    __slots__ = ("count", "total", "touched")

    def __init__(self) -> None:
        self.count = 0
        self.touched = 0
        self.total = Decimal(0)

    def take(self, value: Decimal, sign: int) -> None:
        combine = exact.add if sign > 0 else exact.subtract
        self.count += sign
        self.touched += 1
        self.total = combine(self.total, value)


class AdditiveBook:
    """The usage of one customer on a raw sum or count meter."""

    def __init__(self, formula: str) -> None:
        self.formula = formula
        self.minutes: dict[int, Bucket] = {}
        self.hours: dict[int, Bucket] = {}
        self.ever = Bucket()
        self.seconds: dict[int, dict[int, Bucket]] = {}
        """Detail within a minute.

        Of the latest ones, and for good where a billing period begins.
        """
        self.cuts: set[int] = set()
        self.newest = 0

    def add(self, entry: Entry) -> None:
        self._apply(entry, 1)

    def remove(self, entry: Entry) -> None:
        self._apply(entry, -1)

    def _apply(self, entry: Entry, sign: int) -> None:
        for buckets, width in ((self.minutes, MINUTE_SECONDS), (self.hours, HOUR_SECONDS)):
            start = entry.timestamp - entry.timestamp % width
            bucket = buckets.get(start)
            if bucket is None:
                bucket = buckets[start] = Bucket()
            bucket.take(entry.value, sign)
        self._detail(entry, sign)
        self.ever.take(entry.value, sign)

    def lifetime(self) -> Decimal:
        """Return the formula's value over everything."""
        return Decimal(self.ever.count) if self.formula == "count" else self.ever.total

    def cut(self, at: int) -> None:
        """Keep the seconds of the minute around `at`, where a billing period begins or ends."""
        self.cuts.add(at - at % MINUTE_SECONDS)

    def _detail(self, entry: Entry, sign: int) -> None:
        minute = entry.timestamp - entry.timestamp % MINUTE_SECONDS
        self.newest = max(self.newest, minute)
        if minute not in self.cuts and minute < self.newest - DETAIL_SECONDS:
            return
        if minute not in self.seconds and self.minutes[minute].touched > 1:
            # Some of the minute is known without its seconds: half a detail would be a wrong one.
            return
        seconds = self.seconds.setdefault(minute, {})
        seconds.setdefault(entry.timestamp, Bucket()).take(entry.value, sign)
        if len(self.seconds) > 2 * DETAIL_SECONDS // MINUTE_SECONDS + len(self.cuts):
            oldest = self.newest - DETAIL_SECONDS
            for old in [m for m in self.seconds if m < oldest and m not in self.cuts]:
                del self.seconds[old]

    def aggregate(self, start: int, end: int) -> Decimal:
        """Return the formula's value over [start, end).

        Both lie on whole minutes, in minutes still kept in detail, or at the cut of a period. A
        minute without detail goes to the range it begins in.
        """
        count, total = 0, Decimal(0)
        for bucket in self._covering(start, end):
            count += bucket.count
            total = exact.add(total, bucket.total)
        return Decimal(count) if self.formula == "count" else total

    def _covering(self, start: int, end: int) -> list[Bucket]:
        first_minute = -(-start // MINUTE_SECONDS) * MINUTE_SECONDS
        last_minute = end // MINUTE_SECONDS * MINUTE_SECONDS
        if first_minute > last_minute:
            return self._within_minute(last_minute, start, end)
        return (
            self._within_minute(first_minute - MINUTE_SECONDS, start, first_minute)
            + self._whole_minutes(first_minute, last_minute)
            + self._within_minute(last_minute, last_minute, end)
        )

    def _within_minute(self, minute: int, start: int, end: int) -> list[Bucket]:
        if start == end:
            return []
        seconds = self.seconds.get(minute)
        if seconds is None:
            return [self.minutes[minute]] if start == minute and minute in self.minutes else []
        return [bucket for at, bucket in seconds.items() if start <= at < end]

    def _whole_minutes(self, start: int, end: int) -> list[Bucket]:
        first_hour = -(-start // HOUR_SECONDS) * HOUR_SECONDS
        last_hour = end // HOUR_SECONDS * HOUR_SECONDS
        if first_hour >= last_hour:
            return _buckets(self.minutes, start, end, MINUTE_SECONDS)
        return (
            _buckets(self.minutes, start, first_hour, MINUTE_SECONDS)
            + _buckets(self.hours, first_hour, last_hour, HOUR_SECONDS)
            + _buckets(self.minutes, last_hour, end, MINUTE_SECONDS)
        )


def _buckets(buckets: dict[int, Bucket], start: int, end: int, width: int) -> list[Bucket]:
    if (end - start) // width > len(buckets):
        return [bucket for at, bucket in buckets.items() if start <= at < end]
    return [buckets[at] for at in range(start, end, width) if at in buckets]
