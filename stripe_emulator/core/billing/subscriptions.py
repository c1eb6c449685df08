"""Making and reading subscriptions.

Their changes stand in `subscription_changes`, what time does to them in `subscription_life`, the
first payment in `first_invoices`.
"""

from stripe_emulator.core.billing.anchors import anchor_for
from stripe_emulator.core.billing.first_invoices import begin
from stripe_emulator.core.billing.subscription_changes import set_cancel_at
from stripe_emulator.core.billing.subscription_items import (
    check_together,
    new_item,
    priced,
    set_period,
)
from stripe_emulator.core.billing.subscription_life import ENDED, plan
from stripe_emulator.core.billing.subscription_shape import blank
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, in_span
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.settings import DAY_SECONDS


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
    check_together(prices, mode)
    now = world.now_for(customer)
    start = given("backdate_start_date", now)
    trial_end = _trial_end(call, now)
    anchor = anchor_for(call, now=now, start=start, trial_end=trial_end)
    subscription = blank(call, customer, mode) | {
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
            set_period(
                world, item, customer=subscription["customer"], anchor=anchor, start=start, at=now
            )
    set_cancel_at(world, subscription, call.params)
    begin(call, subscription, customer, prices)
    plan(world, subscription)
    return subscription


def retrieve(call: Call) -> Answer:
    return call.world.subscriptions.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    given = call.given
    status = given("status")

    def wanted(each: Object) -> bool:
        ended = each["status"] in ENDED
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
