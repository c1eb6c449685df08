"""Billing periods, found by walking through the calendar one day after the other. UTC throughout."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

DAY = 86_400
LAST_YEAR = 2060
_MONTHS_IN = {"month": 1, "year": 12}
_DAYS_IN = {"day": 1, "week": 7}


def _days() -> list[tuple[int, int, bool]]:
    """Return each day from 1970-01-01 on: months since then, day of the month, whether it is the month's last."""
    found = []
    for year in range(1970, LAST_YEAR):
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        for month, length in enumerate((31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)):
            found += [
                ((year - 1970) * 12 + month, day, day == length) for day in range(1, length + 1)
            ]
    return found


DAYS = _days()


@cache
def boundaries(anchor: int, interval: str, count: int, after: int, until: int) -> tuple[int, ...]:
    """Return the moments in (after, until] at which a period of this anchor ends and the next begins."""
    return tuple(_walk(anchor, interval, count, after, until))


def next_boundary(anchor: int, interval: str, count: int, after: int) -> int:
    """Return the first such moment after `after`."""
    return next(_walk(anchor, interval, count, after, len(DAYS) * DAY))


def _walk(anchor: int, interval: str, count: int, after: int, until: int) -> Iterator[int]:
    anchor_day, second = divmod(anchor, DAY)
    month, day_of_month, _ = DAYS[anchor_day]
    for day in range(after // DAY, until // DAY + 1):
        moment = day * DAY + second
        if not after < moment <= until:
            continue
        if interval in _DAYS_IN:
            if (day - anchor_day) % (_DAYS_IN[interval] * count) == 0:
                yield moment
            continue
        here, this_day, is_last = DAYS[day]
        if (here - month) % (_MONTHS_IN[interval] * count) == 0 and (
            this_day == day_of_month or (is_last and this_day < day_of_month)
        ):
            yield moment
