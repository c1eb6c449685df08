"""Prices: per unit, decimal, package and tiered. Amount, interval and meter never change."""

from typing import Any

from stripe_emulator.core import events, products
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, in_span
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.metadata import merged
from stripe_emulator.core.price_amounts import amounts_of


def create(call: Call) -> Answer:
    world, given = call.world, call.given
    if ("product" in call.params) == ("product_data" in call.params):
        raise invalid(
            "A price needs `product` or `product_data`, and not both.",
            param="product",
        )
    if "product" in call.params:
        world.products.get(given("product"), livemode=call.livemode, param="product", status=400)
    recurring = _recurring(call)
    amounts = amounts_of(call.params)
    holder = _holder_of_key(call, None)
    # Everything that can be refused was, so a refused call leaves nothing behind.
    product_id = given("product") or products.make(call, given("product_data"))["id"]
    _release_key(call, holder)
    return stored(call, call.params, product_id, recurring, amounts)


def create_product(call: Call) -> Answer:
    """Make a product, with its default price when one is described."""
    asked = call.given("default_price_data")
    if asked is None:
        return products.make(call, call.params)
    amounts = amounts_of(asked)
    recurring = asked.get("recurring")
    if recurring is not None:
        recurring = {
            "interval_count": 1,
            "meter": None,
            "trial_period_days": None,
            "usage_type": "licensed",
            **recurring,
        }
    product = products.make(call, call.params)
    product["default_price"] = stored(call, asked, product["id"], recurring, amounts)["id"]
    events.emit(call.world, "product.updated", product, previous={"default_price": None})
    return product


def stored(
    call: Call, params: Object, product_id: str, recurring: Object | None, amounts: Object
) -> Object:
    price: Object = {
        "id": call.world.ids.new("price"),
        "object": "price",
        "active": params.get("active", True),
        "billing_scheme": params.get("billing_scheme", "per_unit"),
        "created": call.world.second(),
        "currency": params["currency"].lower(),
        "custom_unit_amount": None,
        "livemode": call.livemode,
        "lookup_key": params.get("lookup_key"),
        "metadata": merged({}, params.get("metadata", {})),
        "nickname": params.get("nickname"),
        "product": product_id,
        "recurring": recurring,
        "tax_behavior": params.get("tax_behavior", "unspecified"),
        "tiers_mode": params.get("tiers_mode"),
        "transform_quantity": params.get("transform_quantity"),
        "type": "recurring" if recurring else "one_time",
        **amounts,
    }
    call.world.prices.add(price)
    events.emit(call.world, "price.created", price)
    return price


def update(call: Call) -> Answer:
    price = call.world.prices.get(call.path["id"], livemode=call.livemode)
    before = dict(price)
    if "lookup_key" in call.params:
        _release_key(call, _holder_of_key(call, price))
        price["lookup_key"] = call.given("lookup_key")
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
            raise invalid("A metered price needs a meter.", param="recurring[meter]")
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


def _holder_of_key(call: Call, price: Object | None) -> Object | None:
    """Return another price with the lookup key asked for; it must be willing to give it up."""
    key = call.given("lookup_key")
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
            return other
    return None


def _release_key(call: Call, holder: Object | None) -> None:
    if holder is not None:
        former = {"lookup_key": holder["lookup_key"]}
        holder["lookup_key"] = None
        events.emit(call.world, "price.updated", holder, previous=former)
