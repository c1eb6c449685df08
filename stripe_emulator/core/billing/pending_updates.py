"""Changes that wait for their payment, with `payment_behavior=pending_if_incomplete`.

Source: docs.stripe.com/billing/subscriptions/pending-updates. What makes them once they are paid
stands in `subscription_status`.
"""

import copy

from stripe_emulator.core import events
from stripe_emulator.core.billing import invoices, payments, pending_items
from stripe_emulator.core.billing.cycle_invoices import bill_now
from stripe_emulator.core.billing.subscription_agenda import plan
from stripe_emulator.core.billing.subscription_items import keep_apart
from stripe_emulator.core.collection import Object
from stripe_emulator.core.settings import HOUR_SECONDS
from stripe_emulator.core.world import World

BILLED = ("billing_cycle_anchor", "items", "status", "trial_end")
"""What a change that waits for its payment leaves as it is until then."""


def hold(
    world: World,
    subscription: Object,
    after: Object,
    *,
    charges: list[Object],
    lines: list[Object],
) -> Object:
    """Let the change to `after` wait for its payment, and ask for that.

    It waits as long as a first payment may take, and no longer than its period lasts.
    """
    if subscription["_held"] is not None:
        drop_held(world, subscription)
    keep_apart(world, after)
    now = world.now_for(world.customers.find(subscription["customer"]))
    ends = [item["current_period_end"] for item in subscription["items"]["data"]]
    expires_at = min(now + world.settings.first_payment_hours * HOUR_SECONDS, *ends)
    subscription["pending_update"] = {
        "billing_cycle_anchor": after["billing_cycle_anchor"],
        "expires_at": expires_at,
        "subscription_items": copy.deepcopy(after["items"]["data"]),
        "trial_end": after["trial_end"],
        "trial_from_plan": None,
    }
    held: Object = {
        "invoice": None,
        "changes": {name: after[name] for name in BILLED if after[name] != subscription[name]},
    }
    subscription["_held"] = held
    customer = world.customers.find(subscription["customer"])
    if customer is not None:
        for charge in charges:
            pending_items.add(world, customer, charge)
    invoice = bill_now(world, subscription, lines, reason="subscription_update", attempts=False)
    # The invoice is known before it fails, which then does not count as a renewal's failing.
    held["invoice"] = invoice["id"]
    if invoice["status"] == "open":
        payments.collect(world, invoice)
    events.emit(
        world,
        "customer.subscription.updated",
        subscription,
        previous={"pending_update": None},
    )
    plan(world, subscription)
    return subscription


def drop_held(world: World, subscription: Object) -> None:
    """Forget a change that waits for its payment, and void its invoice."""
    held = subscription["_held"]
    subscription["pending_update"] = subscription["_held"] = None
    invoices.void_open(world, held["invoice"])
