"""Meters: what an event name adds up to."""

from stripe_emulator.core import events
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.kinds import Choice, String
from stripe_emulator.core.params import EXPAND, Hash, listing

CREATE = Hash(
    {
        "customer_mapping": Hash(
            {"event_payload_key": String(100), "type": Choice("by_id")}, "event_payload_key", "type"
        ),
        "default_aggregation": Hash({"formula": Choice("sum", "count", "last")}, "formula"),
        "display_name": String(250),
        "event_name": String(100),
        "event_time_window": Choice("hour", "day"),
        "expand": EXPAND,
        "value_settings": Hash({"event_payload_key": String(100)}, "event_payload_key"),
    },
    "default_aggregation",
    "display_name",
    "event_name",
)
UPDATE = Hash({"display_name": String(250), "expand": EXPAND})
LIST = listing(status=Choice("active", "inactive"), expand=EXPAND)
SWITCH = Hash({"expand": EXPAND})


def create(call: Call) -> Answer:
    world, given = call.world, call.given
    holder = named(call, given("event_name"))
    if holder is not None:
        # A deactivated meter keeps its name (inferred: the page only says one meter per name).
        raise invalid(
            f"A meter with event name '{given('event_name')}' already exists: {holder['id']}.",
            param="event_name",
        )
    mapping = given("customer_mapping") or {
        "event_payload_key": "stripe_customer_id",
        "type": "by_id",
    }
    now = world.second()
    meter: Object = {
        "id": world.ids.meter(livemode=call.livemode),
        "object": "billing.meter",
        "created": now,
        "customer_mapping": mapping,
        "default_aggregation": given("default_aggregation"),
        "display_name": given("display_name"),
        "event_name": given("event_name"),
        "event_time_window": given("event_time_window"),
        "livemode": call.livemode,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": now,
        "value_settings": given("value_settings") or {"event_payload_key": "value"},
    }
    world.meters.add(meter)
    world.meter_names[meter["event_name"], call.livemode] = meter
    events.emit(world, "billing.meter.created", meter)
    return meter


def update(call: Call) -> Answer:
    meter = retrieve(call)
    before = dict(meter)
    if "display_name" in call.params:
        meter["display_name"] = call.params["display_name"]
    return _changed(call, meter, before, "billing.meter.updated")


def deactivate(call: Call) -> Answer:
    meter = retrieve(call)
    if meter["status"] == "inactive":
        raise invalid("This meter is already inactive.")
    before = dict(meter)
    meter["status"] = "inactive"
    meter["status_transitions"] = {"deactivated_at": call.world.second()}
    return _changed(call, meter, before, "billing.meter.deactivated")


def reactivate(call: Call) -> Answer:
    meter = retrieve(call)
    if meter["status"] == "active":
        raise invalid("This meter is already active.")
    before = dict(meter)
    meter["status"] = "active"
    meter["status_transitions"] = {"deactivated_at": None}
    return _changed(call, meter, before, "billing.meter.reactivated")


def retrieve(call: Call) -> Object:
    return call.world.meters.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    status = call.given("status")
    return call.world.meters.page(
        call.params,
        url=call.url,
        livemode=call.livemode,
        keep=lambda each: status in {None, each["status"]},
    )


def named(call: Call, event_name: str) -> Object | None:
    """Return the meter of this event name and mode, active or not."""
    return call.world.meter_names.get((event_name, call.livemode))


def _changed(call: Call, meter: Object, before: Object, type_: str) -> Object:
    previous = events.changes(before, meter)
    if previous:
        previous["updated"] = before["updated"]
        meter["updated"] = call.world.second()
        events.emit(call.world, type_, meter, previous=previous)
    return meter
