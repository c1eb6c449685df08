"""Pausing a subscription and going on, moving it to flexible billing, and its discount.

Pausing stops its periods; `pause_collection`, which only stops payments, is a field of an update.
Source: the description of both calls, docs.stripe.com/billing/subscriptions/pause.
"""

import copy

from stripe_emulator.core import events
from stripe_emulator.core.billing import payments, pending_items, prorations
from stripe_emulator.core.billing.cycle_invoices import bill_now, licensed_lines
from stripe_emulator.core.billing.invoice_shape import line
from stripe_emulator.core.billing.subscription_agenda import plan
from stripe_emulator.core.billing.subscription_items import (
    is_metered,
    keep_apart,
    place,
    price_of,
)
from stripe_emulator.core.billing.subscription_status import pause as put_to_rest
from stripe_emulator.core.billing.subscription_status import resume as wake
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import ApiError, invalid
from stripe_emulator.core.kinds import Choice, Integer
from stripe_emulator.core.params import EXPAND, Hash
from stripe_emulator.core.settings import HOUR_SECONDS
from stripe_emulator.core.world import World

PAUSE = Hash(
    {
        "bill_for": Hash(
            {
                "outstanding_usage_through": Hash({"type": Choice("none", "now")}, "type"),
                "unused_time_from": Hash(
                    {"type": Choice("item_current_period_start", "none", "now")}, "type"
                ),
            }
        ),
        "expand": EXPAND,
        "invoicing_behavior": Choice("invoice", "pending_invoice_item"),
        "type": Choice("subscription"),
    }
)
RESUME = Hash(
    {
        "billing_cycle_anchor": Hash({"type": Choice("now", "unchanged")}, "type"),
        "expand": EXPAND,
        "payment_behavior": Choice("resume_on_payment_attempt", "resume_on_payment_success"),
        "proration_behavior": Choice("always_invoice", "create_prorations", "none"),
        "proration_date": Integer(0),
    }
)
MIGRATE = Hash(
    {
        "billing_mode": Hash(
            {
                "flexible": Hash({"proration_discounts": Choice("included", "itemized")}),
                "type": Choice("flexible"),
            },
            "type",
        ),
        "expand": EXPAND,
    },
    "billing_mode",
)


def pause(call: Call) -> Answer:
    """Stop the periods; bill usage so far and credit unused time as `bill_for` says.

    Usage while it is paused is billed nowhere (inferred).
    """
    world = call.world
    subscription = world.subscriptions.get(call.path["id"], livemode=call.livemode)
    if subscription["status"] not in {"active", "past_due", "trialing"}:
        raise invalid(
            f"A subscription that is {subscription['status']} cannot be paused.", param="id"
        )
    customer = world.customers.find(subscription["customer"])
    now = world.now_for(customer)
    bill_for = call.given("bill_for") or {}
    charges = []
    for item in subscription["items"]["data"]:
        charges += _outstanding(world, subscription, item, bill_for, now)
        item["_since"], item["_earlier"] = item["current_period_end"], []
    if customer is not None:
        for each in charges:
            pending_items.add(world, customer, each)
    put_to_rest(world, subscription, "pause_requested")
    if charges and call.given("invoicing_behavior") == "invoice":
        bill_now(world, subscription, [], reason="subscription_update")
    return subscription


def resume(call: Call) -> Answer:
    """Go on, with periods from now or from the old anchor; licensed items are charged at once."""
    world = call.world
    subscription = world.subscriptions.get(call.path["id"], livemode=call.livemode)
    if subscription["status"] != "paused":
        raise invalid("Only a paused subscription can be resumed.", param="id")
    if subscription["collection_method"] != "charge_automatically":
        raise invalid("Only subscriptions that charge automatically can be resumed.", param="id")
    if subscription["_resumption"] is not None:
        raise invalid("An invoice of an earlier resumption is still open.", param="id")
    now = world.now_for(world.customers.find(subscription["customer"]))
    if subscription["trial_end"] is not None:
        subscription["trial_end"] = min(subscription["trial_end"], now)
    anchored = (call.given("billing_cycle_anchor") or {"type": "now"})["type"] == "now"
    lines = _begun(call, subscription, now, anchored=anchored)
    if not lines:
        wake(world, subscription)
        return subscription
    if call.given("payment_behavior") == "resume_on_payment_success":
        return _resume_once_paid(world, subscription, lines, now)
    wake(world, subscription)
    bill_now(world, subscription, lines, reason="subscription_update")
    return subscription


