"""Where a new subscription's billing cycle is anchored."""

import calendar
from datetime import datetime, timedelta

from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.moments import utc


def anchor_for(call: Call, *, now: int, start: int, trial_end: int | None) -> int:
    """Return the moment periods are counted from: as asked, the trial's end, or the start."""
    asked, config = call.given("billing_cycle_anchor"), call.given("billing_cycle_anchor_config")
    if asked is not None and config is not None:
        raise invalid(
            "`billing_cycle_anchor` and `billing_cycle_anchor_config` exclude each other.",
            param="billing_cycle_anchor",
        )
    if start > now:
        raise invalid("`backdate_start_date` must be in the past.", param="backdate_start_date")
    if asked is not None:
        if asked < now:
            raise invalid(
                "`billing_cycle_anchor` must be in the future.", param="billing_cycle_anchor"
            )
        return int(asked)
    if config is not None:
        return _from_config(config, now)
    return trial_end or start


def _from_config(config: Object, now: int) -> int:
    """Return the first moment from `now` on that fits.

    Parts not given are those of now (inferred).
    """
    current = utc(now)
    year, month = current.year, config.get("month", current.month)
    while True:
        moment = _clamped(year, month, config, current)
        if moment >= current:
            return int(moment.timestamp())
        if "month" in config:
            year += 1
        else:
            following = _clamped(year, month, {"day_of_month": 1}, current) + timedelta(days=32)
            year, month = following.year, following.month


def _clamped(year: int, month: int, config: Object, current: datetime) -> datetime:
    day = min(config["day_of_month"], calendar.monthrange(year, month)[1])
    return current.replace(  # day and month together: neither alone need exist
        year=year,
        month=month,
        day=day,
        hour=config.get("hour", current.hour),
        minute=config.get("minute", current.minute),
        second=config.get("second", current.second),
        microsecond=0,
    )
