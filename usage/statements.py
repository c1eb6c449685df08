"""Statements: our books with Stripe's own totals beside them, and whether the two may differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from types import MappingProxyType

from django.db.models import Max, Min

from billing import steps
from billing.enums import Aggregation
from billing.gateway import meter_events
from usage.lifecycle import State
from usage.models import Submission
from usage.queries import Books, MeterBooks, books

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Statement:
    """Our books, and Stripe's total of each meter by its id; None when Stripe was not asked."""

    books: Books
    stripe: Mapping[int, Decimal] | None

    def stripe_total(self, meter: MeterBooks) -> Decimal | None:
        """Stripe's total of a meter, 0 where it was asked and we never sent it anything."""
        return None if self.stripe is None else self.stripe.get(meter.meter_id, Decimal(0))

    def is_overbilled(self, meter: MeterBooks) -> bool:
        """Whether Stripe has counted more than was ever recorded (I8).

        Usage taken back may still be counted there, until its negative has arrived.
        """
        total = self.stripe_total(meter)
        return total is not None and total > meter.recorded + meter.voided

    def is_meter_balanced(self, meter: MeterBooks) -> bool:
        """Whether a meter's equation holds, which it must at any moment."""
        return meter.is_conserved and not self.is_overbilled(meter)

    def is_meter_at_rest(self, meter: MeterBooks) -> bool:
        """Whether all that was recorded is settled or credited, and is what Stripe has."""
        proven = meter.states[State.SETTLED] + meter.credited
        return meter.is_conserved and meter.recorded == proven == self.stripe_total(meter)

    @property
    def is_balanced(self) -> bool:
        """Whether every meter's equation holds."""
        return all(self.is_meter_balanced(meter) for meter in self.books.meters)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is left to do for any meter. Not known without asking Stripe."""
        return all(self.is_meter_at_rest(meter) for meter in self.books.meters)


def statement(*, customer: str | None = None, with_stripe: bool = True) -> Statement:
    """Read Stripe, then our books, for all customers or one (by external id).

    In that order, because usage flows on while both are read: what Stripe has by the end of the
    first read was recorded before the second, so a larger total at Stripe is never just a race.
    Costs one call per customer and meter with usage, more when it spans above 100 days.

    Raises:
        GatewayError: Stripe could not be read.
    """
    totals = _stripe_totals(customer) if with_stripe else None
    return Statement(books=books(customer=customer), stripe=totals)


def _stripe_totals(customer: str | None) -> Mapping[int, Decimal]:
    """Return Stripe's total of each meter over the UTC days in which we have submissions."""
    submissions = Submission.objects.filter(
        # The last values of the others are no totals, and the books leave them out.
        meter__stripe_meter_id__isnull=False,
        meter__aggregation__in=(Aggregation.SUM, Aggregation.COUNT),
    )
    if customer is not None:
        submissions = submissions.filter(customer__external_id=customer)
    spans = (
        submissions.order_by("meter_id", "stripe_customer_id")
        .values_list("meter_id", "meter__stripe_meter_id", "stripe_customer_id")
        .annotate(first=Min("window_start"), last=Max("window_start"))
    )
    totals: defaultdict[int, Decimal] = defaultdict(Decimal)
    for meter_id, stripe_meter_id, stripe_customer_id, first, last in spans:
        # Day by day rather than one figure, so that each stays well inside a float's exact range.
        with steps.call("usage.statements.summaries"):
            for summary in meter_events.summaries(
                meter_id=stripe_meter_id,
                customer_id=stripe_customer_id,
                start=_day(first),
                end=_day(last) + DAY,
                window="day",
            ):
                totals[meter_id] += summary.value
    return MappingProxyType(totals)


def _day(instant: datetime) -> datetime:
    return instant.replace(hour=0, minute=0, second=0, microsecond=0)
