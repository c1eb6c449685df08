"""What we do about customers, subscriptions and invoices: ask Stripe how they are, and note it."""

from __future__ import annotations

from django.utils import timezone

from billing import customers, invoices, steps, subscriptions
from billing.gateway import customers as customers_at_stripe
from billing.gateway import invoices as invoices_at_stripe
from billing.gateway import stamps
from billing.gateway import subscriptions as subscriptions_at_stripe
from billing.models import Customer
from billing.webhooks.inbox import Received


def subscription_changed(received: Received) -> bool:
    """Mirror a subscription that carries our stamp."""
    with steps.call("billing.subscriptions.retrieve"):
        state = subscriptions_at_stripe.retrieve(received.object_id)
    if state is None or not stamps.is_ours(state.metadata):
        return False
    subscriptions.mirror(state)
    return True


def customer_deleted(received: Received) -> bool:
    """Write down that a customer of ours is gone at Stripe."""
    if not Customer.objects.filter(stripe_customer_id=received.object_id).exists():
        return False
    with steps.call("billing.customers.retrieve"):
        is_deleted = customers_at_stripe.is_deleted(received.object_id)
    if is_deleted:
        customers.note_deleted(received.object_id)
    return is_deleted


def invoice_changed(received: Received) -> bool:
    """Mirror an invoice of a customer of ours. An upcoming one has no id and is no invoice yet."""
    if not received.object_id:
        return False
    asked_at = timezone.now()
    with steps.call("billing.invoices.retrieve"):
        state = invoices_at_stripe.retrieve(received.object_id)
    if state is None:
        return invoices.mark_deleted(received.object_id, now=asked_at)
    return invoices.mirror(state)
