"""Charging open invoices by ourselves, and trying again; one charge stands in `invoice_payments`.

Source: docs.stripe.com/billing/subscriptions/overview, docs.stripe.com/billing/revenue-recovery.
"""

from stripe_emulator.core.billing import invoice_payments, invoices, subscription_status
from stripe_emulator.core.billing.invoice_payments import foreseen, method_for
from stripe_emulator.core.billing.payment_methods import Outcome
from stripe_emulator.core.collection import Object
from stripe_emulator.core.settings import DAY_SECONDS
from stripe_emulator.core.world import World

AGENDA_KIND = "payment"


def collect(world: World, invoice: Object) -> None:
    """Ask for the payment of an invoice that advances by itself; renewals are off session."""
    if invoice["status"] != "open" or not invoice["auto_advance"]:
        return
    if invoice["collection_method"] == "charge_automatically":
        attempt(world, invoice, off_session=True)
    elif invoice["due_date"] is not None:
        world.agenda_for(invoice).add(invoice["due_date"], AGENDA_KIND, invoice["id"])


def attempt(world: World, invoice: Object, *, off_session: bool) -> Outcome:
    """Charge an open invoice once, as Stripe does by itself, and plan the next time if it fails."""
    method = method_for(world, invoice)
    if foreseen(method, off_session=off_session).status != "succeeded":
        invoice["_overdue"] = True
        _plan_next(world, invoice)
    outcome = invoice_payments.attempt(
        world, invoice, method, off_session=off_session, automatic=True
    )
    subscription = world.subscriptions.find(invoices.subscription_of(invoice) or "")
    if outcome.status == "succeeded" or subscription is None or _is_for(subscription, invoice):
        return outcome
    subscription_status.failed(world, subscription)
    if invoice["next_payment_attempt"] is None:
        subscription_status.retries_exhausted(world, subscription)
    return outcome


def fall_due(world: World, invoice: Object, at: int) -> None:
    """Try again, or note that an invoice that was sent is overdue."""
    if invoice["status"] != "open":
        return
    if invoice["next_payment_attempt"] == at:
        attempt(world, invoice, off_session=True)
    elif invoice["collection_method"] == "send_invoice" and invoice["due_date"] == at:
        subscription = world.subscriptions.find(invoices.subscription_of(invoice) or "")
        if subscription is not None:
            invoice["_overdue"] = True
            subscription_status.failed(world, subscription)


def _plan_next(world: World, invoice: Object) -> None:
    """Set the attempt after the one that fails now.

    A first invoice has no other, nor has one that a change waits for.
    """
    first = invoice.setdefault("_first_attempt_at", world.second_for(invoice))
    days = world.settings.payment_retry_days[invoice["attempt_count"] :]
    subscription = world.subscriptions.find(invoices.subscription_of(invoice) or "") or {}
    once = subscription.get("status") == "incomplete" or _is_for(subscription, invoice)
    invoice["next_payment_attempt"] = None
    if days and not once:
        at = invoice["next_payment_attempt"] = first + days[0] * DAY_SECONDS
        world.agenda_for(invoice).add(at, AGENDA_KIND, invoice["id"])


def _is_for(subscription: Object, invoice: Object) -> bool:
    """Tell whether a change or a resumption of the subscription waits for this payment."""
    waiting = (subscription.get("_held"), subscription.get("_resumption"))
    return any(each is not None and each["invoice"] == invoice["id"] for each in waiting)
