"""Which billing period an instant of a customer lies in, and which invoice bills its usage.

Read from what Stripe has told us so far; nobody is asked. Whether usage may still be sent into a
period is `periods`'.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from billing.invoices import DELETED
from billing.models import Customer, Invoice, PeriodBoundary, SubscriptionItem

NONE_YET = "none yet"
"""Our word where Stripe's would be, for a period whose invoice is not known."""


@dataclass(frozen=True, slots=True)
class Period:
    """The time between two boundaries of a customer; None where none is known."""

    start: datetime | None
    """Included."""
    end: datetime | None
    """Not included."""


@dataclass(frozen=True, slots=True)
class BilledOn:
    """The invoice that bills usage, with Stripe's word for its status; or why none is named."""

    invoice: str | None
    status: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Calendar:
    """One customer's boundaries, invoices and priced meters, as far as we know them."""

    is_at_stripe: bool = False
    boundaries: tuple[PeriodBoundary, ...] = ()
    invoices: tuple[Invoice, ...] = ()
    items: tuple[SubscriptionItem, ...] = ()

    def period(self, at: datetime) -> Period:
        """Return the period that `at` lies in; every boundary of the customer ends one."""
        index = bisect_right(self.boundaries, at, key=lambda boundary: boundary.at)
        return Period(
            start=self.boundaries[index - 1].at if index else None,
            end=self.boundaries[index].at if index < len(self.boundaries) else None,
        )

    def ended_since(self, at: datetime, *, now: datetime) -> list[PeriodBoundary]:
        """Return the boundaries after `at` that are past, earliest first."""
        return [boundary for boundary in self.boundaries if at < boundary.at <= now]

    def billed_on(self, at: datetime, *, meter_id: int, now: datetime) -> BilledOn:
        """Return the invoice on which usage of that instant and meter belongs."""
        pricing = {item.subscription_id for item in self.items if item.price.meter_id == meter_id}
        if not pricing:
            return BilledOn(None, NONE_YET, "No subscription of the customer prices this meter.")
        for invoice in self.invoices:
            start, end = invoice.period_start, invoice.period_end
            if (
                invoice.subscription_id in pricing
                and start is not None
                and end is not None
                and start <= at < end
            ):
                return BilledOn(invoice.stripe_invoice_id, invoice.status)
        end = self.period(at).end
        if end is None:
            return BilledOn(None, NONE_YET, "No end of its billing period is known yet.")
        stamp = f"{end:%Y-%m-%d %H:%M:%S} UTC"
        if end > now:
            return BilledOn(
                None, NONE_YET, f"Its period ends at {stamp}; Stripe makes the invoice then."
            )
        return BilledOn(
            None, NONE_YET, f"Its period ended at {stamp}; Stripe has told of no invoice for it."
        )


def calendars(customer_ids: Collection[int]) -> Mapping[int, Calendar]:
    """Return the calendar of each customer there is. Four queries, however many they are."""
    customers = Customer.objects.only("stripe_customer_id").in_bulk(set(customer_ids))
    ids = list(customers)
    boundaries: defaultdict[int, list[PeriodBoundary]] = defaultdict(list)
    for boundary in PeriodBoundary.objects.filter(customer_id__in=ids).order_by("at"):
        boundaries[boundary.customer_id].append(boundary)
    invoices: defaultdict[int, list[Invoice]] = defaultdict(list)
    known = Invoice.objects.filter(customer_id__in=ids, subscription__isnull=False)
    for invoice in known.exclude(status=DELETED).order_by("-created_at", "-pk"):
        invoices[invoice.customer_id].append(invoice)
    items: defaultdict[int, list[SubscriptionItem]] = defaultdict(list)
    for item in SubscriptionItem.objects.filter(
        subscription__customer_id__in=ids, price__meter__isnull=False
    ).select_related("price", "subscription"):
        items[item.subscription.customer_id].append(item)
    return {
        customer_id: Calendar(
            customer.stripe_customer_id is not None,
            tuple(boundaries[customer_id]),
            tuple(invoices[customer_id]),
            tuple(items[customer_id]),
        )
        for customer_id, customer in customers.items()
    }
