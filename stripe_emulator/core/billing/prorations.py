"""What a change within a period is worth, as invoice items.

To the second, of the whole period that the anchor makes (Stripe's own arithmetic is not published;
inferred). Usage is never prorated: an item that goes leaves what it used.
"""

from decimal import Decimal

from stripe_emulator.core import exact
from stripe_emulator.core.billing import pending_items
from stripe_emulator.core.billing.periods import period_at
from stripe_emulator.core.billing.pricing import amount, rounded
from stripe_emulator.core.billing.subscription_items import interval_of, is_metered, price_of
from stripe_emulator.core.billing.usage_lines import charged, spans
from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World


def share(world: World, subscription: Object, item: Object, since: int) -> Decimal:
    """Return how much of a whole period lies between `since` and the item's period end."""
    recurring = price_of(world, item)["recurring"]
    end = item["current_period_end"]
    begin, _ = period_at(
        subscription["billing_cycle_anchor"],
        recurring["interval"],
        recurring["interval_count"],
        end - 1,
    )
    return min(Decimal(end - since) / Decimal(end - begin), Decimal(1))


def prorated(world: World, subscription: Object, item: Object, since: int) -> int:
    """Return minor units for a licensed item from `since` to its period's end."""
    whole = amount(price_of(world, item), Decimal(item["quantity"]))
    return rounded(whole * share(world, subscription, item, since))


def unused(world: World, subscription: Object, item: Object, at: int) -> list[Object]:
    """Return the credit for what is left of a licensed item's period; a metered one has none.

    Nor is there any in a trial, or while it is paused and was credited already.
    """
    return _licensed(world, subscription, item, at, sign=-1)


def remaining(world: World, subscription: Object, item: Object, at: int) -> list[Object]:
    """Return the charge for what is left of a licensed item's period."""
    return _licensed(world, subscription, item, at, sign=1)


def usage(world: World, subscription: Object, item: Object, until: int) -> list[Object]:
    """Return the charges for what an item has used and nobody billed, counted for the last time."""
    return [
        _fields(subscription, item, price_of(world, span))
        | {
            "amount": part.amount,
            "period": {"start": span["start"], "end": span["end"]},
            "proration": False,
            "quantity": int(part.quantity),
            "quantity_decimal": exact.plain(part.quantity),
        }
        for span in spans(world, item, until)
        for part in charged(world, subscription["customer"], span)
    ]


def of_changes(world: World, before: Object, after: Object, *, at: int, now: int) -> list[Object]:
    """Return what changed items are worth, item by item, credits first.

    Licensed items are prorated from `at`, usage counts until `now`. An item that goes on with its
    interval keeps its usage for the end of the period.
    """
    had = {item["id"]: item for item in before["items"]["data"]}
    has = {item["id"]: item for item in after["items"]["data"]}
    found = []
    for item_id in {**had, **has}:
        old, new = had.get(item_id), has.get(item_id)
        if old is not None and new is not None and _same(old, new):
            continue
        if old is not None:
            if not _goes_on(world, old, new):
                found += left_behind(world, before, old, now)
            found += unused(world, before, old, at)
        if new is not None:
            found += remaining(world, after, new, at)
    return found


def left_behind(world: World, subscription: Object, item: Object, now: int) -> list[Object]:
    """Return the usage of an item that goes; classic mode forgets it.

    Source: docs.stripe.com/billing/subscriptions/billing-mode/compare.
    """
    if subscription["billing_mode"]["type"] == "classic":
        return []
    return usage(world, subscription, item, now)


def _goes_on(world: World, old: Object, new: Object | None) -> bool:
    if new is None:
        return False
    return interval_of(price_of(world, old)) == interval_of(price_of(world, new))


def _same(old: Object, new: Object) -> bool:
    return (old["price"], old.get("quantity")) == (new["price"], new.get("quantity"))


def _licensed(
    world: World, subscription: Object, item: Object, at: int, *, sign: int
) -> list[Object]:
    price = price_of(world, item)
    at = max(at, item["current_period_start"])
    rests = subscription["status"] in {"paused", "trialing"}
    if rests or is_metered(price) or at >= item["current_period_end"]:
        return []
    words = "Remaining time" if sign > 0 else "Unused time"
    return [
        _fields(subscription, item, price)
        | {
            "amount": sign * prorated(world, subscription, item, at),
            "description": f"{words} on {item['quantity']} x {price['nickname'] or price['id']}",
            "period": {"start": at, "end": item["current_period_end"]},
            "proration": True,
            "quantity": item["quantity"],
            "quantity_decimal": str(item["quantity"]),
        }
    ]


def _fields(subscription: Object, item: Object, price: Object) -> Object:
    return {
        "currency": subscription["currency"],
        "livemode": subscription["livemode"],
        "parent": pending_items.of_subscription(subscription["id"], item["id"]),
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
    }
