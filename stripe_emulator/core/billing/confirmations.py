"""What a person does in a browser with a client secret, as Stripe.js does it for them.

A setup intent is confirmed, or an open invoice is paid; the person is there, so a bank can ask.
"""

import copy

from stripe_emulator.core import events
from stripe_emulator.core.billing import invoice_payments, invoices, setup_intents
from stripe_emulator.core.billing.declines import told
from stripe_emulator.core.billing.payment_methods import Outcome
from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World


class CannotConfirmError(ValueError):
    """Nothing waits for this, in a sentence."""


def confirm(
    world: World,
    client_secret: str,
    payment_method: str | None = None,
    *,
    authenticated: bool | None = None,
) -> Object:
    """Try a card on what the secret belongs to; without one, on the card that waits for its bank.

    `authenticated` is what the person told the bank; None leaves the question open.
    """
    intent = world.setup_intents.find(client_secret.partition("_secret_")[0])
    if intent is not None and intent["client_secret"] == client_secret:
        outcome = _keep(world, intent, payment_method, authenticated=authenticated)
        return told(intent, outcome)
    for invoice in world.invoices:
        if (invoice["_confirmation_secret"] or {}).get("client_secret") == client_secret:
            outcome = _pay(world, invoice, payment_method, authenticated=authenticated)
            return told(invoice, outcome)
    raise CannotConfirmError("No setup intent or invoice has this client secret.")


def _keep(
    world: World, intent: Object, payment_method: str | None, *, authenticated: bool | None
) -> Outcome:
    if intent["status"] not in setup_intents.OPEN or intent["_checkout"]:
        raise CannotConfirmError(f"The setup intent {intent['id']} cannot be confirmed this way.")
    payment_method = payment_method or intent["payment_method"]
    if payment_method is None:
        raise CannotConfirmError("No payment_method was given, and none waits for its bank.")
    return setup_intents.attempt(world, intent, payment_method, authenticated=authenticated)


def _pay(
    world: World, invoice: Object, payment_method: str | None, *, authenticated: bool | None
) -> Outcome:
    """Pay an open invoice with the person present."""
    if invoice["status"] != "open":
        raise CannotConfirmError(f"The invoice {invoice['id']} is {invoice['status']}, not open.")
    payment_method = payment_method or invoice.get("_asking_bank")
    if payment_method is None:
        raise CannotConfirmError("No payment_method was given, and none waits for its bank.")
    outcome = invoice_payments.attempt(
        world,
        invoice,
        payment_method,
        off_session=False,
        automatic=False,
        authenticated=authenticated,
    )
    invoice["_asking_bank"] = payment_method if outcome.status == "requires_action" else None
    if outcome.status == "succeeded":
        _adopt(world, invoice, payment_method)
    return outcome


def _adopt(world: World, invoice: Object, payment_method: str) -> None:
    """Make the card the subscription's, when it was made with that wish."""
    subscription = world.subscriptions.find(invoices.subscription_of(invoice) or "")
    if subscription is None:
        return
    if subscription["payment_settings"]["save_default_payment_method"] == "on_subscription":
        before = copy.deepcopy(subscription)
        subscription["default_payment_method"] = payment_method
        previous = events.changes(before, subscription)
        if previous:
            events.emit(world, "customer.subscription.updated", subscription, previous=previous)
