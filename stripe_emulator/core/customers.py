"""Customers. Deleting one cancels its subscriptions."""

from typing import Any

from stripe_emulator.core import events
from stripe_emulator.core.billing import subscription_status
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, in_span
from stripe_emulator.core.errors import ApiError, invalid
from stripe_emulator.core.kinds import Choice, Integer, Kind, String
from stripe_emulator.core.metadata import merged
from stripe_emulator.core.params import CREATED, EXPAND, METADATA, Hash, anything, listing
from stripe_emulator.core.world import World

CLOCK_CUSTOMERS = 3
"""Customers a test clock takes (field)."""

_FIELDS: dict[str, Kind] = {
    "address": anything(),
    "balance": Integer(),
    "business_name": String(150, unsettable=True),
    "cash_balance": anything(),
    "description": String(unsettable=True),
    "email": String(512, unsettable=True),
    "expand": EXPAND,
    "individual_name": String(150, unsettable=True),
    "invoice_prefix": String(12),
    "invoice_settings": Hash(
        {
            "custom_fields": anything(),
            "default_payment_method": String(unsettable=True),
            "footer": String(unsettable=True),
            "rendering_options": anything(),
        }
    ),
    "metadata": METADATA,
    "name": String(256, unsettable=True),
    "next_invoice_sequence": Integer(1),
    "phone": String(20, unsettable=True),
    "preferred_locales": anything(),
    "shipping": anything(),
    "source": String(),
    "tax": anything(),
    "tax_exempt": Choice("exempt", "none", "reverse", unsettable=True),
    "validate": anything(),
}
CREATE = Hash(
    {**_FIELDS, "payment_method": String(), "tax_id_data": anything(), "test_clock": String()}
)
UPDATE = Hash({**_FIELDS, "default_source": String()})
LIST = listing(created=CREATED, email=String(512), test_clock=String(), expand=EXPAND)
_PLAIN = (
    "description",
    "email",
    "name",
    "phone",
    "address",
    "shipping",
    "balance",
    "next_invoice_sequence",
)


def create(call: Call) -> Answer:
    world, given = call.world, call.given
    clock_id = given("test_clock")
    if clock_id is not None:
        world.test_clocks.get(clock_id, livemode=call.livemode, param="test_clock", status=400)
        attached = sum(1 for each in world.customers if each.get("test_clock") == clock_id)
        if attached >= CLOCK_CUSTOMERS:
            raise invalid(
                f"A test clock can have at most {CLOCK_CUSTOMERS} customers.", param="test_clock"
            )
    customer: Object = {
        "id": world.ids.new("cus", 14),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": world.second(),
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_prefix": given("invoice_prefix") or world.ids.characters(8).upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": call.livemode,
        "metadata": merged({}, given("metadata", {})),
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": given("tax_exempt") or "none",
        "test_clock": clock_id,
    }
    _set(customer, call.params)
    world.customers.add(customer)
    events.emit(world, "customer.created", customer)
    return customer


def update(call: Call) -> Answer:
    customer = find(call, call.path["id"])
    before = dict(customer)
    customer["metadata"] = merged(customer["metadata"], call.given("metadata", {}))
    _set(customer, call.params)
    previous = events.changes(before, customer)
    if previous:
        events.emit(call.world, "customer.updated", customer, previous=previous)
    return customer


def retrieve(call: Call) -> Answer:
    return call.world.customers.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    email, clock = call.given("email"), call.given("test_clock")
    return call.world.customers.page(
        call.params,
        url=call.url,
        livemode=call.livemode,
        keep=lambda each: (
            not each.get("deleted")
            and (email is None or each["email"] == email)
            and (clock is None or each["test_clock"] == clock)
            and in_span(call.given("created"), each["created"])
        ),
    )


def delete(call: Call) -> Answer:
    """Cancel its subscriptions at once and leave a stone: its id still answers, as deleted."""
    customer = find(call, call.path["id"])
    remove(call.world, customer)
    return {"id": customer["id"], "object": "customer", "deleted": True}


def remove(world: World, customer: Object) -> None:
    """Delete a customer; also what deleting its test clock does."""
    for subscription in list(world.subscriptions):
        if (
            subscription["customer"] == customer["id"]
            and subscription["status"] in subscription_status.LIVE
        ):
            subscription_status.end(world, subscription)
    events.emit(world, "customer.deleted", customer)
    world.customers.add(
        {
            "id": customer["id"],
            "object": "customer",
            "deleted": True,
            "_livemode": customer["livemode"],
        }
    )


def delete_discount(call: Call) -> Answer:
    """Refuse: nothing here makes discounts, so no customer has one (the words are inferred)."""
    customer = find(call, call.path["id"])
    raise ApiError(
        404, f"Customer '{customer['id']}' has no active discount.", code="resource_missing"
    )


def find(call: Call, customer_id: str, *, param: str = "id", status: int = 404) -> Object:
    """Return a customer that was not deleted."""
    customer = call.world.customers.get(
        customer_id, livemode=call.livemode, param=param, status=status
    )
    if customer.get("deleted"):
        error = invalid(f"No such customer: '{customer_id}'", param=param, code="resource_missing")
        error.status = status
        raise error
    return customer


def named(call: Call) -> Object:
    """Return the customer that a call names as its `customer`, which it must."""
    if "customer" not in call.params:
        raise invalid(
            "Missing required param: customer.", param="customer", code="parameter_missing"
        )
    return find(call, call.params["customer"], param="customer", status=400)


def _set(customer: Object, params: dict[str, Any]) -> None:
    for name in _PLAIN:
        if name in params:
            customer[name] = params[name]
    if params.get("tax_exempt"):
        customer["tax_exempt"] = params["tax_exempt"]
    if "invoice_settings" in params:
        customer["invoice_settings"] = customer["invoice_settings"] | params["invoice_settings"]
