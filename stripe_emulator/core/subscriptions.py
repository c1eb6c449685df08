"""The life of subscriptions: made, changed, cancelled, and moved on by time.

What the calls take stands in `subscription_params`, the items in `subscription_items`, the first
payment in `first_invoices`.
"""

import copy
from typing import Any

from stripe_emulator.core import events, invoices
from stripe_emulator.core.anchors import anchor_for
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, in_span
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.first_invoices import begin
from stripe_emulator.core.metadata import merged
from stripe_emulator.core.settings import DAY_SECONDS, HOUR_SECONDS
from stripe_emulator.core.subscription_items import new_item, price_of, priced, set_period
from stripe_emulator.core.world import World

LIVE = {"active", "trialing", "past_due", "incomplete", "unpaid", "paused"}
_ENDED = {"canceled", "incomplete_expired"}
AGENDA_KIND = "subscription"
_PLAIN = (
    "collection_method",
    "days_until_due",
    "default_payment_method",
    "description",
    "off_session",
    "pause_collection",
)


def create(call: Call) -> Answer:
    world, given = call.world, call.given
    customer = _customer(call)
    asked_items = given("items")
    if not asked_items:
        raise invalid("Missing required param: items.", param="items", code="parameter_missing")
    if given("collection_method") == "send_invoice" and "days_until_due" not in call.params:
        raise invalid(
            "`days_until_due` is needed with `collection_method=send_invoice`.",
            param="days_until_due",
        )
    prices = [priced(call, asked, index) for index, asked in enumerate(asked_items)]
    mode = (given("billing_mode") or {}).get("type", "flexible")
    _check_together(prices, mode)
    now = world.now_for(customer)
    start = given("backdate_start_date", now)
    trial_end = _trial_end(call, now)
    anchor = anchor_for(call, now=now, start=start, trial_end=trial_end)
    subscription = _blank(call, customer, mode) | {
        "billing_cycle_anchor": anchor,
        "currency": prices[0]["currency"],
        "start_date": start,
        "trial_start": now if trial_end else None,
        "trial_end": trial_end,
    }
    for asked, price in zip(asked_items, prices, strict=True):
        item = new_item(call, asked, price, subscription["id"])
        subscription["items"]["data"].append(item)
        if trial_end:
            item["current_period_start"], item["current_period_end"] = now, trial_end
        else:
            set_period(world, item, anchor=anchor, start=start, at=now)
    _set_cancel_at(world, subscription, call.params)
    begin(call, subscription, customer, prices)
    plan(world, subscription)
    return subscription


def update(call: Call) -> Answer:
    world = call.world
    subscription = world.subscriptions.get(call.path["id"], livemode=call.livemode)
    if subscription["status"] in _ENDED:
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
    _set_cancel_at(world, subscription, call.params)
    if (call.given("billing_cycle_anchor") or {}).get("type") == "now":
        _restart(world, subscription, world.now_for(world.customers.find(subscription["customer"])))
    if call.given("trial_end") == "now" and subscription["status"] == "trialing":
        _end_trial(
            world, subscription, world.now_for(world.customers.find(subscription["customer"]))
        )
    previous = events.changes(before, subscription)
    if previous:
        plan(world, subscription)
        events.emit(world, "customer.subscription.updated", subscription, previous=previous)
    return subscription


def cancel(call: Call) -> Answer:
    """End it at once. Usage not yet invoiced is lost unless `invoice_now`.

    That invoice comes with the engine.
    """
    subscription = call.world.subscriptions.get(call.path["id"], livemode=call.livemode)
    if subscription["status"] in _ENDED:
        raise invalid(
            f"No such subscription: '{subscription['id']}'", param="id", code="resource_missing"
        )
    subscription["cancellation_details"] |= call.given("cancellation_details", {})
    subscription["cancellation_details"]["reason"] = "cancellation_requested"
    end(call.world, subscription)
    return subscription


