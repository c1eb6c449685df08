"""Billing periods: which one a moment lies in, for an anchor and an interval. UTC throughout."""

import calendar
from datetime import datetime, timedelta

from stripe_emulator.core.moments import utc

_DAYS = {"day": 1, "week": 7}
_MONTHS = {"month": 1, "year": 12}
_MONTHS_A_YEAR = 12


def shifted(anchor: int, interval: str, count: int) -> int:
    """Return `anchor` moved by `count` intervals.

    The anchor's day is kept and clamped to short months, so 31 January is followed by the last of
    February and then by 31 March. Source: docs.stripe.com/billing/subscriptions/billing-cycle.
    """
    start = utc(anchor)
    if interval in _DAYS:
        return int((start + timedelta(days=_DAYS[interval] * count)).timestamp())
    months = start.year * _MONTHS_A_YEAR + start.month - 1 + _MONTHS[interval] * count
    year, month = divmod(months, _MONTHS_A_YEAR)
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return int(_replaced(start, year, month + 1, day).timestamp())


def period_at(anchor: int, interval: str, interval_count: int, at: int) -> tuple[int, int]:
    """Return the [start, end) around `at`.

    Boundaries lie at the anchor and every interval from it, both ways.
    """
    length = {"day": 86_400, "week": 604_800, "month": 2_629_800, "year": 31_557_600}[interval]
    number = (at - anchor) // (length * interval_count)
    while shifted(anchor, interval, number * interval_count) > at:
        number -= 1
    while shifted(anchor, interval, (number + 1) * interval_count) <= at:
        number += 1
    return (
        shifted(anchor, interval, number * interval_count),
        shifted(anchor, interval, (number + 1) * interval_count),
    )


def _replaced(moment: datetime, year: int, month: int, day: int) -> datetime:
    return moment.replace(year=year, month=month, day=day)
