"""Making and reading subscriptions.

Their changes stand in `subscription_changes` and `cancellations`, what time does to them in
`subscription_life`, the first payment in `first_invoices`.
"""

from stripe_emulator.core.billing.anchors import anchor_for
from stripe_emulator.core.billing.cancellations import set_cancel_at
from stripe_emulator.core.billing.first_invoices import begin
from stripe_emulator.core.billing.subscription_agenda import plan, watch
from stripe_emulator.core.billing.subscription_items import (
    check_together,
    keep_apart,
    new_item,
    place,
    priced,
)
from stripe_emulator.core.billing.subscription_shape import blank
from stripe_emulator.core.billing.subscription_status import ENDED
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
    subscription, prices = composed(call, customer, asked_items)
    set_cancel_at(world, subscription, call.params)
    begin(call, subscription, customer, prices)
    # Not before: the first invoice can bill usage from before and leave what comes from now on.
    keep_apart(world, subscription)
    watch(world, subscription)
    plan(world, subscription)
    return subscription


def composed(
    call: Call, customer: Object, asked_items: list[Object]
) -> tuple[Object, list[Object]]:
    """Return a subscription as the call asks for it, which nobody keeps yet, and its prices."""
    world, given = call.world, call.given
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
        "status": "trialing" if trial_end else "active",
        "trial_start": now if trial_end else None,
        "trial_end": trial_end,
    }
    for asked, price in zip(asked_items, prices, strict=True):
        item = new_item(call, asked, price, subscription["id"])
        subscription["items"]["data"].append(item)
        if trial_end:
            # Usage in a trial costs nothing (inferred): what is to be billed begins at its end.
            item["current_period_start"], item["current_period_end"] = now, trial_end
            item["_since"] = trial_end
        else:
            place(world, item, anchor=anchor, start=start, at=now)
    return subscription, prices


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
