"""Ending a subscription: at once, or at a moment that is planned and can be taken back."""

from typing import Any

from stripe_emulator.core.billing import pending_items, prorations
from stripe_emulator.core.billing.cycle_invoices import bill_now, running_usage, waiting
from stripe_emulator.core.billing.subscription_status import ENDED, end
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.world import World


def cancel(call: Call) -> Answer:
    """End it at once. Usage not yet invoiced is lost unless `invoice_now` is given.

    `prorate` credits the rest of licensed periods, on that invoice or as an item that waits.
    """
    world = call.world
    subscription = world.subscriptions.get(call.path["id"], livemode=call.livemode)
    if subscription["status"] in ENDED:
        raise invalid(
            f"No such subscription: '{subscription['id']}'", param="id", code="resource_missing"
        )
    subscription["cancellation_details"] |= call.given("cancellation_details", {})
    subscription["cancellation_details"]["reason"] = "cancellation_requested"
    customer = world.customers.find(subscription["customer"])
    now = world.now_for(customer)
    if call.given("prorate") and customer is not None:
        for item in subscription["items"]["data"]:
            for credit in prorations.unused(world, subscription, item, now):
                pending_items.add(world, customer, credit)
    if call.given("invoice_now"):
        lines = running_usage(world, subscription, now)
        if lines or waiting(world, subscription):
            bill_now(world, subscription, lines, reason="subscription_update")
    end(world, subscription)
    return subscription


def set_cancel_at(world: World, subscription: Object, params: dict[str, Any]) -> None:
    """Plan the end that was asked for, or take a planned one back."""
    ends = [item["current_period_end"] for item in subscription["items"]["data"]]
    now = world.now_for(world.customers.find(subscription["customer"]))
    asked = subscription["cancel_at"]
    if "cancel_at" in params:
        words = {
            "min_period_end": min(ends),
            "max_period_end": max(ends),
            "max_billed_until": max(ends),
        }
        asked = words.get(params["cancel_at"], params["cancel_at"])
        if asked is not None and asked <= now:
            raise invalid("`cancel_at` must be in the future.", param="cancel_at")
        subscription["cancel_at_period_end"] = False
    if "cancel_at_period_end" in params:
        subscription["cancel_at_period_end"] = params["cancel_at_period_end"]
        asked = min(ends) if params["cancel_at_period_end"] else None
    if asked == subscription["cancel_at"]:
        return
    subscription["cancel_at"] = asked
    subscription["canceled_at"] = now if asked is not None else None
    subscription["cancellation_details"]["reason"] = (
        "cancellation_requested" if asked is not None else None
    )
    subscription["_cancel_prorates"] = params.get("proration_behavior") != "none"
