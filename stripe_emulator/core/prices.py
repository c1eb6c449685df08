"""Prices: per unit, decimal, package and tiered. Amount, interval and meter never change."""

from typing import Any

from stripe_emulator.core import events, products
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, in_span
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.metadata import merged
from stripe_emulator.core.params import (
    CREATED,
    EXPAND,
    METADATA,
    Amount,
    Array,
    Boolean,
    Choice,
    Hash,
    Integer,
    IntegerOr,
    Kind,
    String,
    anything,
    listing,
)
from stripe_emulator.core.price_amounts import amounts_of

_TIER = Hash(
    {
        "flat_amount": Integer(0),
        "flat_amount_decimal": Amount(),
        "unit_amount": Integer(0),
        "unit_amount_decimal": Amount(),
        "up_to": IntegerOr("inf"),
    },
    "up_to",
)
_MUTABLE: dict[str, Kind] = {
    "active": Boolean(),
    "currency_options": anything(),
    "expand": EXPAND,
    "lookup_key": String(200, unsettable=True),
    "metadata": METADATA,
    "nickname": String(unsettable=True),
    "tax_behavior": Choice("exclusive", "inclusive", "unspecified"),
    "transfer_lookup_key": Boolean(),
}
CREATE = Hash(
    {
        **_MUTABLE,
        "billing_scheme": Choice("per_unit", "tiered"),
        "currency": String(3),
        "custom_unit_amount": anything(),
        "product": String(),
        "product_data": Hash(
            {
                "active": Boolean(),
                "id": String(),
                "metadata": METADATA,
                "name": String(),
                "statement_descriptor": String(22),
                "tax_code": String(),
                "tax_details": anything(),
                "unit_label": String(),
            },
            "name",
        ),
        "recurring": Hash(
            {
                "interval": Choice("day", "week", "month", "year"),
                "interval_count": Integer(1),
                "meter": String(),
                "trial_period_days": Integer(0),
                "usage_type": Choice("licensed", "metered"),
            },
            "interval",
        ),
        "tiers": Array(_TIER, 100),
        "tiers_mode": Choice("graduated", "volume"),
        "transform_quantity": Hash(
            {"divide_by": Integer(1), "round": Choice("down", "up")}, "divide_by", "round"
        ),
        "unit_amount": Integer(0),
        "unit_amount_decimal": Amount(),
    },
    "currency",
)
UPDATE = Hash(_MUTABLE)
LIST = listing(
    active=Boolean(),
    created=CREATED,
    currency=String(3),
    expand=EXPAND,
    lookup_keys=Array(String(200), 10),
    product=String(),
    recurring=Hash(
        {
            "interval": Choice("day", "week", "month", "year"),
            "meter": String(),
            "usage_type": Choice("licensed", "metered"),
        }
    ),
    type=Choice("one_time", "recurring"),
)


def create(call: Call) -> Answer:
    world, given = call.world, call.given
    if ("product" in call.params) == ("product_data" in call.params):
        raise invalid(
            "You must specify either `product` or `product_data` when creating a price.",
            param="product",
        )
    if "product" in call.params:
        world.products.get(given("product"), livemode=call.livemode, param="product", status=400)
    recurring = _recurring(call)
    amounts = amounts_of(call.params)
    lookup_key = _claim_lookup_key(call, None)
    product_id = given("product") or products.make(call, given("product_data"))["id"]
    price: Object = {
        "id": world.ids.new("price"),
        "object": "price",
        "active": given("active", True),
        "billing_scheme": given("billing_scheme", "per_unit"),
        "created": world.second(),
        "currency": given("currency").lower(),
        "custom_unit_amount": None,
        "livemode": call.livemode,
        "lookup_key": lookup_key,
        "metadata": merged({}, given("metadata", {})),
        "nickname": given("nickname"),
        "product": product_id,
        "recurring": recurring,
        "tax_behavior": given("tax_behavior", "unspecified"),
        "tiers_mode": given("tiers_mode"),
        "transform_quantity": given("transform_quantity"),
        "type": "recurring" if recurring else "one_time",
        **amounts,
    }
    world.prices.add(price)
    events.emit(world, "price.created", price)
    return price


def update(call: Call) -> Answer:
    price = call.world.prices.get(call.path["id"], livemode=call.livemode)
    before = dict(price)
    if "lookup_key" in call.params:
        price["lookup_key"] = _claim_lookup_key(call, price)
    price["metadata"] = merged(price["metadata"], call.given("metadata", {}))
    for name in ("active", "nickname", "tax_behavior"):
        if name in call.params:
            price[name] = call.params[name]
    previous = events.changes(before, price)
    if previous:
        events.emit(call.world, "price.updated", price, previous=previous)
    return price


def retrieve(call: Call) -> Answer:
    return call.world.prices.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    given = call.given
    plain = {
        name: given(name)
        for name in ("active", "currency", "product", "type")
        if name in call.params
    }
    recurring: dict[str, Any] = given("recurring") or {}
    return call.world.prices.page(
        call.params,
        url=call.url,
        livemode=call.livemode,
        keep=lambda each: (
            all(each[name] == value for name, value in plain.items())
            and (given("lookup_keys") is None or each["lookup_key"] in given("lookup_keys"))
            and all(
                (each["recurring"] or {}).get(name) == value for name, value in recurring.items()
            )
            and in_span(given("created"), each["created"])
        ),
    )


def _recurring(call: Call) -> Object | None:
    asked = call.given("recurring")
    if asked is None:
        return None
    usage_type = asked.get("usage_type", "licensed")
    meter_id = asked.get("meter")
    if usage_type == "metered":
        if meter_id is None:
            # Since 2025-03-31.basil. Source: docs.stripe.com/changelog/basil.
            raise invalid("You must specify a meter for a metered price.", param="recurring[meter]")
        meter = call.world.meters.get(
            meter_id, livemode=call.livemode, param="recurring[meter]", status=400
        )
        if meter["status"] != "active":
            raise invalid(
                "The meter is inactive and cannot be attached to a price.", param="recurring[meter]"
            )
    elif meter_id is not None:
        raise invalid("Only metered prices can have a meter.", param="recurring[meter]")
    return {
        "interval": asked["interval"],
        "interval_count": asked.get("interval_count", 1),
        "meter": meter_id,
        "trial_period_days": asked.get("trial_period_days"),
        "usage_type": usage_type,
    }


def _claim_lookup_key(call: Call, price: Object | None) -> str | None:
    """Return the key for this price; another active holder must be willing to give it up."""
    key: str | None = call.given("lookup_key")
    if key is None:
        return None
    for other in call.world.prices:
        if other["lookup_key"] == key and other is not price and other["livemode"] == call.livemode:
            if not call.given("transfer_lookup_key", False):
                raise invalid(
                    f"A price (`{other['id']}`) already uses that lookup key.",
                    param="lookup_key",
                    code="resource_already_exists",
                )
            other["lookup_key"] = None
            events.emit(call.world, "price.updated", other, previous={"lookup_key": key})
    return key
