"""Changing a subscription: what it becomes, what that costs, and whether it is paid first."""

import copy
from dataclasses import dataclass, field
from typing import Any

from stripe_emulator.core import events
from stripe_emulator.core.billing import (
    invoice_payments,
    item_changes,
    pending_items,
    prorations,
)
from stripe_emulator.core.billing.cancellations import set_cancel_at
from stripe_emulator.core.billing.cycle_invoices import (
    bill_now,
    licensed_lines,
    running_usage,
    waiting,
)
from stripe_emulator.core.billing.invoice_totals import SMALLEST_CHARGE
from stripe_emulator.core.billing.payment_methods import Outcome
from stripe_emulator.core.billing.pending_updates import BILLED, drop_held, hold
from stripe_emulator.core.billing.subscription_agenda import plan, watch
from stripe_emulator.core.billing.subscription_items import is_metered, keep_apart, place, price_of
from stripe_emulator.core.billing.subscription_shape import thresholds
from stripe_emulator.core.billing.subscription_status import ENDED, failed
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
    "trial_settings",
)


@dataclass
class Change:
    """What an update makes of a subscription."""

    after: Object
    charges: list[Object] = field(default_factory=list)
    """Invoice items to make."""
    lines: list[Object] = field(default_factory=list)
    """Lines of the invoice the change makes."""
    bills_now: bool = False


def update(call: Call) -> Answer:
    world = call.world
    subscription = world.subscriptions.get(call.path["id"], livemode=call.livemode)
    if subscription["status"] in ENDED:
        raise invalid(
            "A canceled subscription can only update its cancellation_details and metadata."
        )
    made = changed(call, subscription, call.params)
    behavior = call.given("payment_behavior", "allow_incomplete")
    outcome = _outcome(call, made)
    if outcome is not None and outcome.status != "succeeded":
        if behavior == "error_if_incomplete":
            raise invoice_payments.refusal(outcome)
        if behavior == "pending_if_incomplete":
            return hold(world, subscription, made.after, charges=made.charges, lines=made.lines)
    _keep(world, subscription, made.after)
    _bill(call, subscription, made, attempts=behavior != "default_incomplete")
    if outcome is not None and behavior == "default_incomplete":
        failed(world, subscription)
    plan(world, subscription)
    return subscription


def changed(call: Call, subscription: Object, params: dict[str, Any]) -> Change:
    """Return what `params` make of a subscription, which stays as it is; or refuse."""
    world = call.world
    now = world.now_for(world.customers.find(subscription["customer"]))
    after = copy.deepcopy(subscription)
    made = Change(after)
    _set_plain(after, params)
    at = _moment(subscription, params, now)
    prorates = params.get("proration_behavior", "create_prorations") != "none"
    item_changes.apply(call, after, params.get("items") or [], at=now)
    anchored = (params.get("billing_cycle_anchor") or {}).get("type") == "now"
    if params.get("trial_end") == "now" and subscription["status"] == "trialing":
        after["status"], after["trial_end"] = "active", now
        made.lines = _restarted(world, after, now)
        made.bills_now = bool(made.lines)
    elif isinstance(params.get("trial_end"), int):
        made.charges = _until_now(world, subscription, now) if prorates else []
        _try_until(after, params["trial_end"], now)
    elif anchored and subscription["status"] != "trialing":
        made.charges = _unused(world, subscription, now) if prorates else []
        made.lines = running_usage(world, subscription, now) + _restarted(world, after, now)
        made.bills_now = bool(made.lines or made.charges)
    elif prorates:
        made.charges = prorations.of_changes(world, subscription, after, at=at, now=now)
        made.bills_now = params.get("proration_behavior") == "always_invoice" and bool(made.charges)
    _note_left(subscription, after, now)
    set_cancel_at(world, after, params)
    return made


def _set_plain(after: Object, params: dict[str, Any]) -> None:
    for name in _PLAIN:
        if name in params:
            after[name] = params[name]
    if "billing_thresholds" in params:
        after["billing_thresholds"] = thresholds(params["billing_thresholds"])
    if "pause_collection" in params:
        asked = params["pause_collection"]
        after["pause_collection"] = {"resumes_at": None, **asked} if asked else None
    if "metadata" in params:
        after["metadata"] = merged(after["metadata"], params["metadata"])
    if "cancellation_details" in params:
        after["cancellation_details"] |= params["cancellation_details"] or {}