def migrate(call: Call) -> Answer:
    """Move a classic subscription to flexible billing, which cannot be undone."""
    subscription = call.world.subscriptions.get(call.path["id"], livemode=call.livemode)
    if subscription["billing_mode"]["type"] == "flexible":
        raise invalid("The subscription is in flexible billing mode.", param="billing_mode[type]")
    before = copy.deepcopy(subscription["billing_mode"])
    asked = call.params["billing_mode"].get("flexible") or {}
    subscription["billing_mode"] = {
        "type": "flexible",
        "flexible": {"proration_discounts": asked.get("proration_discounts", "included")},
    }
    events.emit(
        call.world,
        "customer.subscription.updated",
        subscription,
        previous={"billing_mode": before},
    )
    return subscription


def delete_discount(call: Call) -> Answer:
    """Refuse: nothing here makes discounts, so no subscription has one (the words are inferred)."""
    subscription = call.world.subscriptions.get(call.path["id"], livemode=call.livemode)
    raise ApiError(
        404,
        f"Subscription '{subscription['id']}' has no active discount.",
        code="resource_missing",
    )


def _outstanding(
    world: World, subscription: Object, item: Object, bill_for: Object, now: int
) -> list[Object]:
    """Return what a pause bills and credits for an item; in a trial that is nothing."""
    if subscription["status"] == "trialing":
        return []
    through = (bill_for.get("outstanding_usage_through") or {"type": "now"})["type"]
    unused_from = (bill_for.get("unused_time_from") or {"type": "now"})["type"]
    found = prorations.usage(world, subscription, item, now) if through == "now" else []
    if unused_from == "none":
        return found
    since = now if unused_from == "now" else item["current_period_start"]
    return found + prorations.unused(world, subscription, item, since)


def _begun(call: Call, subscription: Object, now: int, *, anchored: bool) -> list[Object]:
    """Begin the periods again; return the lines to pay now.

    With the anchor unchanged the rest of a licensed period is charged, unless prorations were
    declined.
    """
    world = call.world
    if anchored:
        subscription["billing_cycle_anchor"] = now
    lines: list[Object] = []
    for item in subscription["items"]["data"]:
        place(world, item, anchor=subscription["billing_cycle_anchor"], start=now, at=now)
        price = price_of(world, item)
        if is_metered(price):
            continue
        if prorations.share(world, subscription, item, now) == 1:
            lines += licensed_lines(world, subscription, item)
        elif call.given("proration_behavior") != "none":
            charged = prorations.prorated(world, subscription, item, now)
            lines.append(
                line(
                    world,
                    subscription,
                    item,
                    price,
                    amount=charged,
                    quantity=item["quantity"],
                    proration=True,
                )
            )
    keep_apart(world, subscription)
    return lines


def _resume_once_paid(world: World, subscription: Object, lines: list[Object], now: int) -> Object:
    """Stay paused until the resumption's invoice is paid; unpaid it is voided after 23 hours."""
    expires_at = now + world.settings.first_payment_hours * HOUR_SECONDS
    waiting: Object = {"invoice": None, "expires_at": expires_at}
    invoice = bill_now(world, subscription, lines, reason="subscription_update", attempts=False)
    if invoice["status"] == "paid":
        wake(world, subscription)
        return subscription
    waiting["invoice"] = invoice["id"]
    subscription["_resumption"] = waiting
    payments.collect(world, invoice)
    plan(world, subscription)
    return subscription
