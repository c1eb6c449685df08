"""Ends of billing periods: whether the invoice of what ended there still takes usage.

Cells are cut at boundaries by usage, which also decides what becomes of usage that is too late.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from billing import steps
from billing.gateway import invoices as at_stripe
from billing.gateway.errors import GatewayError, Misconfigured, NotAccepted, Unavailable
from billing.gateway.values import InvoiceState
from billing.models import Customer, Invoice, PeriodBoundary

log = structlog.get_logger(__name__)

UNASKED = timedelta(minutes=30)
"""How long after a period's end its usage may be sent without asking.

Stripe keeps the draft of a period for about an hour before it is final, whatever the account's
settings. Source: its guide to subscription invoices; the grace period can only make it longer.
"""
DRAFT_KNOWN_FOR = timedelta(minutes=10)
"""How long an answer that it is a draft is relied upon: somebody may finalize it by hand."""
BEFORE_FINAL = timedelta(minutes=5)
"""Nothing is begun so shortly before Stripe means to finalize it, or it might arrive too late."""
NO_INVOICE_KNOWN_FOR = timedelta(minutes=50)
"""How long "no period was billed there" is relied upon: a draft made since then is still one."""
INVOICE_SLACK = timedelta(hours=1)
"""Invoices are looked for from a little before the boundary on."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What asking found, in boundaries. `failed_count`: in customers Stripe gave no answer for."""

    closed_count: int = 0
    open_count: int = 0
    failed_count: int = 0


def is_final(*, customer_id: int, timestamp: datetime, now: datetime) -> bool:
    """Return whether usage of that instant is of a period whose invoice is known to be final.

    False of an invoice nobody asked about yet: what is to be sent waits until somebody did.
    """
    return PeriodBoundary.objects.filter(
        customer_id=customer_id, at__gt=timestamp, at__lte=now, closed_at__isnull=False
    ).exists()


def note(customer: Customer, state: InvoiceState) -> None:
    """Write down what an invoice, as Stripe has just told it, says of the periods it ends.

    A final one closes them for good. A draft keeps them open for a while, but no longer than any
    other draft of the same boundary. Takes part in the caller's transaction.
    """
    boundaries = PeriodBoundary.objects.filter(
        customer=customer, at__in=state.ended_periods, closed_at=None
    )
    if state.is_final:
        boundaries.update(closed_at=state.asked_at, asked_at=state.asked_at)
        return
    for boundary in boundaries:
        others = Invoice.objects.filter(
            customer=customer, period_end=boundary.at, status="draft"
        ).exclude(stripe_invoice_id=state.id)
        finalize_at = others.values_list("automatically_finalizes_at", flat=True)
        boundary.open_until = _open_until(
            [state.automatically_finalizes_at, *finalize_at], now=state.asked_at
        )
        boundary.asked_at = state.asked_at
        boundary.save(update_fields=["open_until", "asked_at"])


def refresh(waiting: Sequence[int], *, now: datetime, seconds: float) -> Refreshed:
    """Ask Stripe about boundaries somebody waits for, given by their ids; write the answers down.

    Costs one call per customer, and none is begun after `seconds`. Ends at the first customer for
    whom Stripe is silent, busy or refuses our key; what it refuses for a single customer leaves
    that one's boundaries as they are, so that nothing is sent. A repetition asks again.
    """
    ends = time.monotonic() + seconds
    by_customer: defaultdict[int, list[PeriodBoundary]] = defaultdict(list)
    for boundary in PeriodBoundary.objects.filter(
        pk__in=waiting, closed_at=None, at__lte=now, customer__stripe_customer_id__isnull=False
    ).select_related("customer"):
        by_customer[boundary.customer_id].append(boundary)
    closed = still_open = failed = 0
    for boundaries in by_customer.values():
        if time.monotonic() >= ends:
            break
        try:
            found = _asked(boundaries)
        except GatewayError as error:
            failed += 1
            log.warning(
                "billing.periods.not_told",
                customer=boundaries[0].customer.external_id,
                error=error.message,
            )
            if isinstance(error, Unavailable | NotAccepted | Misconfigured):
                break
            continue
        with steps.commit("billing.periods.note"):
            for boundary in boundaries:
                invoices = [state for state in found if boundary.at in state.ended_periods]
                _write(boundary, invoices, now=now)
                is_closed = any(state.is_final for state in invoices)
                closed += is_closed
                still_open += not is_closed
    return Refreshed(closed, still_open, failed)


def _asked(boundaries: Sequence[PeriodBoundary]) -> list[InvoiceState]:
    since = min(boundary.at for boundary in boundaries) - INVOICE_SLACK
    customer_id = boundaries[0].customer.stripe_customer_id
    if customer_id is None:
        raise ValueError(f"{boundaries[0].customer} is not at Stripe")
    with steps.call("billing.periods.ask"):
        return at_stripe.of_customer(customer_id, created_since=since)


def _write(boundary: PeriodBoundary, invoices: Sequence[InvoiceState], *, now: datetime) -> None:
    # What is closed stays closed: a webhook may have told so since Stripe was asked.
    row = PeriodBoundary.objects.filter(pk=boundary.pk, closed_at=None)
    if any(state.is_final for state in invoices):
        row.update(closed_at=now, asked_at=now)
    elif invoices:
        finalize_at = [state.automatically_finalizes_at for state in invoices]
        row.update(open_until=_open_until(finalize_at, now=now), asked_at=now)
    else:
        # A subscription's start, or an end without anything to bill.
        row.update(open_until=now + NO_INVOICE_KNOWN_FOR, asked_at=now)


def _open_until(finalize_at: Iterable[datetime | None], *, now: datetime) -> datetime:
    """Return until when drafts that finalize then, or whenever somebody does it, are relied on."""
    known = [at - BEFORE_FINAL for at in finalize_at if at is not None]
    return min([now + DRAFT_KNOWN_FOR, *known])
