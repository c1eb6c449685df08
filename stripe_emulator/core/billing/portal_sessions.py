"""Sessions of the customer portal, and what a customer does there.

The page itself stands outside of the core.
"""

import copy
from typing import Any

from stripe_emulator.core import customers, events
from stripe_emulator.core.billing import setup_intents, subscription_changes
from stripe_emulator.core.billing.checkout_rules import check_url
from stripe_emulator.core.billing.payment_methods import Outcome
from stripe_emulator.core.billing.subscription_status import LIVE
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.faults import Faults
from stripe_emulator.core.ids import derived
from stripe_emulator.core.kinds import Choice, String
from stripe_emulator.core.params import EXPAND, Hash, anything
from stripe_emulator.core.settings import HOUR_SECONDS
from stripe_emulator.core.world import World

OPENED_WITHIN_SECONDS = 5 * 60
"""How long the address waits for its first visit (field)."""
KEPT_SECONDS = HOUR_SECONDS
"""How long it then works after each visit (field)."""
FLOWS = ("payment_method_update", "subscription_cancel")
"""What a session can lead straight to; the page does nothing else either."""

CREATE = Hash(
    {
        "after_expiration": anything(),
        "configuration": String(),
        "customer": String(),
        "customer_account": anything(),
        "expand": EXPAND,
        "flow_data": Hash(
            {
                "after_completion": Hash(
                    {
                        "hosted_confirmation": Hash({"custom_message": String(500)}),
                        "redirect": Hash({"return_url": String()}, "return_url"),
                        "type": Choice("hosted_confirmation", "portal_homepage", "redirect"),
                    },
                    "type",
                ),
                "subscription_cancel": Hash(
                    {"retention": anything(), "subscription": String()}, "subscription"
                ),
                "subscription_pause": anything(),
                "subscription_update": anything(),
                "subscription_update_confirm": anything(),
                "type": Choice(
                    "customer_update",
                    "payment_method_update",
                    "subscription_cancel",
                    "subscription_pause",
                    "subscription_update",
                    "subscription_update_confirm",
                ),
            },
            "type",
        ),
        "locale": String(),
        "on_behalf_of": anything(),
        "return_url": String(),
    }
)


def create(call: Call) -> Answer:
    world, given = call.world, call.given
    if given("customer") is None:
        raise invalid(
            "Missing required param: customer.", param="customer", code="parameter_missing"
        )
    customer = customers.find(call, given("customer"), param="customer", status=400)
    check_url(given("return_url"), "return_url")
    flow = _flow(call, customer)
    session_id = world.ids.new("bps")
    return world.portal_sessions.add(
        {
            "id": session_id,
            "object": "billing_portal.session",
            "after_expiration": None,
            "configuration": given("configuration") or derived("bpc", call.livemode),
            "created": world.second(),
            "customer": customer["id"],
            "customer_account": None,
            "flow": flow,
            "livemode": call.livemode,
            "locale": given("locale"),
            "on_behalf_of": None,
            "return_url": given("return_url"),
            "url": f"{call.base_url}/portal/{session_id}",
            "_setup_intent": None,
            "_usable_until": world.second() + OPENED_WITHIN_SECONDS,
        }
    )


def visited(world: World, session_id: str) -> Object | None:
    """Return a session whose time is not over, which a visit prolongs."""
    session = world.portal_sessions.find(session_id)
    if session is None or session["_usable_until"] <= world.second():
        return None
    if (world.customers.find(session["customer"]) or {}).get("deleted"):
        return None
    session["_usable_until"] = world.second() + KEPT_SECONDS
    return session


def subscriptions_of(world: World, session: Object) -> list[Object]:
    """Return the customer's subscriptions that have not ended, newest first."""
    return [
        each
        for each in reversed(list(world.subscriptions))
        if each["customer"] == session["customer"] and each["status"] in LIVE
    ]


def cancel(world: World, session: Object, subscription: Object) -> int:
    """Plan the end of a subscription for the end of its period, and return when that is.

    On a flexible one that is `cancel_at`, on a classic one `cancel_at_period_end`.
    """
    flexible = subscription["billing_mode"]["type"] == "flexible"
    planned = {"cancel_at": "min_period_end"} if flexible else {"cancel_at_period_end": True}
    _update(world, session, subscription, planned)
    ends_at: int = subscription["cancel_at"]
    return ends_at


def keep(world: World, session: Object, subscription: Object) -> None:
    """Take a planned end back."""
    _update(world, session, subscription, {"cancel_at": None})


def change_card(
    world: World, session: Object, payment_method: str, *, authenticated: bool | None
) -> Outcome:
    """Try to keep another card: it then pays everything the customer has (inferred)."""
    customer: Any = world.customers.find(session["customer"])
    intent = world.setup_intents.find(session["_setup_intent"] or "")
    if intent is None or intent["status"] not in setup_intents.OPEN:
        intent = setup_intents.make(world, customer=customer["id"], livemode=session["livemode"])
        session["_setup_intent"] = intent["id"]
    outcome = setup_intents.attempt(world, intent, payment_method, authenticated=authenticated)
    if outcome.status == "succeeded":
        setup_intents.set_default(world, customer, payment_method)
        for subscription in subscriptions_of(world, session):
            if subscription["default_payment_method"] not in {None, payment_method}:
                before = copy.deepcopy(subscription)
                subscription["default_payment_method"] = payment_method
                previous = events.changes(before, subscription)
                events.emit(world, "customer.subscription.updated", subscription, previous=previous)
    return outcome


def _update(world: World, session: Object, subscription: Object, params: Object) -> None:
    """Change a subscription as its call does."""
    url = f"/v1/subscriptions/{subscription['id']}"
    path = {"id": subscription["id"]}
    subscription_changes.update(Call(world, params, path, session["livemode"], url, Faults()))


def _flow(call: Call, customer: Object) -> Object | None:
    """Return where the session leads first, or refuse what the page cannot do."""
    asked = call.given("flow_data")
    if asked is None:
        return None
    if asked["type"] not in FLOWS:
        raise invalid(
            f"The emulator's portal knows the flows {' and '.join(FLOWS)}.",
            param="flow_data[type]",
        )
    after = asked.get("after_completion") or {"type": "portal_homepage"}
    to = after.get("redirect")
    if after["type"] == "redirect" and to is None:
        raise invalid(
            "Missing required param: flow_data[after_completion][redirect].",
            param="flow_data[after_completion][redirect]",
            code="parameter_missing",
        )
    if to is not None:
        check_url(to["return_url"], "flow_data[after_completion][redirect][return_url]")
    return {
        "after_completion": {"hosted_confirmation": None, "redirect": None, **after},
        "subscription_cancel": _cancelled(call, customer, asked),
        "subscription_update": None,
        "subscription_update_confirm": None,
        "type": asked["type"],
    }


def _cancelled(call: Call, customer: Object, asked: Object) -> Object | None:
    """Return the subscription a flow of cancelling is about, which must be the customer's."""
    if asked["type"] != "subscription_cancel":
        return None
    param = "flow_data[subscription_cancel][subscription]"
    named = (asked.get("subscription_cancel") or {}).get("subscription")
    if named is None:
        raise invalid(f"Missing required param: {param}.", param=param, code="parameter_missing")
    subscription = call.world.subscriptions.get(
        named, livemode=call.livemode, param=param, status=400
    )
    if subscription["customer"] != customer["id"] or subscription["status"] not in LIVE:
        raise invalid(f"The subscription {named} is not one this customer can cancel.", param=param)
    return {"retention": None, "subscription": named}
