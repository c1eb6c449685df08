"""Subscriptions at Stripe. Periods stand on the items; a subscription itself has none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import stripe
from django.utils import timezone

from billing.gateway import stamps
from billing.gateway.client import connection
from billing.gateway.errors import Rejected, sorted_errors
from billing.gateway.values import ItemPeriod, SubscriptionState

SECRETS = ["latest_invoice.confirmation_secret", "pending_setup_intent"]
"""What a page of ours needs to collect a card; only there when expanded."""
PER_PAGE = 100


def create(
    *,
    key: str,
    customer_id: str,
    licensed_price_ids: Sequence[str],
    metered_price_ids: Sequence[str],
    idempotency_key: str,
) -> SubscriptionState:
    """Create the subscription our row `key` stands for.

    With a licensed price its first invoice is due now, and the subscription stays `incomplete`
    until that is paid with `payment_secret`. With metered prices only nothing is due: it is active
    at once, and `setup_secret` collects a card for the first period's end.

    Raises:
        GatewayError: of the four families; after `Unavailable` it may exist, so `find` it first.
    """
    items: list[dict[str, Any]] = [
        *({"price": price_id, "quantity": 1} for price_id in licensed_price_ids),
        # Stripe refuses a quantity on a metered item, 0 and 1 alike.
        *({"price": price_id} for price_id in metered_price_ids),
    ]
    params: dict[str, Any] = {
        "customer": customer_id,
        "items": items,
        "billing_mode": {"type": "flexible"},
        "payment_settings": {"save_default_payment_method": "on_subscription"},
        "metadata": stamps.stamped(subscription=key),
        "expand": SECRETS,
    }
    if licensed_price_ids:
        params["payment_behavior"] = "default_incomplete"
    asked_at = timezone.now()
    with sorted_errors():
        answer = connection().v1.subscriptions.create(
            params,  # type: ignore[arg-type]  # built above
            {"idempotency_key": idempotency_key},
        )
        return _state(answer, asked_at)


def retrieve(subscription_id: str) -> SubscriptionState | None:
    """Return a subscription as it is now, ended ones too; None for an id Stripe does not know."""
    asked_at = timezone.now()
    try:
        with sorted_errors():
            answer = connection().v1.subscriptions.retrieve(subscription_id, {"expand": SECRETS})
            return _state(answer, asked_at)
    except Rejected as refusal:
        if refusal.code == "resource_missing":
            return None
        raise


def find(*, key: str, customer_id: str) -> SubscriptionState | None:
    """Return the subscription made for our row `key`, ended or not, if there is one."""
    asked_at = timezone.now()
    with sorted_errors():
        page = connection().v1.subscriptions.list(
            {
                "customer": customer_id,
                "status": "all",
                "limit": PER_PAGE,
                "expand": [f"data.{path}" for path in SECRETS],
            }
        )
        for subscription in page.auto_paging_iter():
            metadata = subscription.metadata.to_dict()
            if stamps.is_ours(metadata) and metadata.get(stamps.SUBSCRIPTION) == key:
                return _state(subscription, asked_at)
    return None


def _state(subscription: stripe.Subscription, asked_at: datetime) -> SubscriptionState:
    items = tuple(
        ItemPeriod(
            id=item.id,
            price_id=item.price.id,
            meter_id=(item.price.recurring and item.price.recurring.meter) or "",
            quantity=_quantity(item),
            start=datetime.fromtimestamp(item.current_period_start, UTC),
            end=datetime.fromtimestamp(item.current_period_end, UTC),
        )
        for item in subscription["items"].data
    )
    cancel_at = _moment(subscription.cancel_at)
    if cancel_at is None and subscription.cancel_at_period_end and items:
        cancel_at = max(item.end for item in items)
    return SubscriptionState(
        id=subscription.id,
        customer_id=_id(subscription.customer),
        status=subscription.status,
        metadata=subscription.metadata.to_dict(),
        items=items,
        billing_anchor=datetime.fromtimestamp(subscription.billing_cycle_anchor, UTC),
        cancel_at=cancel_at,
        ended_at=_moment(subscription.ended_at),
        setup_secret=_setup_secret(subscription),
        payment_secret=_payment_secret(subscription),
        asked_at=asked_at,
    )


def _quantity(item: stripe.SubscriptionItem) -> int:
    # A metered item does not have the field at all.
    return 1 if (quantity := getattr(item, "quantity", None)) is None else int(quantity)


def _setup_secret(subscription: stripe.Subscription) -> str:
    intent = subscription.pending_setup_intent
    return (intent.client_secret or "") if isinstance(intent, stripe.SetupIntent) else ""


def _payment_secret(subscription: stripe.Subscription) -> str:
    invoice = subscription.latest_invoice
    if not isinstance(invoice, stripe.Invoice) or invoice.status != "open":
        return ""
    secret = invoice.confirmation_secret
    return secret.client_secret if secret is not None else ""


def _id(reference: Any) -> str:
    """Return the id of what may have come expanded."""
    return reference if isinstance(reference, str) else str(reference.id)


def _moment(second: int | None) -> datetime | None:
    return None if second is None else datetime.fromtimestamp(second, UTC)
