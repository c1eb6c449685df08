"""Setup intents: keeping a card for payments to come.

The ones of subscriptions and of Checkout are made by these. What the calls do stands in
`setup_intent_calls`, how trying a card ends in `payment_methods`.
"""

import copy
from typing import Any

from stripe_emulator.core import events
from stripe_emulator.core.billing.declines import error_of
from stripe_emulator.core.billing.payment_methods import Outcome, after_bank, save
from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World

OPEN = {"requires_payment_method", "requires_confirmation", "requires_action"}
"""Statuses in which an intent can still be confirmed or cancelled."""
SUBJECT = "setup_intent"


def make(world: World, *, customer: str | None, livemode: bool, **fields: Any) -> Object:
    """Make one that waits for a card; `fields` are those that differ from the usual.

    The hidden ones say whose it is: `_subscription`, whose `pending_setup_intent` it is, and
    `_checkout`, the session that alone may confirm it.
    """
    intent_id = world.ids.new("seti")
    intent = world.setup_intents.add(
        {
            "id": intent_id,
            "object": "setup_intent",
            "allowed_payment_method_types": None,
            "application": None,
            "attach_to_self": None,
            "automatic_payment_methods": None,
            "cancellation_reason": None,
            "client_secret": f"{intent_id}_secret_{world.ids.characters(24)}",
            "created": world.second(),
            "customer": customer,
            "customer_account": None,
            "description": None,
            "excluded_payment_method_types": None,
            "flow_directions": None,
            "last_setup_error": None,
            "latest_attempt": None,
            "livemode": livemode,
            "managed_payments": None,
            "mandate": None,
            "metadata": {},
            "next_action": None,
            "on_behalf_of": None,
            "payment_method": None,
            "payment_method_configuration_details": None,
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "single_use_mandate": None,
            "status": "requires_payment_method",
            "usage": "off_session",
            "_subscription": None,
            "_checkout": None,
            **fields,
        }
    )
    events.emit(world, "setup_intent.created", intent)
    return intent


def attempt(
    world: World, intent: Object, payment_method: str, *, authenticated: bool | None = None
) -> Outcome:
    """Try to keep a card. `authenticated` is what its owner told the bank, None nothing yet."""
    outcome = after_bank(save(payment_method), authenticated=authenticated)
    intent["payment_method"] = payment_method
    intent["next_action"] = None
    if outcome.status == "succeeded":
        intent["last_setup_error"] = None
        intent["status"] = "succeeded"
        events.emit(world, "setup_intent.succeeded", intent)
        _adopt(world, intent)
    elif outcome.status == "declined":
        intent["payment_method"] = None
        intent["last_setup_error"] = error_of(outcome, intent=SUBJECT)
        intent["status"] = "requires_payment_method"
        events.emit(world, "setup_intent.setup_failed", intent)
    else:
        intent["next_action"] = {"type": "use_stripe_sdk", "use_stripe_sdk": {}}
        intent["status"] = "requires_action"
        events.emit(world, "setup_intent.requires_action", intent)
    return outcome


def cancel(world: World, intent: Object, reason: str | None) -> None:
    intent["cancellation_reason"] = reason
    intent["next_action"] = None
    intent["status"] = "canceled"
    events.emit(world, "setup_intent.canceled", intent)


def _adopt(world: World, intent: Object) -> None:
    """Give the card to whoever the intent is for.

    It becomes the default of the subscription, which no longer waits for one, and of a customer
    who has none (inferred).
    """
    customer = world.customers.find(intent["customer"] or "")
    settings = (customer or {}).get("invoice_settings")
    if customer is not None and settings and settings["default_payment_method"] is None:
        set_default(world, customer, intent["payment_method"])
    subscription = world.subscriptions.find(intent["_subscription"] or "")
    if subscription is not None and subscription["pending_setup_intent"] == intent["id"]:
        before = copy.deepcopy(subscription)
        subscription["default_payment_method"] = intent["payment_method"]
        subscription["pending_setup_intent"] = None
        previous = events.changes(before, subscription)
        events.emit(world, "customer.subscription.updated", subscription, previous=previous)


def set_default(world: World, customer: Object, payment_method: str) -> None:
    """Make a card the one the customer's invoices are paid with."""
    before = copy.deepcopy(customer)
    customer["invoice_settings"]["default_payment_method"] = payment_method
    previous = events.changes(before, customer)
    if previous:
        events.emit(world, "customer.updated", customer, previous=previous)
