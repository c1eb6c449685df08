"""What time does to subscriptions: new periods, ends of trials, cancellations, expiry."""

import copy

from stripe_emulator.core import events
from stripe_emulator.core.billing import invoices, pending_items, prorations
from stripe_emulator.core.billing.cycle_invoices import close_periods, licensed_lines
from stripe_emulator.core.billing.invoice_payments import method_of
from stripe_emulator.core.billing.pending_updates import drop_held
from stripe_emulator.core.billing.subscription_agenda import (
    TRIAL_NOTICE_SECONDS,
    first_payment_deadline,
    plan,
    upcoming_at,
)
from stripe_emulator.core.billing.subscription_items import is_metered, keep_apart, place, price_of
from stripe_emulator.core.billing.subscription_status import ENDED, end, pause
from stripe_emulator.core.billing.upcoming import announce
from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World


def fall_due(world: World, subscription_id: str, at: int) -> None:
    """Do what time asks of a subscription at `at`, unless its next moment was moved since."""
    subscription = world.subscriptions.find(subscription_id)
    if subscription is None or subscription["status"] in ENDED or subscription["_due"] != at:
        return
    if subscription["cancel_at"] is not None and subscription["cancel_at"] <= at:
        _end_as_planned(world, subscription, at)
        return
    if subscription["status"] == "incomplete" and first_payment_deadline(world, subscription) <= at:
        _expire(world, subscription)
        return
    _drop_what_waited_too_long(world, subscription, at)
    if subscription["status"] != "paused":
        _notify(world, subscription, at)
        _move_on(world, subscription, at)
    if subscription["status"] not in ENDED:
        plan(world, subscription)


def end_trial(world: World, subscription: Object, at: int) -> list[Object]:
    """Begin to bill: the cycle is anchored at the trial's end. Return the items whose period began.

    Usage in a trial costs nothing (inferred).
    """
    subscription["status"] = "active"
    subscription["trial_end"] = min(subscription["trial_end"], at)
    restart(world, subscription, at)
    return [item for item in subscription["items"]["data"] if not is_metered(price_of(world, item))]


def restart(world: World, subscription: Object, at: int) -> None:
    """Anchor the cycle at `at` and begin new periods there."""
    subscription["billing_cycle_anchor"] = at
    for item in subscription["items"]["data"]:
        place(world, item, anchor=at, start=at, at=at)
    keep_apart(world, subscription)


def _move_on(world: World, subscription: Object, at: int) -> None:
    """End a trial, collect again, and begin the periods that are due."""
    before = copy.deepcopy(subscription)
    if subscription["status"] == "trialing" and subscription["trial_end"] <= at:
        _trial_is_over(world, subscription, before, at)
        return
    ended = _ended_items(subscription, at)
    for item in subscription["items"]["data"]:
        if item["current_period_end"] <= at:
            # A period begins where the last one ended, however late we come to it.
            end_ = item["current_period_end"]
            place(world, item, anchor=subscription["billing_cycle_anchor"], start=end_, at=end_)
    keep_apart(world, subscription)
    resumes_at = (subscription["pause_collection"] or {}).get("resumes_at")
    if resumes_at is not None and resumes_at <= at:
        subscription["pause_collection"] = None
    _tell(world, before, subscription)
    if ended:
        close_periods(world, subscription, ended, final=False)


def _trial_is_over(world: World, subscription: Object, before: Object, at: int) -> None:
    """Go on to the first paid periods; without a payment method as `trial_settings` say."""
    behavior = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    automatic = subscription["collection_method"] == "charge_automatically"
    if automatic and not method_of(world, subscription, subscription["customer"]):
        if behavior == "cancel":
            end(world, subscription)
            return
        if behavior == "pause":
            pause(world, subscription, "trial_end_without_payment_method")
            return
    begun = end_trial(world, subscription, at)
    _tell(world, before, subscription)
    if begun:
        lines = [made for item in begun for made in licensed_lines(world, subscription, item)]
        invoice = invoices.make(world, subscription, lines, reason="subscription_cycle", draft=True)
        subscription["latest_invoice"] = invoice["id"]


def _ended_items(subscription: Object, at: int) -> list[Object]:
    """Return the items whose period is over, as they were in it."""
    return [
        copy.deepcopy(item)
        for item in subscription["items"]["data"]
        if item["current_period_end"] <= at
    ]


def _end_as_planned(world: World, subscription: Object, at: int) -> None:
    """Cancel at the moment that was set, with a last invoice for the usage until then.

    What is left of licensed periods is credited unless prorations were declined (inferred).
    """
    items = [copy.deepcopy(item) for item in subscription["items"]["data"]]
    customer = world.customers.find(subscription["customer"])
    if subscription["_cancel_prorates"] and customer is not None:
        for item in items:
            for credit in prorations.unused(world, subscription, item, at):
                pending_items.add(world, customer, credit)
    for item in items:
        item["current_period_end"] = min(item["current_period_end"], at)
    close_periods(world, subscription, items, final=True)
    end(world, subscription)


def _drop_what_waited_too_long(world: World, subscription: Object, at: int) -> None:
    """Void the invoice of a change or a resumption nobody paid for in time."""
    held, resumption = subscription["_held"], subscription["_resumption"]
    if held is not None and subscription["pending_update"]["expires_at"] <= at:
        previous = {"pending_update": subscription["pending_update"]}
        drop_held(world, subscription)
        events.emit(
            world, "customer.subscription.pending_update_expired", subscription, previous=previous
        )
    if resumption is not None and resumption["expires_at"] <= at:
        subscription["_resumption"] = None
        invoices.void_open(world, resumption["invoice"])
        for item in subscription["items"]["data"]:
            item["_since"] = item["current_period_end"]


def _notify(world: World, subscription: Object, at: int) -> None:
    """Announce a trial's end, and the next invoice."""
    if subscription["status"] == "trialing":
        if (
            not subscription["_trial_end_told"]
            and subscription["trial_end"] - TRIAL_NOTICE_SECONDS <= at
        ):
            subscription["_trial_end_told"] = True
            events.emit(world, "customer.subscription.trial_will_end", subscription)
        return
    upcoming = upcoming_at(world, subscription)
    if upcoming is not None and upcoming <= at:
        subscription["_announced"] = upcoming
        announce(world, subscription)


def _tell(world: World, before: Object, subscription: Object) -> None:
    previous = events.changes(before, subscription)
    if previous:
        events.emit(world, "customer.subscription.updated", subscription, previous=previous)


def _expire(world: World, subscription: Object) -> None:
    subscription["status"] = "incomplete_expired"
    subscription["ended_at"] = world.second_for(subscription)
    invoices.void_open(world, subscription["latest_invoice"])
    events.emit(
        world, "customer.subscription.updated", subscription, previous={"status": "incomplete"}
    )
