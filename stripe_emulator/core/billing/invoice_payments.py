"""Paying an invoice with a payment method, and what comes of it."""

from stripe_emulator.core import events
from stripe_emulator.core.billing import invoices
from stripe_emulator.core.billing.declines import card_error
from stripe_emulator.core.billing.payment_methods import Outcome, after_bank, charge
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import ApiError
from stripe_emulator.core.world import World

AUTHENTICATE = "authentication_required"
NO_METHOD = Outcome("declined")


def method_for(world: World, invoice: Object) -> str | None:
    """Return what an invoice is paid with: its own method, its subscription's, the customer's."""
    subscription = world.subscriptions.find(invoices.subscription_of(invoice) or "") or {}
    return invoice["default_payment_method"] or method_of(world, subscription, invoice["customer"])


def method_of(world: World, subscription: Object, customer_id: str) -> str | None:
    """Return what a subscription is paid with: its own method, or its customer's."""
    customer = world.customers.find(customer_id) or {}
    own: str | None = subscription.get("default_payment_method")
    return own or (customer.get("invoice_settings") or {}).get("default_payment_method")


def foreseen(method: str | None, *, off_session: bool) -> Outcome:
    """Return how charging would end; without a payment method it is declined."""
    return charge(method, off_session=off_session) if method else NO_METHOD


def attempt(  # noqa: PLR0913  what a payment depends on
    world: World,
    invoice: Object,
    method: str | None,
    *,
    off_session: bool,
    automatic: bool,
    authenticated: bool | None = None,
) -> Outcome:
    """Charge an open invoice: it is paid, or stays as it was with one attempt more.

    Of attempts that a person makes only the first one counts. An authentication that is asked for
    is told of as a failure and as an action to take.
    `authenticated` is what the person told their bank, None nothing yet.
    Source: stripe-python, `Invoice.attempt_count`; docs.stripe.com, subscription webhooks.
    """
    outcome = after_bank(foreseen(method, off_session=off_session), authenticated=authenticated)
    invoice["attempted"] = True
    if automatic or invoice["attempt_count"] == 0:
        invoice["attempt_count"] += 1
    if outcome.status == "succeeded":
        invoices.settle(world, invoice)
        return outcome
    events.emit(world, "invoice.payment_failed", invoice)
    if outcome.status == "requires_action" or outcome.decline_code == AUTHENTICATE:
        events.emit(world, "invoice.payment_action_required", invoice)
    return outcome


def refusal(outcome: Outcome) -> ApiError:
    """Return the 402 a caller gets for a payment that did not succeed."""
    if outcome.status == "requires_action":
        return ApiError(
            402,
            "This payment requires additional user action before it can be completed "
            "successfully. Payment can be completed using the PaymentIntent associated with the "
            "invoice.",
            type="card_error",
            code="invoice_payment_intent_requires_action",
        )
    return card_error(outcome)
