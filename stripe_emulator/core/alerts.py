"""Usage alerts: one message per alert and customer, ever.

The comparison is with all usage the customer ever had on the meter, and happens when usage counts.
"""

from collections import Counter

from stripe_emulator.core import events
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.kinds import Choice, Integer, String
from stripe_emulator.core.params import EXPAND, Array, Hash, listing
from stripe_emulator.core.world import World

MAX_PER_PAIR = 25
"""Alerts that can concern one meter and customer.

Source: docs.stripe.com, usage-based billing, alerts.
"""

CREATE = Hash(
    {
        "alert_type": Choice("usage_threshold"),
        "expand": EXPAND,
        "title": String(256),
        "usage_threshold": Hash(
            {
                "filters": Array(
                    Hash({"customer": String(), "type": Choice("customer")}, "type"), 1
                ),
                "gte": Integer(1),
                "meter": String(),
                "recurrence": Choice("one_time"),
            },
            "gte",
            "meter",
            "recurrence",
        ),
    },
    "alert_type",
    "title",
    "usage_threshold",
)
LIST = listing(alert_type=Choice("usage_threshold"), expand=EXPAND, meter=String())
SWITCH = Hash({"expand": EXPAND})


def create(call: Call) -> Answer:
    world = call.world
    asked = call.params["usage_threshold"]
    world.meters.get(
        asked["meter"], livemode=call.livemode, param="usage_threshold[meter]", status=400
    )
    filters = [{"customer": None, **each} for each in asked.get("filters") or []]
    for each in filters:
        if each["customer"] is not None:
            world.customers.get(
                each["customer"],
                livemode=call.livemode,
                param="usage_threshold[filters][0][customer]",
                status=400,
            )
    alert: Object = {
        "id": world.ids.new("alrt"),
        "object": "billing.alert",
        "alert_type": "usage_threshold",
        "livemode": call.livemode,
        "status": "active",
        "title": call.params["title"],
        "usage_threshold": {
            "filters": filters,
            "gte": asked["gte"],
            "meter": asked["meter"],
            "recurrence": asked["recurrence"],
        },
    }
    if _concerning(world, asked["meter"], _customer(alert)) >= MAX_PER_PAIR:
        raise invalid(
            f"At most {MAX_PER_PAIR} alerts can concern one meter and customer.",
            param="usage_threshold[meter]",
        )
    world.alerts_of.setdefault(asked["meter"], []).append(world.alerts.add(alert))
    return alert


def _concerning(world: World, meter: str, customer: str | None) -> int:
    """Count the alerts of a pair: those for the customer and those for everybody.

    For a new one for everybody that is the customer with the most.
    """
    of_meter = [
        _customer(each)
        for each in world.alerts
        if each["status"] != "archived" and each["usage_threshold"]["meter"] == meter
    ]
    own = Counter(each for each in of_meter if each is not None)
    most = max(own.values(), default=0) if customer is None else own[customer]
    return of_meter.count(None) + most


def retrieve(call: Call) -> Object:
    return call.world.alerts.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    meter = call.given("meter")
    return call.world.alerts.page(
        call.params,
        url=call.url,
        livemode=call.livemode,
        keep=lambda each: (
            each["status"] != "archived" and meter in {None, each["usage_threshold"]["meter"]}
        ),
    )


def activate(call: Call) -> Answer:
    return _switched(call, "active")


def deactivate(call: Call) -> Answer:
    return _switched(call, "inactive")


def archive(call: Call) -> Answer:
    return _switched(call, "archived")


def check(world: World, meter_id: str, customer_id: str) -> None:
    """Trigger what this customer's usage of this meter has reached."""
    concerned = world.alerts_of.get(meter_id)
    if not concerned:
        return
    customer = world.customers.find(customer_id)
    if customer is None or customer.get("deleted") or customer["test_clock"] is not None:
        # Alerts do not work with test clocks. Source: docs.stripe.com, usage-based alerts.
        return
    value = int(world.usage.lifetime(meter_id, customer_id))
    for alert in concerned:
        fired = (alert["id"], customer_id)
        if (
            alert["status"] == "active"
            and fired not in world.alerts_fired
            and _customer(alert) in {None, customer_id}
            and value >= alert["usage_threshold"]["gte"]
        ):
            world.alerts_fired.add(fired)
            _trigger(world, alert, customer_id, value)


def _trigger(world: World, alert: Object, customer_id: str, value: int) -> None:
    triggered: Object = {
        "object": "billing.alert_triggered",
        "alert": alert,
        "created": world.second(),
        "customer": customer_id,
        "livemode": alert["livemode"],
        "value": value,
    }
    events.emit(world, "billing.alert.triggered", triggered)


def _switched(call: Call, status: str) -> Object:
    alert = retrieve(call)
    if alert["status"] == "archived":
        raise invalid("An archived alert cannot be changed.")
    alert["status"] = status
    return alert


def _customer(alert: Object) -> str | None:
    filters = alert["usage_threshold"]["filters"]
    return filters[0]["customer"] if filters else None
