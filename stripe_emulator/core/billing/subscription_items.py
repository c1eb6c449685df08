"""The items of a subscription: one price each, with a billing period of its own."""

from stripe_emulator.core.billing.periods import period_at
from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.metadata import merged
from stripe_emulator.core.settling import book_of
from stripe_emulator.core.world import World


def priced(call: Call, asked: Object, index: int, *, among: str = "items") -> Object:
    """Return the price an item asks for, fit for a subscription.

    `among` is the parameter that holds the items.
    """
    param = f"{among}[{index}][price]"
    price_id = asked.get("price") or asked.get("plan")
    if price_id is None:
        raise invalid(
            "Each item needs a `price`. The emulator does not make prices from `price_data`.",
            param=param,
        )
    price = call.world.prices.get(price_id, livemode=call.livemode, param=param, status=400)
    if price["recurring"] is None:
        raise invalid(
            "The price specified is set to `type=one_time` but a subscription needs `recurring`.",
            param=param,
        )
    if not price["active"]:
        raise invalid(
            "The price specified is inactive. This field only accepts active prices.", param=param
        )
    if is_metered(price) and "quantity" in asked:
        raise invalid(
            "Quantity should not be specified where usage_type is metered.",
            param=f"{among}[{index}][quantity]",
        )
    return price


def new_item(call: Call, asked: Object, price: Object, subscription_id: str) -> Object:
    """Return an item without its period; `set_period` gives it one."""
    item: Object = {
        "id": call.world.ids.new("si", 14),
        "object": "subscription_item",
        "billing_thresholds": asked.get("billing_thresholds"),
        "created": call.world.second(),
        "current_period_end": 0,
        "current_period_start": 0,
        "discounts": [],
        "metadata": merged({}, asked.get("metadata", {})),
        "price": price["id"],
        "subscription": subscription_id,
        "tax_rates": [],
        "_since": 0,
        "_earlier": [],
    }
    if not is_metered(price):
        item["quantity"] = asked.get("quantity", 1)
    return item


def place(world: World, item: Object, *, anchor: int, start: int, at: int) -> None:
    """Set an item's period and nothing else: no usage is cut for it.

    Two hidden fields say what of it nobody billed yet: since when at the present price, and the
    spans at earlier ones.
    """
    recurring = price_of(world, item)["recurring"]
    begin, end = period_at(anchor, recurring["interval"], recurring["interval_count"], at)
    item["current_period_start"] = item["_since"] = max(begin, start)
    item["current_period_end"] = end
    item["_earlier"] = []


def keep_apart(world: World, subscription: Object) -> None:
    """Keep usage apart to the second at every moment that begins or ends something to bill."""
    for item in subscription["items"]["data"]:
        price = price_of(world, item)
        if is_metered(price):
            book = book_of(world, price["recurring"]["meter"], subscription["customer"])
            for at in (item["_since"], item["current_period_end"], subscription["cancel_at"]):
                if at is not None:
                    book.cut(at)


def price_of(world: World, item: Object) -> Object:
    price = world.prices.find(item["price"])
    if price is None:
        raise LookupError(f"a subscription item names a price that was never made: {item['price']}")
    return price


def is_metered(price: Object) -> bool:
    recurring: Object | None = price["recurring"]
    return recurring is not None and recurring["usage_type"] == "metered"


def interval_of(price: Object) -> tuple[str, int]:
    recurring = price["recurring"]
    return recurring["interval"], recurring["interval_count"]


def check_together(prices: list[Object], mode: str) -> None:
    """Refuse prices that cannot stand on one subscription."""
    if len({price["id"] for price in prices}) < len(prices):
        raise invalid("Cannot add multiple subscription items with the same price.", param="items")
    if len({price["currency"] for price in prices}) > 1:
        raise invalid("All prices of a subscription must use the same currency.", param="items")
    intervals = {interval_of(price) for price in prices}
    if mode == "classic" and len(intervals) > 1:
        raise invalid("Classic subscriptions need the same interval in all prices.", param="items")
