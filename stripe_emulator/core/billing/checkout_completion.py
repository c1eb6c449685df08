"""A person completes a Checkout session: a card is tried, and what was sold is made.

The subscription is made by the same code as by `POST /v1/subscriptions`.
"""

import re
from typing import Any

from stripe_emulator.core import customers, events
from stripe_emulator.core.billing import (
    checkout_lines,
    invoices,
    payments,
    setup_intents,
    subscriptions,
)
from stripe_emulator.core.billing.checkout_shape import details
from stripe_emulator.core.billing.payment_methods import PAYS, Outcome, after_bank, charge, save
from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import ApiError
from stripe_emulator.core.faults import Faults
from stripe_emulator.core.world import World

ADDRESS = re.compile(r"[^@\s]+@[^@\s]+")
MAX_EMAIL = 512
"""Characters of an address a customer takes."""


class CannotCompleteError(ValueError):
    """What a person must hear before the session can be completed, in a sentence."""


def complete(
    world: World,
    session: Object,
    payment_method: str | None = None,
    *,
    email: str | None = None,
    authenticated: bool | None = None,
) -> Outcome:
    """Complete an open session, unless its card is declined or its bank asks first.

    `email` is asked for when nothing is known of the customer, `authenticated` is what the person
    told the bank. A second completion changes nothing and succeeds.
    """
    if session["status"] == "complete":
        return PAYS
    if session["status"] == "expired":
        raise CannotCompleteError("This session has expired.")
    try:
        return _complete(world, session, payment_method, email, authenticated=authenticated)
    except ApiError as error:
        raise CannotCompleteError(error.message) from error


def wants_card(session: Object) -> bool:
    """Tell whether a card is asked for: not when nothing is due and the caller wants none."""
    spared = session["payment_method_collection"] == "if_required"
    return not spared or bool(session["amount_total"])


def wants_email(world: World, session: Object) -> bool:
    """Tell whether a person is asked for their address."""
    customer = world.customers.find(session["customer"] or "") or {}
    makes_nobody = session["mode"] == "setup" and session["customer_creation"] != "always"
    return not (customer.get("email") or session["customer_email"] or makes_nobody)


def _complete(
    world: World,
    session: Object,
    payment_method: str | None,
    email: str | None,
    *,
    authenticated: bool | None,
) -> Outcome:
    email = (email or "").strip()
    known = len(email) <= MAX_EMAIL and email.isprintable() and ADDRESS.fullmatch(email)
    if wants_email(world, session) and not known:
        raise CannotCompleteError("Enter your e-mail address.")
    if not wants_card(session):
        payment_method = None
    elif not payment_method:
        raise CannotCompleteError("Choose a card.")
    if session["mode"] == "subscription":
        _check(world, session)
    outcome = _tried(session, payment_method, authenticated=authenticated)
    if outcome.status == "succeeded":
        _settle_customer(world, session, email or None)
    if session["mode"] == "setup" and payment_method is not None:
        intent = world.setup_intents.get(session["setup_intent"], livemode=session["livemode"])
        intent["customer"] = session["customer"]
        setup_intents.attempt(world, intent, payment_method, authenticated=authenticated)
    elif outcome.status == "succeeded":
        _subscribe(world, session, payment_method)
    if outcome.status == "succeeded":
        session["status"] = "complete"
        session["url"] = None
        events.emit(world, "checkout.session.completed", session)
    return outcome


def _tried(session: Object, payment_method: str | None, *, authenticated: bool | None) -> Outcome:
    if payment_method is None:
        return PAYS
    outcome = (
        charge(payment_method, off_session=False)
        if session["amount_total"]
        else save(payment_method)
    )
    return after_bank(outcome, authenticated=authenticated)


def _check(world: World, session: Object) -> None:
    """Refuse what could no longer be sold, before anything is made."""
    data = session["_subscription_data"]
    call = _call(world, session, "/v1/subscriptions")
    items = [checkout_lines.as_item(line) for line in session["_line_items"]["data"]]
    mode = (data.get("billing_mode") or {}).get("type", "flexible")
    checkout_lines.prices_of(call, items, mode)
    if session["customer"] is not None:
        customers.find(call, session["customer"])


def _settle_customer(world: World, session: Object, email: str | None) -> None:
    """Make the customer who is still missing, or give the known one the address it lacks."""
    customer: Any = world.customers.find(session["customer"] or "")
    email = session["customer_email"] or email
    if customer is not None:
        if email and not customer["email"]:
            call = _call(world, session, "/v1/customers/{id}", {"email": email})
            call.path["id"] = customer["id"]
            customers.update(call)
        email = customer["email"]
    elif session["mode"] == "subscription" or session["customer_creation"] == "always":
        customer = customers.create(_call(world, session, "/v1/customers", {"email": email}))
        session["customer"] = customer["id"]
    session["customer_details"] = details(email, customer["name"] if customer else None)


def _subscribe(world: World, session: Object, payment_method: str | None) -> None:
    """Make the subscription, and pay its first invoice with the card that was just charged.

    `default_incomplete` leaves that invoice open, so that the card is not asked a second time.
    """
    params = {
        **session["_subscription_data"],
        "customer": session["customer"],
        "items": [checkout_lines.as_item(line) for line in session["_line_items"]["data"]],
        "payment_behavior": "default_incomplete",
    }
    if payment_method is not None:
        params["default_payment_method"] = payment_method
    subscription: Any = subscriptions.create(_call(world, session, "/v1/subscriptions", params))
    invoice = world.invoices.find(subscription["latest_invoice"] or "")
    if invoice is not None and invoice["status"] == "open":
        _pay(world, session, invoice)
    session["subscription"] = subscription["id"]
    session["invoice"] = subscription["latest_invoice"]
    if session["payment_status"] == "unpaid":
        session["payment_status"] = "paid"


def _pay(world: World, session: Object, invoice: Object) -> None:
    """Pay the first invoice. Its card was charged just now, unless nothing sold was due.

    Then something else waited for an invoice, and the card is charged for it as any card is.
    """
    if session["amount_total"]:
        invoices.settle(world, invoice)
    else:
        payments.attempt(world, invoice, off_session=False)


def _call(world: World, session: Object, url: str, params: Object | None = None) -> Call:
    """Return a call such as the API's, made by a person at a page."""
    return Call(world, params or {}, {}, session["livemode"], url, Faults())
