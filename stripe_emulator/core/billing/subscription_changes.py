"""Changing a subscription and cancelling it."""

import copy
from typing import Any

from stripe_emulator.core import events
from stripe_emulator.core.billing.cycle_invoices import bill_now
from stripe_emulator.core.billing.subscription_items import (
    check_together,
    new_item,
    price_of,
    priced,
    set_period,
)
from stripe_emulator.core.billing.subscription_life import ENDED, end, end_trial, plan, restart
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.metadata import merged
from stripe_emulator.core.world import World

_PLAIN = (
    "collection_method",
    "days_until_due",
    "default_payment_method",
    "description",
    "off_session",
    "pause_collection",
)


def update(call: Call) -> Answer:
    world = call.world
    subscription = world.subscriptions.get(call.path["id"], livemode=call.livemode)
    if subscription["status"] in ENDED:
        raise invalid(
            "A canceled subscription can only update its cancellation_details and metadata."
        )
    before = copy.deepcopy(subscription)
    for name in _PLAIN:
        if name in call.params and name != "off_session":
            subscription[name] = call.params[name]
    if "metadata" in call.params:
        subscription["metadata"] = merged(subscription["metadata"], call.params["metadata"])
    if "cancellation_details" in call.params:
        subscription["cancellation_details"] |= call.params["cancellation_details"] or {}
    _update_items(call, subscription)
    set_cancel_at(world, subscription, call.params)
    if (call.given("billing_cycle_anchor") or {}).get("type") == "now":
        restart(world, subscription, world.now_for(world.customers.find(subscription["customer"])))
    if call.given("trial_end") == "now" and subscription["status"] == "trialing":
        end_trial(
            world, subscription, world.now_for(world.customers.find(subscription["customer"]))
        )
    previous = events.changes(before, subscription)
    if previous:
        plan(world, subscription)
        events.emit(world, "customer.subscription.updated", subscription, previous=previous)
    return subscription


def cancel(call: Call) -> Answer:
    """End it at once. Usage not yet invoiced is lost unless `invoice_now` is given."""
    subscription = call.world.subscriptions.get(call.path["id"], livemode=call.livemode)
    if subscription["status"] in ENDED:
        raise invalid(
            f"No such subscription: '{subscription['id']}'", param="id", code="resource_missing"
        )
    subscription["cancellation_details"] |= call.given("cancellation_details", {})
    subscription["cancellation_details"]["reason"] = "cancellation_requested"
    customer = call.world.customers.find(subscription["customer"])
    if call.given("invoice_now"):
        bill_now(call.world, subscription, call.world.now_for(customer))
    end(call.world, subscription)
    return subscription


def set_cancel_at(world: World, subscription: Object, params: dict[str, Any]) -> None:
    """Plan the end that was asked for, or take a planned one back."""
    ends = [item["current_period_end"] for item in subscription["items"]["data"]]
    asked = subscription["cancel_at"]
    if "cancel_at" in params:
        words = {
            "min_period_end": min(ends),
            "max_period_end": max(ends),
            "max_billed_until": max(ends),
        }
        asked = words.get(params["cancel_at"], params["cancel_at"])
        subscription["cancel_at_period_end"] = False
    if "cancel_at_period_end" in params:
        subscription["cancel_at_period_end"] = params["cancel_at_period_end"]
        asked = min(ends) if params["cancel_at_period_end"] else None
    if asked != subscription["cancel_at"]:
        subscription["cancel_at"] = asked
        now = world.now_for(world.customers.find(subscription["customer"]))
        subscription["canceled_at"] = now if asked is not None else None
        subscription["cancellation_details"]["reason"] = (
            "cancellation_requested" if asked is not None else None
        )


def _update_items(call: Call, subscription: Object) -> None:
    items = subscription["items"]["data"]
    for index, asked in enumerate(call.given("items") or []):
        known = {item["id"]: item for item in items}
        if "id" not in asked:
            price = priced(call, asked, index)
            item = new_item(call, asked, price, subscription["id"])
            items.append(item)
            _place(call.world, subscription, item)
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
            continue
        if "price" in asked and asked["price"] != named["price"]:
            _reprice(call, subscription, named, asked, index)
        if "quantity" in asked:
            named["quantity"] = asked["quantity"]
        if "metadata" in asked:
            named["metadata"] = merged(named["metadata"], asked["metadata"])
    if not items:
        raise invalid("A subscription must have at least one active item.", param="items")
    check_together(
        [price_of(call.world, item) for item in items], subscription["billing_mode"]["type"]
    )


def _reprice(call: Call, subscription: Object, item: Object, asked: Object, index: int) -> None:
    """Put another price on an item; its period stays when the interval does."""
    former = price_of(call.world, item)["recurring"]
    price = priced(call, asked, index)
    item["price"] = price["id"]
    if price["recurring"]["usage_type"] == "metered":
        item.pop("quantity", None)
    else:
        item["quantity"] = asked.get("quantity", item.get("quantity", 1))
    if (former["interval"], former["interval_count"]) != (
        price["recurring"]["interval"],
        price["recurring"]["interval_count"],
    ):
        _place(call.world, subscription, item)


def _place(world: World, subscription: Object, item: Object) -> None:
    now = world.now_for(world.customers.find(subscription["customer"]))
    set_period(
        world,
        item,
        customer=subscription["customer"],
        anchor=subscription["billing_cycle_anchor"],
        start=now,
        at=now,
    )
