"""`GET /v1/billing/meters/{id}/event_summaries`: counted usage by event time."""

from stripe_emulator.core import exact
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, paged
from stripe_emulator.core.entries import MINUTE_SECONDS
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.ids import derived
from stripe_emulator.core.kinds import Choice, Integer, String
from stripe_emulator.core.params import EXPAND, Hash, listing
from stripe_emulator.core.settings import DAY_SECONDS, HOUR_SECONDS

_WINDOWS = {"hour": HOUR_SECONDS, "day": DAY_SECONDS}
MAX_WINDOWS = 20_000
"""More than two years of hours; a longer question is a mistake."""

LIST = Hash(
    listing(
        customer=String(),
        end_time=Integer(0),
        expand=EXPAND,
        start_time=Integer(0),
        value_grouping_window=Choice("hour", "day"),
    ).fields,
    "customer",
    "end_time",
    "start_time",
)


def list_all(call: Call) -> Answer:
    """Return one summary for the whole range, or one for each window in it, newest first.

    The range is half open. Windows without usage are listed with zero (inferred).
    """
    world, given = call.world, call.given
    meter = world.meters.get(call.path["id"], livemode=call.livemode)
    customer = _customer(call)
    start, end, grouping = given("start_time"), given("end_time"), given("value_grouping_window")
    width = _WINDOWS.get(grouping, MINUTE_SECONDS)
    named = f"the start of a UTC {grouping}" if grouping else "a whole minute"
    for name, moment in (("start_time", start), ("end_time", end)):
        if moment % width:
            raise invalid(f"`{name}` must lie on {named}, got {moment}.", param=name)
    if start >= end:
        raise invalid("`end_time` must be after `start_time`.", param="end_time")
    if not grouping:
        width = end - start
    if (end - start) // width > MAX_WINDOWS:
        raise invalid("The range holds too many windows.", param="start_time")
    windows: list[Object] = [
        {
            "id": derived("mtrusg", meter["id"], customer, at, width),
            "object": "billing.meter_event_summary",
            "end_time": at + width,
            "livemode": call.livemode,
            "meter": meter["id"],
            "start_time": at,
        }
        for at in range(end - width, start - 1, -width)
    ]
    page = paged(windows, call.params, url=call.url, kind="billing meter event summary")
    for each in page.data:
        value = world.usage.aggregate(meter["id"], customer, each["start_time"], each["end_time"])
        each["aggregated_value"] = exact.json_number(value)
    return page


def _customer(call: Call) -> str:
    """Return the customer asked about.

    The usage of a deleted one can still be read (not established).
    """
    customer_id: str = call.params["customer"]
    call.world.customers.get(customer_id, livemode=call.livemode, param="customer", status=400)
    return customer_id
