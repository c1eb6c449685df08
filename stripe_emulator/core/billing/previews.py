"""`POST /v1/invoices/create_preview`: the next invoice, as it is or as a change would make it."""

import copy
import dataclasses

from stripe_emulator.core import customers
from stripe_emulator.core.billing import prorations
from stripe_emulator.core.billing.cycle_invoices import running_usage, waiting
from stripe_emulator.core.billing.first_invoices import first_lines
from stripe_emulator.core.billing.invoice_shape import item_line
from stripe_emulator.core.billing.pending_items import draft
from stripe_emulator.core.billing.subscription_changes import Change, changed
from stripe_emulator.core.billing.subscription_params import CANCEL_WORDS, CHANGED_ITEMS
from stripe_emulator.core.billing.subscription_status import ENDED
from stripe_emulator.core.billing.subscriptions import composed
from stripe_emulator.core.billing.upcoming import recurring, shown, upcoming
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import ApiError, invalid
from stripe_emulator.core.kinds import Boolean, Choice, Integer, IntegerOr, String
from stripe_emulator.core.params import EXPAND, METADATA, Hash, anything

CREATE = Hash(
    {
        "automatic_tax": anything(),
        "currency": String(3),
        "customer": String(),
        "customer_account": anything(),
        "customer_details": anything(),
        "discounts": anything(),
        "expand": EXPAND,
        "invoice_items": anything(),
        "issuer": anything(),
        "on_behalf_of": anything(),
        "preview_mode": Choice("next", "recurring"),
        "schedule": anything(),
        "schedule_details": anything(),
        "subscription": String(),
        "subscription_details": Hash(
            {
                "billing_cycle_anchor": Hash(
                    {"timestamp": Integer(0), "type": Choice("now", "timestamp", "unchanged")},
                    "type",
                ),
                "billing_mode": Hash(
                    {"flexible": anything(), "type": Choice("classic", "flexible")}, "type"
                ),
                "billing_schedules": anything(),
                "cancel_at": IntegerOr(*CANCEL_WORDS, unsettable=True),
                "cancel_at_period_end": Boolean(),
                "cancel_now": Boolean(),
                "default_tax_rates": anything(),
                "items": CHANGED_ITEMS,
                "metadata": METADATA,
                "pause": anything(),
                "proration_behavior": Choice("always_invoice", "create_prorations", "none"),
                "proration_date": Integer(0),
                "resume_at": anything(),
                "start_date": Integer(0),
                "trial_end": IntegerOr("now"),
            }
        ),
    }
)


def create(call: Call) -> Answer:
    """Return an invoice nobody has: nothing of it is kept, and its usage is what summaries say.

    `recurring` leaves out what waits and what is prorated.
    """
    world, details = call.world, call.given("subscription_details") or {}
    if call.given("subscription") is None and details.get("items"):
        return _of_new_one(call, details)
    subscription = _subscription(call)
    if details.get("cancel_now"):
        return _of_cancellation(call, subscription, details)
    after = copy.deepcopy(subscription)
    made = changed(call, subscription, details) if details else Change(after)
    if call.given("preview_mode") == "recurring":
        return recurring(world, made.after)
    charges = _charge_lines(call, made.after, made.charges)
    if not made.bills_now:
        return upcoming(world, made.after, charges)
    lines = made.lines + charges + [item_line(world, each) for each in waiting(world, subscription)]
    return shown(world, made.after, lines, at=_now(call, subscription))


def _of_new_one(call: Call, details: Object) -> Object:
    """Preview making a subscription: its first invoice, or the one that ends its first period."""
    world = call.world
    customer = _customer(call)
    fields = ("billing_mode", "cancel_at_period_end", "proration_behavior", "trial_end")
    params = {name: details[name] for name in fields if name in details}
    if "start_date" in details:
        params["backdate_start_date"] = details["start_date"]
    subscription, _ = composed(dataclasses.replace(call, params=params), customer, details["items"])
    if call.given("preview_mode") == "recurring":
        return recurring(world, subscription)
    lines = first_lines(world, subscription, details.get("proration_behavior"))
    if not lines:
        return upcoming(world, subscription)
    lines += [item_line(world, each) for each in waiting(world, subscription)]
    return shown(world, subscription, lines, at=_now(call, subscription))


def _of_cancellation(call: Call, subscription: Object, details: Object) -> Object:
    """Preview ending it now, with what `invoice_now` and `prorate` would bill."""
    world, now = call.world, _now(call, subscription)
    lines = running_usage(world, subscription, now)
    if details.get("proration_behavior") != "none":
        for item in subscription["items"]["data"]:
            credits_ = prorations.unused(world, subscription, item, now)
            lines += _charge_lines(call, subscription, credits_)
    lines += [item_line(world, each) for each in waiting(world, subscription)]
    return shown(world, subscription, lines, at=now)


def _charge_lines(call: Call, subscription: Object, charges: list[Object]) -> list[Object]:
    world = call.world
    customer = world.customers.find(subscription["customer"]) or {"id": subscription["customer"]}
    return [item_line(world, draft(world, customer, each)) for each in charges]


def _subscription(call: Call) -> Object:
    """Return the one that is named, or the customer's whose next invoice comes first."""
    world = call.world
    named = call.given("subscription")
    if named is not None:
        found = world.subscriptions.get(
            named, livemode=call.livemode, param="subscription", status=400
        )
        if call.given("customer") not in {None, found["customer"]}:
            raise invalid("The subscription belongs to another customer.", param="subscription")
        candidates = [found]
    else:
        customer = _customer(call)
        candidates = [each for each in world.subscriptions if each["customer"] == customer["id"]]
    live = [each for each in candidates if each["status"] not in {*ENDED, "paused"}]
    if not live:
        raise ApiError(
            404,
            f"No upcoming invoices for customer: '{call.given('customer') or named}'",
            code="invoice_upcoming_none",
        )
    return min(
        live,
        key=lambda each: min(item["current_period_end"] for item in each["items"]["data"]),
    )


def _customer(call: Call) -> Object:
    named = call.given("customer")
    if named is None:
        raise invalid(
            "You must pass a `customer` or a `subscription`.",
            param="customer",
            code="parameter_missing",
        )
    return customers.find(call, named, param="customer", status=400)


def _now(call: Call, subscription: Object) -> int:
    return call.world.now_for(call.world.customers.find(subscription["customer"]))