def _moment(subscription: Object, params: dict[str, Any], now: int) -> int:
    """Return when prorations count from: `proration_date`, within the running periods."""
    asked = params.get("proration_date")
    if asked is None:
        return now
    items = subscription["items"]["data"]
    earliest = min(item["current_period_start"] for item in items)
    latest = max(item["current_period_end"] for item in items)
    if not earliest <= asked <= latest:
        raise invalid("`proration_date` must lie in the current period.", param="proration_date")
    return int(asked)


def _restarted(world: World, after: Object, now: int) -> list[Object]:
    """Begin new periods now; return the lines of licensed items for theirs."""
    after["billing_cycle_anchor"] = now
    lines = []
    for item in after["items"]["data"]:
        place(world, item, anchor=now, start=now, at=now)
        if not is_metered(price_of(world, item)):
            lines += licensed_lines(world, after, item)
    return lines


def _unused(world: World, subscription: Object, now: int) -> list[Object]:
    """Return the credits for what is left of licensed periods."""
    return [
        credit
        for item in subscription["items"]["data"]
        for credit in prorations.unused(world, subscription, item, now)
    ]


def _until_now(world: World, subscription: Object, now: int) -> list[Object]:
    """Return what a trial that begins now leaves to bill: usage so far, less unused time."""
    used = [
        charge
        for item in subscription["items"]["data"]
        for charge in prorations.left_behind(world, subscription, item, now)
    ]
    return used + _unused(world, subscription, now)


def _try_until(after: Object, end: int, now: int) -> None:
    """Set a trial's end; usage before it costs nothing (inferred)."""
    if end <= now:
        raise invalid("`trial_end` must be in the future.", param="trial_end")
    after["status"], after["trial_end"] = "trialing", end
    after["trial_start"] = after["trial_start"] or now
    after["billing_cycle_anchor"] = end
    after["_trial_end_told"] = False
    for item in after["items"]["data"]:
        item["current_period_end"] = item["_since"] = end
        item["_earlier"] = []


def _note_left(before: Object, after: Object, now: int) -> None:
    """Remember which prices were in force until now, for the judge."""
    still = {item["price"] for item in after["items"]["data"]}
    after["_left_items"] += [
        {"price": item["price"], "until": now}
        for item in before["items"]["data"]
        if item["price"] not in still
    ]


def _outcome(call: Call, made: Change) -> Outcome | None:
    """Return how the payment that the change asks for would end; None when it asks for none."""
    world, after = call.world, made.after
    if not made.bills_now or after["collection_method"] != "charge_automatically":
        return None
    customer = world.customers.find(after["customer"]) or {}
    parts = [*made.lines, *made.charges, *waiting(world, after)]
    if customer.get("balance", 0) + sum(each["amount"] for each in parts) < SMALLEST_CHARGE:
        return None
    card = invoice_payments.method_of(world, after, after["customer"])
    return invoice_payments.foreseen(card, off_session=bool(call.given("off_session")))


def _keep(world: World, subscription: Object, after: Object) -> None:
    """Make the change, and tell. One that waited for its payment is dropped for a newer one."""
    if subscription["_held"] is not None and any(subscription[n] != after[n] for n in BILLED):
        drop_held(world, subscription)
        after["_held"] = after["pending_update"] = None
    previous = events.changes(subscription, after)
    subscription.update(after)
    keep_apart(world, subscription)
    watch(world, subscription)
    if previous:
        events.emit(world, "customer.subscription.updated", subscription, previous=previous)


def _bill(call: Call, subscription: Object, made: Change, *, attempts: bool) -> None:
    world = call.world
    customer = world.customers.find(subscription["customer"])
    if customer is not None:
        for charge in made.charges:
            pending_items.add(world, customer, charge)
    if made.bills_now:
        bill_now(world, subscription, made.lines, reason="subscription_update", attempts=attempts)
