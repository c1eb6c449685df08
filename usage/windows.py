"""Windows of time as people ask for them: hours, days, weeks and months of a time zone. Pure.

All instants are UTC. A window is half-open and ends where the next one starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
QUARTER = timedelta(minutes=15)
"""Since long before our first event, all zones' offsets are quarters and change at quarters."""
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Window(StrEnum):
    """How long a window is."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    ALL = "all"


@lru_cache(maxsize=64)
def starts(
    window: Window, *, since: datetime, until: datetime, zone: ZoneInfo
) -> tuple[datetime, ...]:
    """Return where the windows that meet [since, until) start, the first one cut at `since`.

    Days, weeks (from Monday) and months begin at the zone's midnight, or where its clocks leap
    over that; so a day may have 23 or 25 hours. An hour begins where the zone's clocks show a full
    one, and where they are changed, so that none is longer than an hour.
    """
    found = [since]
    if window is not Window.ALL:
        for start in _after(window, since, zone):
            if start >= until:
                break
            found.append(start)
    return tuple(found)


def quarters_within(since: datetime, until: datetime) -> tuple[datetime, datetime]:
    """Return where the whole quarter hours of [since, until) start and end; equal for none."""
    first = since + (_EPOCH - since) % QUARTER
    last = until - (until - _EPOCH) % QUARTER
    return (first, last) if first < last else (until, until)


def hours_of(since: datetime, until: datetime) -> list[datetime]:
    """Return the starts of the UTC hours that meet [since, until)."""
    hour = since - (since - _EPOCH) % HOUR
    found = []
    while hour < until:
        found.append(hour)
        hour += HOUR
    return found


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _after(window: Window, since: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Yield the starts after `since`, without end."""
    if window is Window.MINUTE:
        return _minutes(since)
    if window is Window.HOUR:
        return _hours(since, zone)
    return _dates(window, since, zone)


def _minutes(since: datetime) -> Iterator[datetime]:
    start = since - (since - _EPOCH) % MINUTE
    while True:
        start += MINUTE
        yield start


def _hours(since: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    at = since
    while True:
        local = at.astimezone(zone)
        rest = HOUR - timedelta(
            minutes=local.minute, seconds=local.second, microseconds=local.microsecond
        )
        # In one step as far as the clocks are surely not changed.
        if local.utcoffset() == (at + DAY).astimezone(zone).utcoffset():
            for hours in range(24):
                yield at + rest + hours * HOUR
            at += rest + 23 * HOUR
            continue
        changed = at + QUARTER - (at - _EPOCH) % QUARTER
        while changed < at + rest and changed.astimezone(zone).utcoffset() == local.utcoffset():
            changed += QUARTER
        at = min(changed, at + rest)
        yield at


def _dates(window: Window, since: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    day = _first_date(window, since.astimezone(zone).date())
    while True:
        day = _next_date(window, day)
        # Midnight, of two the first; one that the clocks leap over is the moment of the leap.
        yield datetime.combine(day, time(), zone).astimezone(UTC)


def _first_date(window: Window, day: date) -> date:
    if window is Window.WEEK:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if window is Window.MONTH else day


def _next_date(window: Window, day: date) -> date:
    if window is Window.MONTH:
        return (day + timedelta(days=31)).replace(day=1)
    return day + timedelta(days=7 if window is Window.WEEK else 1)
