"""Test clocks: a time line of its own for a few customers, moved by hand."""

from stripe_emulator.core import customers, events
from stripe_emulator.core.agenda import Agenda
from stripe_emulator.core.billing import subscription_agenda, subscription_status
from stripe_emulator.core.billing.periods import shifted
from stripe_emulator.core.billing.subscription_items import price_of
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.kinds import Integer, String
from stripe_emulator.core.params import EXPAND, Hash, listing
from stripe_emulator.core.settings import DAY_SECONDS
from stripe_emulator.core.world import World

LIVES_SECONDS = 30 * DAY_SECONDS
"""How long a clock exists (Stripe gives 7 days in one place and 30 in another)."""
INTERVALS = 2
"""So many of the shortest interval a clock may jump at once; two years without a subscription."""
AGENDA_KIND = "test_clock"
END_AGENDA_KIND = "test_clock_end"

CREATE = Hash(
    {"customer": String(), "expand": EXPAND, "frozen_time": Integer(0), "name": String(300)},
    "frozen_time",
)
ADVANCE = Hash({"expand": EXPAND, "frozen_time": Integer(0)}, "frozen_time")
LIST = listing(expand=EXPAND)


def create(call: Call) -> Answer:
    world = call.world
    if call.livemode:
        raise invalid("Test clocks exist in test mode only.")
    customer_id = call.given("customer")
    customer = None
    if customer_id is not None:
        customer = customers.find(call, customer_id, param="customer", status=400)
        if customer["test_clock"] is not None:
            raise invalid("The customer already has a test clock.", param="customer")
    now = world.second()
    clock = world.test_clocks.add(
        {
            "id": world.ids.new("clock"),
            "object": "test_helpers.test_clock",
            "created": now,
            "deletes_after": now + LIVES_SECONDS,
            "frozen_time": call.params["frozen_time"],
            "livemode": False,
            "name": call.given("name"),
            "status": "ready",
            "status_details": {},
        }
    )
    world.clock_agendas[clock["id"]] = Agenda()
    world.agenda.add(clock["deletes_after"], END_AGENDA_KIND, clock["id"])
    if customer is not None:
        _attach(world, customer, clock)
    events.emit(world, "test_helpers.test_clock.created", clock)
    return clock


def advance(call: Call) -> Answer:
    """Begin to move the clock on.

    It is ready again a moment later, with everything due done in order.
    """
    world = call.world
    clock = retrieve(call)
    target = call.params["frozen_time"]
    if clock["status"] != "ready":
        raise invalid("The test clock is still advancing.", param="frozen_time")
    if target <= clock["frozen_time"]:
        raise invalid("A test clock only moves forward.", param="frozen_time")
    limit = _furthest(world, clock)
    if target > limit:
        raise invalid(
            f"The clock can be advanced to {limit} at most: {INTERVALS} intervals of the shortest "
            "subscription, or two years without one.",
            param="frozen_time",
        )
    clock["status"] = "advancing"
    clock["status_details"] = {"advancing": {"target_frozen_time": target}}
    ready_at = world.clock.now() + world.settings.test_clock_advance_seconds
    world.agenda.add(ready_at, AGENDA_KIND, clock["id"])
    events.emit(world, "test_helpers.test_clock.advancing", clock)
    return clock


def retrieve(call: Call) -> Object:
    return call.world.test_clocks.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    return call.world.test_clocks.page(call.params, url=call.url, livemode=call.livemode)


def delete(call: Call) -> Answer:
    """Remove the clock and every customer on it."""
    clock = retrieve(call)
    remove(call.world, clock)
    return {"id": clock["id"], "object": "test_helpers.test_clock", "deleted": True}


def remove(world: World, clock: Object) -> None:
    """Delete a clock, on request or because its days are over."""
    for customer in world.customers:
        if customer.get("test_clock") == clock["id"]:
            customers.remove(world, customer)
    world.test_clocks.remove(clock["id"])
    world.clock_agendas.pop(clock["id"], None)
    events.emit(world, "test_helpers.test_clock.deleted", clock)


def arrived(world: World, clock: Object) -> None:
    """Mark the clock as ready at its target."""
    clock["frozen_time"] = clock["status_details"]["advancing"]["target_frozen_time"]
    clock["status"] = "ready"
    clock["status_details"] = {}
    events.emit(world, "test_helpers.test_clock.ready", clock)


def _attach(world: World, customer: Object, clock: Object) -> None:
    customer["test_clock"] = clock["id"]
    for subscription in world.subscriptions:
        if subscription["customer"] == customer["id"]:
            subscription["test_clock"] = clock["id"]
            subscription_agenda.plan(world, subscription)


def _furthest(world: World, clock: Object) -> int:
    start = clock["frozen_time"]
    limits = []
    for subscription in world.subscriptions:
        if (
            subscription["test_clock"] == clock["id"]
            and subscription["status"] in subscription_status.LIVE
        ):
            for item in subscription["items"]["data"]:
                recurring = price_of(world, item)["recurring"]
                count = INTERVALS * recurring["interval_count"]
                limits.append(shifted(start, recurring["interval"], count))
    return min(limits, default=shifted(start, "year", INTERVALS))
