"""Invoices at Stripe."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import stripe
from django.utils import timezone

from billing.gateway.client import connection
from billing.gateway.errors import Rejected, sorted_errors
from billing.gateway.values import InvoiceState

PER_PAGE = 100
CYCLE = "subscription_cycle"
"""Stripe's reason for an invoice made at the end of a billing period."""


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
    return _state(invoice, asked_at)


def of_customer(customer_id: str, *, created_since: datetime) -> list[InvoiceState]:
    """Return a customer's invoices made since an instant, that included, newest first.

    Raises:
        GatewayError: of the four families.
    """
    asked_at = timezone.now()
    with sorted_errors():
        page = connection().v1.invoices.list(
            {
                "customer": customer_id,
                "created": {"gte": int(created_since.timestamp())},
                "limit": PER_PAGE,
            }
        )
        return [_state(invoice, asked_at) for invoice in page.auto_paging_iter()]


def _state(invoice: stripe.Invoice, asked_at: datetime) -> InvoiceState:
    details = invoice.parent.subscription_details if invoice.parent is not None else None
    metadata = details.metadata if details is not None else None
    return InvoiceState(
        id=str(invoice.id),
        customer_id=_id(invoice.customer),
        subscription_id=_id(details.subscription) if details is not None else "",
        subscription_metadata=metadata.to_dict() if metadata is not None else {},
        status=invoice.status or "",
        currency=invoice.currency,
        total=invoice.total,
        period_start=_instant(invoice.period_start),
        period_end=_instant(invoice.period_end),
        ended_periods=_ended_periods(invoice),
        automatically_finalizes_at=_moment(invoice.automatically_finalizes_at),
        finalized_at=_moment(invoice.status_transitions.finalized_at),
        created_at=_instant(invoice.created),
        asked_at=asked_at,
    )


def _ended_periods(invoice: stripe.Invoice) -> tuple[datetime, ...]:
    """Return the ends of the periods it bills in arrears.

    Service periods stand on the lines, since an invoice's own period is another one; a line whose
    period was not over when the invoice was made is charged ahead and ends nothing. The invoice's
    own end counts on a cycle invoice, too: what comes with it is its first ten lines only.
    Source: Stripe's API, `period_end` of an invoice and `period` of a line.
    """
    ends = {line.period.end for line in invoice.lines.data if line.period.end <= invoice.created}
    if invoice.billing_reason == CYCLE:
        ends.add(invoice.period_end)
    return tuple(_instant(end) for end in sorted(ends))


def _id(reference: Any) -> str:
    """Return the id of what may have come expanded, or not at all."""
    if reference is None:
        return ""
    return reference if isinstance(reference, str) else str(reference.id)


def _instant(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


def _moment(second: int | None) -> datetime | None:
    return None if second is None else _instant(second)