def retrieve(call: Call) -> Answer:
    return call.world.subscriptions.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    given = call.given
    status = given("status")

    def wanted(each: Object) -> bool:
        ended = each["status"] in _ENDED
        by_status = (
            status == "all"
            or (status is None and not ended)
            or (status == "ended" and ended)
            or status == each["status"]
        )
        prices = {item["price"] for item in each["items"]["data"]}
        return (
            by_status
            and given("customer") in {None, each["customer"]}
            and (given("price") is None or given("price") in prices)
            and given("collection_method") in {None, each["collection_method"]}
            and given("test_clock") in {None, each["test_clock"]}
            and in_span(given("created"), each["created"])
        )

    return call.world.subscriptions.page(
        call.params, url=call.url, livemode=call.livemode, keep=wanted
    )


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
    if customer is None or subscription["status"] in _ENDED:
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
    if subscription is None or subscription["status"] in _ENDED:
        return
    if subscription["cancel_at"] is not None and subscription["cancel_at"] <= at:
        end(world, subscription)
        return
    deadline = subscription["created"] + world.settings.first_payment_hours * HOUR_SECONDS
    if subscription["status"] == "incomplete" and deadline <= at:
        _expire(world, subscription)
        return
    before = copy.deepcopy(subscription)
    if subscription["status"] == "trialing" and subscription["trial_end"] <= at:
        _end_trial(world, subscription, at)
    for item in subscription["items"]["data"]:
        if item["current_period_end"] <= at:
            # A period begins where the last one ended, however late we come to it.
            set_period(
                world,
                item,
                anchor=subscription["billing_cycle_anchor"],
                start=item["current_period_end"],
                at=item["current_period_end"],
            )
    previous = events.changes(before, subscription)
    if previous:
        events.emit(world, "customer.subscription.updated", subscription, previous=previous)
    plan(world, subscription)


def _expire(world: World, subscription: Object) -> None:
    subscription["status"] = "incomplete_expired"
    subscription["ended_at"] = world.second()
    invoice = world.invoices.find(subscription["latest_invoice"] or "")
    if invoice is not None and invoice["status"] == "open":
        invoices.void(world, invoice)
    events.emit(
        world, "customer.subscription.updated", subscription, previous={"status": "incomplete"}
    )


def _end_trial(world: World, subscription: Object, at: int) -> None:
    subscription["status"] = "active"
    subscription["trial_end"] = min(subscription["trial_end"], at)
    _restart(world, subscription, at)


def _restart(world: World, subscription: Object, at: int) -> None:
    subscription["billing_cycle_anchor"] = at
    for item in subscription["items"]["data"]:
        set_period(world, item, anchor=at, start=at, at=at)


def _customer(call: Call) -> Object:
    customer_id = call.given("customer")
    if customer_id is None:
        raise invalid(
            "Missing required param: customer.", param="customer", code="parameter_missing"
        )
    customer = call.world.customers.get(
        customer_id, livemode=call.livemode, param="customer", status=400
    )
    if customer.get("deleted"):
        raise invalid(
            f"No such customer: '{customer_id}'", param="customer", code="resource_missing"
        )
    return customer


def _check_together(prices: list[Object], mode: str) -> None:
    if len({price["id"] for price in prices}) < len(prices):
        raise invalid("Cannot add multiple subscription items with the same price.", param="items")
    if len({price["currency"] for price in prices}) > 1:
        raise invalid("All prices of a subscription must use the same currency.", param="items")
    intervals = {(p["recurring"]["interval"], p["recurring"]["interval_count"]) for p in prices}
    if mode == "classic" and len(intervals) > 1:
        raise invalid("Classic subscriptions need the same interval in all prices.", param="items")


def _trial_end(call: Call, now: int) -> int | None:
    days, moment = call.given("trial_period_days"), call.given("trial_end")
    if days is not None and moment is not None:
        raise invalid("`trial_end` and `trial_period_days` exclude each other.", param="trial_end")
    if days:
        return now + int(days) * DAY_SECONDS
    if moment in {None, "now"}:
        return None
    if moment <= now:
        raise invalid("`trial_end` must be in the future.", param="trial_end")
    return int(moment)


def _set_cancel_at(world: World, subscription: Object, params: dict[str, Any]) -> None:
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
    _check_together(
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
    set_period(world, item, anchor=subscription["billing_cycle_anchor"], start=now, at=now)


def _blank(call: Call, customer: Object, mode: str) -> Object:
    given, world = call.given, call.world
    now = world.now_for(customer)
    subscription_id = world.ids.new("sub")
    return {
        "id": subscription_id,
        "object": "subscription",
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor_config": given("billing_cycle_anchor_config"),
        "billing_mode": {
            "type": mode,
            "flexible": {"proration_discounts": "included"} if mode == "flexible" else None,
        },
        "billing_schedules": [],
        "billing_thresholds": None,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": given("collection_method", "charge_automatically"),
        "created": now,
        "customer": customer["id"],
        "days_until_due": given("days_until_due"),
        "default_payment_method": given("default_payment_method"),
        "default_source": None,
        "default_tax_rates": [],
        "description": given("description"),
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": {
            "object": "list",
            "data": [],
            "has_more": False,
            "url": f"/v1/subscription_items?subscription={subscription_id}",
        },
        "latest_invoice": None,
        "livemode": call.livemode,
        "metadata": merged({}, given("metadata", {})),
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": None,
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": (given("payment_settings") or {}).get(
                "save_default_payment_method", "off"
            ),
        },
        "pending_invoice_item_interval": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "status": "active",
        "test_clock": customer["test_clock"],
        "transfer_data": None,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
    }
