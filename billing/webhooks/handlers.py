"""What we do about subscriptions and invoices: ask Stripe how they are now, and write it down."""

from __future__ import annotations

from django.utils import timezone

from billing import invoices, steps, subscriptions
from billing.gateway import invoices as invoices_at_stripe
from billing.gateway import stamps
from billing.gateway import subscriptions as subscriptions_at_stripe
from billing.webhooks.inbox import Received


def subscription_changed(received: Received) -> bool:
    """Mirror a subscription that carries our stamp."""
    with steps.call("billing.subscriptions.retrieve"):
        state = subscriptions_at_stripe.retrieve(received.object_id)
    if state is None or not stamps.is_ours(state.metadata):
        return False
    subscriptions.mirror(state)
    return True


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
