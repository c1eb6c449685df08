"""Invoices in the middle of a period, when usage has reached a threshold.

Source: docs.stripe.com, usage-based billing, alerts and thresholds. Not in a trial, and not in the
last 24 hours of a period.
"""

import copy
from decimal import Decimal

from stripe_emulator.core import events, exact
from stripe_emulator.core.billing import invoices, pending_items, prorations
from stripe_emulator.core.billing.cycle_invoices import licensed_lines, waiting
from stripe_emulator.core.billing.subscription_agenda import plan
from stripe_emulator.core.billing.subscription_items import is_metered, keep_apart, price_of
from stripe_emulator.core.billing.subscription_life import restart
from stripe_emulator.core.billing.usage_lines import spans, usage_lines
from stripe_emulator.core.collection import Object
from stripe_emulator.core.settings import DAY_SECONDS
from stripe_emulator.core.world import World

_BILLED = {"active", "past_due"}


def fall_due(world: World, subscription_id: str, at: int) -> None:
    """Bill the usage up to and including this second, if a threshold is reached by it.

    What comes later is billed on its own: packages and tiers count anew then (inferred).
    """
    subscription = world.subscriptions.find(subscription_id)
    if subscription is None or subscription["status"] not in _BILLED:
        return
    until = at + 1
    items = subscription["items"]["data"]
    if min(item["current_period_end"] for item in items) - at <= DAY_SECONDS:
        return
    lines = {item["id"]: usage_lines(world, subscription, item, until) for item in items}
    reason = _reason(world, subscription, lines, until)
    if reason is None:
        return
    made = [line for of_item in lines.values() for line in of_item]
    for item in items:
        item["_since"], item["_earlier"] = until, []
    keep_apart(world, subscription)
    if (subscription["billing_thresholds"] or {}).get("reset_billing_cycle_anchor"):
        made += _begun_again(world, subscription, until)
    invoice = invoices.make(
        world, subscription, made, reason="subscription_threshold", draft=True, threshold=reason
    )
    subscription["latest_invoice"] = invoice["id"]
    plan(world, subscription)


def _reason(
    world: World, subscription: Object, lines: dict[str, list[Object]], until: int
) -> Object | None:
    """Return the invoice's `threshold_reason`, or None while no threshold is reached."""
    item_reasons = []
    for item in subscription["items"]["data"]:
        gte = (item["billing_thresholds"] or {}).get("usage_gte")
        if gte is not None and _used(world, subscription, item, until) >= gte:
            ids = [line["id"] for line in lines[item["id"]]]
            item_reasons.append({"line_item_ids": ids, "usage_gte": gte})
    amount_gte = (subscription["billing_thresholds"] or {}).get("amount_gte")
    parts = [line for made in lines.values() for line in made] + waiting(world, subscription)
    reached = amount_gte is not None and sum(each["amount"] for each in parts) >= amount_gte
    if not (item_reasons or reached):
        return None
    return {"amount_gte": amount_gte if reached else None, "item_reasons": item_reasons}


def _used(world: World, subscription: Object, item: Object, until: int) -> Decimal:
    total = Decimal(0)
    for span in spans(world, item, until):
        meter = price_of(world, span)["recurring"]["meter"]
        used = world.usage.aggregate(meter, subscription["customer"], span["start"], span["end"])
        total = exact.add(total, used)
    return total


def _begun_again(world: World, subscription: Object, at: int) -> list[Object]:
    """Anchor the cycle at the threshold; return the lines for licensed items' new periods.

    What is left of their former ones is credited (inferred).
    """
    before = copy.deepcopy(subscription)
    customer = world.customers.find(subscription["customer"])
    for item in subscription["items"]["data"]:
        for credit in prorations.unused(world, subscription, item, at):
            if customer is not None:
                pending_items.add(world, customer, credit)
    restart(world, subscription, at)
    previous = events.changes(before, subscription)
    events.emit(world, "customer.subscription.updated", subscription, previous=previous)
    return [
        line
        for item in subscription["items"]["data"]
        if not is_metered(price_of(world, item))
        for line in licensed_lines(world, subscription, item)
    ]
