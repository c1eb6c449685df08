"""What an invoice item costs, however it was said: an amount, a price, or data for a new price."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from stripe_emulator.core import exact, prices, products
from stripe_emulator.core.billing.pricing import amount as amount_of
from stripe_emulator.core.billing.pricing import rounded
from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.price_amounts import amounts_of

_WAYS = ("amount", "price_data", "pricing", "unit_amount_decimal")


@dataclass(frozen=True, slots=True)
class Cost:
    """What was asked for, checked; `stored` turns it into fields and makes what must be made."""

    amount: int
    quantity: Decimal
    unit: Decimal
    price: Object | None = None
    price_data: Object | None = None
    price_amounts: Object | None = None


def asked(
    call: Call, params: dict[str, Any], *, currency: str, item: Object | None, prefix: str = ""
) -> Cost | None:
    """Return what the parameters make of an item's cost, or None if they leave it as it is.

    A new item needs one way of saying it, a changed one may also get another quantity only.
    """
    ways = [name for name in _WAYS if params.get(name) is not None]
    if len(ways) > 1:
        raise invalid(
            f"`{ways[0]}` and `{ways[1]}` exclude each other.", param=_named(prefix, ways[1])
        )
    quantity = _quantity(params, item, prefix)
    if not ways:
        if item is None:
            raise invalid(
                "An item needs `amount`, `pricing` or `price_data`.", param=_named(prefix, "amount")
            )
        if "quantity" not in params and "quantity_decimal" not in params:
            return None
        return _again(call, item, quantity)
    if ways[0] == "amount":
        if "quantity" in params or "quantity_decimal" in params:
            raise invalid(
                "`amount` and `quantity` exclude each other.", param=_named(prefix, "quantity")
            )
        whole = Decimal(params["amount"])
        return Cost(params["amount"], Decimal(1), whole)
    if ways[0] == "unit_amount_decimal":
        unit = params["unit_amount_decimal"]
        return Cost(rounded(unit * quantity), quantity, unit)
    if ways[0] == "pricing":
        return _priced(call, params["pricing"], quantity, currency, prefix)
    return _of_new_price(call, params["price_data"], quantity, currency, prefix)


def stored(call: Call, cost: Cost) -> Object:
    """Return an item's fields for its cost; a price that was described is made now."""
    price = cost.price or _made(call, cost)
    named = {"price": price["id"], "product": price["product"]} if price else None
    return {
        "amount": cost.amount,
        "net_amount": cost.amount,
        "pricing": {
            "price_details": named,
            "type": "price_details",
            "unit_amount_decimal": exact.plain(cost.unit),
        },
        "quantity": int(cost.quantity),
        "quantity_decimal": exact.plain(cost.quantity),
    }


def _quantity(params: dict[str, Any], item: Object | None, prefix: str) -> Decimal:
    if "quantity" in params and "quantity_decimal" in params:
        raise invalid(
            "`quantity` and `quantity_decimal` exclude each other.",
            param=_named(prefix, "quantity_decimal"),
        )
    if "quantity_decimal" in params:
        given: Decimal = params["quantity_decimal"]
        if given < 0:
            raise invalid("A quantity is not negative.", param=_named(prefix, "quantity_decimal"))
        return given
    if "quantity" in params:
        return Decimal(params["quantity"])
    return Decimal(item["quantity_decimal"]) if item else Decimal(1)


def _again(call: Call, item: Object, quantity: Decimal) -> Cost:
    """Return the cost of another quantity at the same unit amount or price."""
    unit = Decimal(item["pricing"]["unit_amount_decimal"])
    details = item["pricing"]["price_details"]
    price = call.world.prices.find(details["price"]) if details else None
    if price is None:
        return Cost(rounded(unit * quantity), quantity, unit)
    return Cost(amount_of(price, quantity), quantity, unit, price=price)


def _priced(call: Call, pricing: Object, quantity: Decimal, currency: str, prefix: str) -> Cost:
    param = _named(prefix, "pricing") + "[price]"
    price = call.world.prices.get(
        pricing.get("price", ""), livemode=call.livemode, param=param, status=400
    )
    if price["recurring"] is not None:
        raise invalid(
            "The price specified is set to `type=recurring` but this field only accepts prices "
            "with `type=one_time`.",
            param=param,
        )
    if price["currency"] != currency:
        raise invalid(f"The price is in {price['currency']}, not in {currency}.", param=param)
    if not price["active"]:
        raise invalid(
            "The price specified is inactive. This field only accepts active prices.", param=param
        )
    unit = Decimal(price["unit_amount_decimal"] or 0)
    return Cost(amount_of(price, quantity), quantity, unit, price=price)


def _of_new_price(call: Call, data: Object, quantity: Decimal, currency: str, prefix: str) -> Cost:
    param = _named(prefix, "price_data")
    if ("product" in data) == ("product_data" in data):
        raise invalid(
            "A price needs `product` or `product_data`, and not both.", param=f"{param}[product]"
        )
    if "product" in data:
        call.world.products.get(
            data["product"], livemode=call.livemode, param=f"{param}[product]", status=400
        )
    if data["currency"].lower() != currency:
        raise invalid(f"The price must be in {currency}.", param=f"{param}[currency]")
    amounts = amounts_of(data)
    unit = Decimal(amounts["unit_amount_decimal"])
    return Cost(rounded(unit * quantity), quantity, unit, price_data=data, price_amounts=amounts)


def _made(call: Call, cost: Cost) -> Object | None:
    """Make the price that was described; like Stripe's own it is inactive."""
    if cost.price_data is None or cost.price_amounts is None:
        return None
    data = cost.price_data
    product = data.get("product") or products.make(call, data["product_data"])["id"]
    price = prices.stored(call, data, product, None, cost.price_amounts)
    price["active"] = False
    return price


def _named(prefix: str, name: str) -> str:
    return f"{prefix}[{name}]" if prefix else name
