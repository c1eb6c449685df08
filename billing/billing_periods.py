"""When billing periods end, as Stripe counts them from a subscription's anchor. Pure, UTC."""

from __future__ import annotations

from calendar import monthrange
from datetime import datetime, timedelta

DAYS = {"day": 1, "week": 7}
MONTHS = {"month": 1, "year": 12}


def next_end(anchor: datetime, interval: str, *, after: datetime) -> datetime:
    """Return the first end of a period later than `after`.

    Periods end at the anchor and every interval before and after it. A month without the anchor's
    day ends its period on its last one; the month after has that day again. Source: Stripe's guide
    to billing cycles.
    """
    if interval in DAYS:
        length = timedelta(days=DAYS[interval])
        return anchor + ((after - anchor) // length + 1) * length
    months = (after.year - anchor.year) * 12 + after.month - anchor.month
    number = months // MONTHS[interval]
    # The month `after` lies in may end its period before or after that instant.
    return next(
        end
        for count in (number, number + 1)
        if (end := _months_on(anchor, count * MONTHS[interval])) > after
    )


def _months_on(anchor: datetime, months: int) -> datetime:
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    day = min(anchor.day, monthrange(year, month + 1)[1])
    return anchor.replace(year=year, month=month + 1, day=day)
