"""The items of an update: added, swapped, counted anew, removed. Nothing here is kept or billed."""

from stripe_emulator.core.billing.subscription_items import (
    check_together,
    interval_of,
    is_metered,
    new_item,
    place,
    price_of,
    priced,
)
from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.metadata import merged


def apply(call: Call, subscription: Object, asked_items: list[Object], *, at: int) -> None:
    """Change the items of `subscription`, which is a copy, as of `at`; or refuse."""
    items = subscription["items"]["data"]
    for index, asked in enumerate(asked_items):
        known = {item["id"]: item for item in items}
        if "id" not in asked:
            price = priced(call, asked, index)
            item = new_item(call, asked, price, subscription["id"])
            items.append(item)
            _begin(call, subscription, item, at)
            continue
        named = known.get(asked["id"])
        if named is None:
            raise invalid(
                f"No such subscription_item: '{asked['id']}'",
                param=f"items[{index}][id]",
                code="resource_missing",
            )
        if asked.get("deleted"):
            items.remove(named)
        else:
            _change(call, subscription, named, asked, index, at)
    if not items:
        raise invalid("A subscription must have at least one active item.", param="items")
    check_together(
        [price_of(call.world, item) for item in items], subscription["billing_mode"]["type"]
    )


def _change(  # noqa: PLR0913, PLR0917  an item and what is asked of it
    call: Call, subscription: Object, item: Object, asked: Object, index: int, at: int
) -> None:
    if "price" in asked and asked["price"] != item["price"]:
        _reprice(call, subscription, item, asked, index, at)
    elif "quantity" in asked and is_metered(price_of(call.world, item)):
        raise invalid(
            "Quantity should not be specified where usage_type is metered.",
            param=f"items[{index}][quantity]",
        )
    if "quantity" in asked:
        item["quantity"] = asked["quantity"]
    if "metadata" in asked:
        item["metadata"] = merged(item["metadata"], asked["metadata"])
    if "billing_thresholds" in asked:
        item["billing_thresholds"] = asked["billing_thresholds"]


def _reprice(  # noqa: PLR0913, PLR0917  an item and what is asked of it
    call: Call, subscription: Object, item: Object, asked: Object, index: int, at: int
) -> None:
    """Put another price on an item.

    Its period stays when the interval does. Then usage until now is billed at the price it had:
    in flexible mode on a line of its own, in classic mode never
    (docs.stripe.com/billing/subscriptions/billing-mode/compare).
    """
    former = price_of(call.world, item)
    price = priced(call, asked, index)
    item["price"] = price["id"]
    if is_metered(price):
        item.pop("quantity", None)
    else:
        item["quantity"] = asked.get("quantity", item.get("quantity", 1))
    if interval_of(former) != interval_of(price):
        _begin(call, subscription, item, at)
        return
    if is_metered(former) and item["_since"] < at:
        if subscription["billing_mode"]["type"] == "flexible":
            item["_earlier"].append({"price": former["id"], "start": item["_since"], "end": at})
        item["_since"] = at
    elif not is_metered(former):
        item["_since"] = max(at, item["_since"])


def _begin(call: Call, subscription: Object, item: Object, at: int) -> None:
    """Let an item's period begin now; in a trial it waits for the trial's end like the others."""
    if subscription["status"] == "trialing":
        item["current_period_start"], item["current_period_end"] = at, subscription["trial_end"]
        item["_since"], item["_earlier"] = subscription["trial_end"], []
        return
    place(call.world, item, anchor=subscription["billing_cycle_anchor"], start=at, at=at)
    if subscription["status"] == "paused":
        item["_since"] = item["current_period_end"]
