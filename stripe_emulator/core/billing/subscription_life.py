"""What time does to subscriptions: new periods, ends of trials, cancellations, expiry."""

import copy

from stripe_emulator.core import events
from stripe_emulator.core.billing import invoices
from stripe_emulator.core.billing.cycle_invoices import close_periods
from stripe_emulator.core.billing.subscription_items import set_period
from stripe_emulator.core.collection import Object
from stripe_emulator.core.settings import HOUR_SECONDS
from stripe_emulator.core.world import World

LIVE = {"active", "trialing", "past_due", "incomplete", "unpaid", "paused"}
ENDED = {"canceled", "incomplete_expired"}
AGENDA_KIND = "subscription"


def end(world: World, subscription: Object) -> None:
    """Cancel now."""
    moment = (
        world.second()
        if world.moment is not None
        else world.now_for(world.customers.find(subscription["customer"]))
    )
    subscription["status"] = "canceled"
    subscription["canceled_at"] = subscription["canceled_at"] or moment
    subscription["ended_at"] = moment
    events.emit(world, "customer.subscription.deleted", subscription)


def plan(world: World, subscription: Object) -> None:
    """Put the next moment at which time changes this subscription on the agenda."""
    customer = world.customers.find(subscription["customer"])
    if customer is None or subscription["status"] in ENDED:
        return
    moments = [item["current_period_end"] for item in subscription["items"]["data"]]
    if subscription["cancel_at"] is not None:
        moments.append(subscription["cancel_at"])
    if subscription["status"] == "incomplete":
        moments.append(subscription["created"] + world.settings.first_payment_hours * HOUR_SECONDS)
    world.agenda_for(customer).add(min(moments), AGENDA_KIND, subscription["id"])


def fall_due(world: World, subscription_id: str, at: int) -> None:
    """Do what time asks of a subscription at `at`.

    That is to cancel, to expire, to end a trial, or to begin new periods.
    """
    subscription = world.subscriptions.find(subscription_id)
    if subscription is None or subscription["status"] in ENDED:
        return
    if subscription["cancel_at"] is not None and subscription["cancel_at"] <= at:
        ended = _ended_items(subscription, at)
        close_periods(world, subscription, ended, final=True)
        end(world, subscription)
        return
    deadline = subscription["created"] + world.settings.first_payment_hours * HOUR_SECONDS
    if subscription["status"] == "incomplete" and deadline <= at:
        _expire(world, subscription)
        return
    before = copy.deepcopy(subscription)
    if subscription["status"] == "trialing" and subscription["trial_end"] <= at:
        end_trial(world, subscription, at)
    ended = _ended_items(subscription, at)
    for item in subscription["items"]["data"]:
        if item["current_period_end"] <= at:
            # A period begins where the last one ended, however late we come to it.
            set_period(
                world,
                item,
                customer=subscription["customer"],
                anchor=subscription["billing_cycle_anchor"],
                start=item["current_period_end"],
                at=item["current_period_end"],
            )
    previous = events.changes(before, subscription)
    if previous:
        events.emit(world, "customer.subscription.updated", subscription, previous=previous)
    close_periods(world, subscription, ended, final=False)
    plan(world, subscription)


def _ended_items(subscription: Object, at: int) -> list[Object]:
    """Return the items whose period is over, as they were in it; a trial owes nothing."""
    if subscription["status"] == "trialing":
        return []
    return [
        dict(item) for item in subscription["items"]["data"] if item["current_period_end"] <= at
    ]


def end_trial(world: World, subscription: Object, at: int) -> None:
    """Begin to bill: the cycle is anchored at the trial's end."""
    subscription["status"] = "active"
    subscription["trial_end"] = min(subscription["trial_end"], at)
    restart(world, subscription, at)


def restart(world: World, subscription: Object, at: int) -> None:
    """Anchor the cycle at `at` and begin new periods there."""
    subscription["billing_cycle_anchor"] = at
    for item in subscription["items"]["data"]:
        set_period(world, item, customer=subscription["customer"], anchor=at, start=at, at=at)


def _expire(world: World, subscription: Object) -> None:
    subscription["status"] = "incomplete_expired"
    subscription["ended_at"] = world.second()
    invoice = world.invoices.find(subscription["latest_invoice"] or "")
    if invoice is not None and invoice["status"] == "open":
        invoices.void(world, invoice)
    events.emit(
        world, "customer.subscription.updated", subscription, previous={"status": "incomplete"}
    )
