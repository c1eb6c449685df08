"""Cost to date: what a customer's next invoices come to by now, from our own books.

Usage counts as soon as its report was answered, and exactly to the edges of each period. It is
charged by `billing.charges` at the price in force when it occurred. As in Stripe's preview, base
fees are those of the next period. Credits, discounts, taxes, prorations and items put on an invoice
by hand are Stripe's and not in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.utils import timezone

from billing import charges
from billing.billing_periods import next_end
from billing.charges import EXACT, Part
from billing.enums import Aggregation, PriceKind
from billing.item_prices import prices_between
from billing.models import (
    Customer,
    ItemPrice,
    Meter,
    PeriodBoundary,
    Price,
    Subscription,
    SubscriptionItem,
)
from billing.subscriptions import CREATING, ENDED
from usage.held_shares import HeldShare, held_shares
from usage.models import RunningValue
from usage.questions import Question, answer

UNBILLED = frozenset({*ENDED, CREATING, "paused"})
"""Words for a subscription without a next invoice. Source: Stripe's guide to subscriptions."""
TRIALING = "trialing"


@dataclass(frozen=True, slots=True)
class Line:
    """What one price charges for a stretch of time, start included, end not.

    `quantity` is exact, in the meter's unit; of a base fee it is how many. `parts` are the lines it
    makes on the invoice, in the meter's smallest unit; `amount` is in minor units. `period_end` is
    None for a base fee whose subscription Stripe was not asked about since we keep its anchor.
    """

    price: Price
    quantity: Decimal
    period_start: datetime
    period_end: datetime | None
    parts: tuple[Part, ...]

    @property
    def amount(self) -> int:
        return sum(part.amount for part in self.parts)


@dataclass(frozen=True, slots=True)
class SubscriptionCost:
    """The next invoice of one subscription, made at `invoiced_at`, as it would be now."""

    subscription: Subscription
    currency: str
    period_start: datetime
    invoiced_at: datetime
    lines: tuple[Line, ...]

    @property
    def total(self) -> int:
        """Return minor units."""
        return sum(line.amount for line in self.lines)


@dataclass(frozen=True, slots=True)
class Held:
    """Usage of a subscription's running period that waits and is therefore in no line.

    `quantity` is in the meter's unit; None for a running value, which lines tell as if it were
    sent.
    """

    subscription: Subscription
    meter: Meter
    reason: str
    quantity: Decimal | None
    event_count: int


@dataclass(frozen=True, slots=True)
class CostToDate:
    """All of a customer's next invoices; every event answered for by `as_of` is counted."""

    subscriptions: tuple[SubscriptionCost, ...]
    held: tuple[Held, ...]
    as_of: datetime

    @property
    def totals(self) -> dict[str, int]:
        """Return minor units by currency."""
        found: defaultdict[str, int] = defaultdict(int)
        for cost in self.subscriptions:
            found[cost.currency] += cost.total
        return dict(found)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A metered price and some of an item's running period: what usage is charged by."""

    price: Price
    meter: Meter
    since: datetime
    until: datetime


def cost_to_date(customer: Customer) -> CostToDate:
    """Return what a customer's next invoices come to by now. Asks nothing of Stripe.

    Raises:
        Unanswerable: counting takes too long.
    """
    as_of = timezone.now()
    subscriptions = []
    held: list[Held] = []
    live = customer.subscriptions.exclude(status__in=UNBILLED).order_by("id")
    for subscription in live.select_related("plan").prefetch_related("items__price"):
        items = list(subscription.items.all())
        if not items:
            continue
        cost, shares = _next_invoice(customer, subscription, items, as_of=as_of)
        subscriptions.append(cost)
        held += shares
    return CostToDate(tuple(subscriptions), tuple(held), as_of)


def _next_invoice(
    customer: Customer,
    subscription: Subscription,
    items: Sequence[SubscriptionItem],
    *,
    as_of: datetime,
) -> tuple[SubscriptionCost, list[Held]]:
    """Return the invoice at the first end of a period, or at the subscription's own if sooner."""
    at = min(item.current_period_end for item in items)
    is_last = subscription.cancel_at is not None and subscription.cancel_at <= at
    at = min(at, subscription.cancel_at or at)
    since = min(item.current_period_start for item in items)
    spells: defaultdict[str, list[ItemPrice]] = defaultdict(list)
    for spell in prices_between(customer=customer, since=since, until=at):
        spells[spell.stripe_item_id].append(spell)
    stretches: list[_Stretch] = []
    fees: list[tuple[SubscriptionItem, Price]] = []
    for item in items:
        if not is_last and item.current_period_end > at:
            continue
        if subscription.status != TRIALING:
            stretches += _stretches(item, spells[item.stripe_item_id], until=at)
        if not is_last:
            # Not by the item's row: somebody may have put a price on it that is none of ours.
            fees += [
                (item, spell.price)
                for spell in spells[item.stripe_item_id]
                if spell.until is None and spell.price.kind == PriceKind.BASE
            ]
    usage = _Usage(customer, stretches, as_of=as_of)
    lines = [
        *(_usage_line(stretch, usage.of(stretch)) for stretch in stretches),
        *(_fee(subscription, item, price, at) for item, price in fees),
    ]
    cost = SubscriptionCost(
        subscription=subscription,
        currency=items[0].price.currency,
        period_start=since,
        invoiced_at=at,
        lines=tuple(lines),
    )
    return cost, [_held(subscription, meter, share) for meter, share in usage.held]


