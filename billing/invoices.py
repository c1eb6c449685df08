"""Invoices: keeping the facts we decide on as Stripe tells them."""

from __future__ import annotations

from datetime import datetime

from billing import periods, steps
from billing.gateway import stamps
from billing.gateway.values import InvoiceState
from billing.models import Customer, Invoice, Subscription

DELETED = "deleted"
"""Our word for a draft that is gone; Stripe has none."""


class UnknownCustomer(Exception):
    """An invoice is for a subscription of ours, but its customer is not stored yet."""


def mirror(state: InvoiceState) -> bool:
    """Write down what Stripe said of an invoice; return whether it concerns a customer of ours.

    So is what it says of the billing periods it ends. Of two answers the one asked for later
    stands, whichever arrives last.

    Raises:
        UnknownCustomer: it is ours by its subscription's stamp, but the customer's Stripe id has
            not been stored yet; later it will be.
    """
    with steps.commit("billing.invoices.mirror"):
        # The lock makes two answers about one invoice take turns, its first included.
        customer = (
            Customer.objects.select_for_update()
            .filter(stripe_customer_id=state.customer_id)
            .first()
        )
        if customer is None:
            if stamps.is_ours(state.subscription_metadata):
                raise UnknownCustomer(f"No customer here has Stripe's id {state.customer_id} yet.")
            return False
        known = Invoice.objects.filter(stripe_invoice_id=state.id)
        if known.filter(mirrored_at__gt=state.asked_at).exists():
            return True
        Invoice.objects.update_or_create(
            stripe_invoice_id=state.id,
            defaults={
                "customer": customer,
                "subscription": _subscription(state.subscription_id),
                "status": state.status,
                "currency": state.currency,
                "total": state.total,
                "period_start": state.period_start,
                "period_end": state.period_end,
                "automatically_finalizes_at": state.automatically_finalizes_at,
                "finalized_at": state.finalized_at,
                "created_at": state.created_at,
                "mirrored_at": state.asked_at,
            },
        )
        periods.note(customer, state)
        return True


def mark_deleted(stripe_invoice_id: str, *, now: datetime) -> bool:
    """Note that Stripe no longer has an invoice; return whether we knew it."""
    known = Invoice.objects.filter(stripe_invoice_id=stripe_invoice_id)
    with steps.commit("billing.invoices.mark_deleted"):
        return known.update(status=DELETED, mirrored_at=now) > 0


def _subscription(stripe_subscription_id: str) -> Subscription | None:
    if not stripe_subscription_id:
        return None
    return Subscription.objects.filter(stripe_subscription_id=stripe_subscription_id).first()
