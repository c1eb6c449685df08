"""Invoices at Stripe."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.utils import timezone

from billing.gateway.client import connection
from billing.gateway.errors import Rejected, sorted_errors
from billing.gateway.values import InvoiceState


def retrieve(invoice_id: str) -> InvoiceState | None:
    """Return an invoice as it is now; None for one Stripe does not know: a deleted draft."""
    asked_at = timezone.now()
    try:
        with sorted_errors():
            invoice = connection().v1.invoices.retrieve(invoice_id)
    except Rejected as refusal:
        if refusal.code == "resource_missing":
            return None
        raise
    details = invoice.parent.subscription_details if invoice.parent is not None else None
    metadata = details.metadata if details is not None else None
    finalizes_at = invoice.automatically_finalizes_at
    return InvoiceState(
        id=invoice.id,
        customer_id=_id(invoice.customer),
        subscription_id=_id(details.subscription) if details is not None else "",
        subscription_metadata=metadata.to_dict() if metadata is not None else {},
        status=invoice.status or "",
        currency=invoice.currency,
        total=invoice.total,
        automatically_finalizes_at=(
            None if finalizes_at is None else datetime.fromtimestamp(finalizes_at, UTC)
        ),
        created_at=datetime.fromtimestamp(invoice.created, UTC),
        asked_at=asked_at,
    )


def _id(reference: Any) -> str:
    """Return the id of what may have come expanded, or not at all."""
    if reference is None:
        return ""
    return reference if isinstance(reference, str) else str(reference.id)