def _stretches(
    item: SubscriptionItem, spells: Iterable[ItemPrice], *, until: datetime
) -> Iterator[_Stretch]:
    """Yield the metered prices an item had in its running period, each with its share of it."""
    for spell in spells:
        begins = max(item.current_period_start, spell.since)
        ends = min(until, spell.until or until)
        if spell.price.meter is not None and begins < ends:
            yield _Stretch(spell.price, spell.price.meter, begins, ends)


def _usage_line(stretch: _Stretch, quantity: Decimal) -> Line:
    """Return the line for a quantity in the meter's smallest unit."""
    return Line(
        price=stretch.price,
        quantity=EXACT.scaleb(quantity, -stretch.meter.scale),
        period_start=stretch.since,
        period_end=stretch.until,
        parts=charges.parts(stretch.price.rule, quantity),
    )


def _fee(subscription: Subscription, item: SubscriptionItem, price: Price, at: datetime) -> Line:
    # Periods are counted from a trial's end as from an anchor.
    anchor = at if subscription.status == TRIALING else subscription.billing_anchor
    quantity = Decimal(item.quantity)
    return Line(
        price=price,
        quantity=quantity,
        period_start=at,
        period_end=None if anchor is None else next_end(anchor, price.interval, after=at),
        parts=charges.parts(price.rule, quantity),
    )


def _held(subscription: Subscription, meter: Meter, share: HeldShare) -> Held:
    is_running = Aggregation(meter.aggregation).is_running
    return Held(
        subscription=subscription,
        meter=meter,
        reason=share.reason,
        quantity=None if is_running else EXACT.scaleb(share.quantity, -meter.scale),
        event_count=share.event_count,
    )


class _Usage:
    """What the stretches of one invoice came to, in each meter's smallest unit."""

    def __init__(
        self, customer: Customer, stretches: Iterable[_Stretch], *, as_of: datetime
    ) -> None:
        self._customer = customer
        self._quantities: dict[tuple[int, datetime, datetime], Decimal] = {}
        self.held: list[tuple[Meter, HeldShare]] = []
        by_time: defaultdict[tuple[datetime, datetime], dict[int, Meter]] = defaultdict(dict)
        for stretch in stretches:
            by_time[stretch.since, stretch.until][stretch.meter.pk] = stretch.meter
        for (since, until), meters in by_time.items():
            self._count(since, until, list(meters.values()), as_of)

    def of(self, stretch: _Stretch) -> Decimal:
        return self._quantities[stretch.meter.pk, stretch.since, stretch.until]

    def _count(
        self, since: datetime, until: datetime, meters: Sequence[Meter], as_of: datetime
    ) -> None:
        added = [meter for meter in meters if not Aggregation(meter.aggregation).is_running]
        found = self._asked(added, since, until) if added else {}
        for meter in meters:
            self._quantities[meter.pk, since, until] = (
                found.get(meter.slug, Decimal(0))
                if meter in added
                else self._last_value(meter, since, until)
            )
        by_id = {meter.pk: meter for meter in meters}
        # After the usage was counted: what is held since then was counted as not yet folded.
        for share in held_shares(
            subject=self._customer.external_id, meters=meters, since=since, until=until, as_of=as_of
        ):
            meter = by_id[share.meter_id]
            self.held.append((meter, share))
            if meter in added:
                key = meter.pk, since, until
                self._quantities[key] = EXACT.subtract(self._quantities[key], share.quantity)

    def _last_value(self, meter: Meter, since: datetime, until: datetime) -> Decimal:
        """Return what Stripe is told last: the value of the last of our own periods with usage.

        A running value starts again at each boundary of the customer, also at one of another
        subscription, and goes on where only a price changed.
        """
        boundaries = PeriodBoundary.objects.filter(customer=self._customer)
        inside = boundaries.filter(at__gt=since, at__lt=until).order_by("at")
        before = boundaries.filter(at__lte=since).order_by("at").last()
        starts = [since if before is None else before.at, *inside.values_list("at", flat=True)]
        ends = [*starts[1:], until]
        for start, end in reversed(list(zip(starts, ends, strict=True))):
            found = self._asked([meter], start, end)
            if start < since and not self._asked([meter], since, end):
                return Decimal(0)
            if meter.slug in found or self._was_taken_back(meter, start):
                return found.get(meter.slug, Decimal(0))
        return Decimal(0)

    def _was_taken_back(self, meter: Meter, period_start: datetime) -> bool:
        """Return whether usage of a period of ours was told, and by now is none."""
        return RunningValue.objects.filter(
            customer=self._customer,
            meter=meter,
            period_start=period_start,
            reached_at__isnull=False,
        ).exists()

    def _asked(
        self, meters: Sequence[Meter], since: datetime, until: datetime
    ) -> dict[str, Decimal]:
        """Return what was used of each meter, by slug; a meter without usage is left out."""
        question = Question(
            since=since,
            until=until,
            meters=tuple(meters),
            customers=(self._customer.external_id,),
        )
        scales = {meter.slug: meter.scale for meter in meters}
        return {
            row.meter: EXACT.scaleb(Decimal(row.quantity), scales[row.meter])
            for row in answer(question, limit=len(meters)).rows
        }
