"""GET /api/v1/customers/{id}/cost-to-date: find the customer, ask once, tell it."""

from __future__ import annotations

from datetime import datetime

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import Field

from billing.api import customer_of
from billing.catalogue.amounts import text
from billing.charges import Part
from usage.cost_to_date import Held, Line, SubscriptionCost, cost_to_date
from usage.enums import HeldReason

router = Router(tags=["usage"])


class PartOut(Schema):
    quantity: str = Field(
        description="What is multiplied: the meter's smallest units, or packages.",
        examples=["1201"],
    )
    unit_amount: str = Field(
        description="Of one, in the currency's minor unit.", examples=["0.0003"]
    )
    flat_amount: str = Field(description="A tier's own, in the currency's minor unit.")
    amount: int = Field(description="Whole minor units, rounded half up.")


class LineOut(Schema):
    price: str = Field(description="The price's lookup key.")
    stripe_price_id: str
    name: str
    meter: str | None = Field(description="Null for a base fee.")
    unit: str | None = Field(description="Null for a base fee.")
    quantity: str = Field(
        description="Exact decimal number of `unit`s, less what was voided and what is held; how"
        " many of a base fee."
    )
    period_start: datetime = Field(
        description="Included. Of a base fee it is the next period's; where a price was changed,"
        " since when this one has been charged."
    )
    period_end: datetime | None = Field(description="Not included.")
    amount: int = Field(description="Whole minor units, the sum of its parts.")
    parts: list[PartOut] = Field(
        description="The lines it makes on the invoice: one, or one for each graduated tier."
    )


class SubscriptionCostOut(Schema):
    plan: str
    status: str = Field(description="Stripe's word; while `trialing`, usage costs nothing.")
    stripe_subscription_id: str | None
    currency: str
    total: int = Field(description="Whole minor units, the sum of its lines.")
    period_start: datetime = Field(description="Of the period that runs; included.")
    invoiced_at: datetime = Field(
        description="When Stripe makes the invoice: its period's end, or the subscription's."
    )
    lines: list[LineOut]


class HeldCostOut(Schema):
    plan: str
    meter: str
    unit: str
    quantity: str | None = Field(
        description="Exact decimal number of `unit`s; null for a running value (max, unique,"
        " latest), which its line tells as if it were sent."
    )
    event_count: int
    reason: str
    meaning: str


class TotalOut(Schema):
    currency: str
    amount: int = Field(description="Whole minor units.")


class CostToDateOut(Schema):
    customer: str
    as_of: datetime = Field(description="Every event answered for by then is counted.")
    totals: list[TotalOut] = Field(description="Of all subscriptions, by currency.")
    subscriptions: list[SubscriptionCostOut]
    held: list[HeldCostOut] = Field(
        description="Usage of the running periods that waits and is in no line."
    )


# Registered before the address of a customer, whose external id may hold slashes.
@router.get(
    "/customers/{path:external_id}/cost-to-date",
    response=CostToDateOut,
    summary="Tell what a customer's next invoices come to",
)
def show_cost_to_date(request: HttpRequest, external_id: str) -> CostToDateOut:
    """Tell what the next invoice of each live subscription comes to by now.

    From our own books, by Stripe's price rules, without asking Stripe: usage counts as soon as its
    report was answered. Base fees are those of the next period, as in Stripe's preview. Credits,
    discounts, taxes, prorations and items put on an invoice by hand are not in it.
    """
    customer = customer_of(request, external_id)
    told = cost_to_date(customer)
    return CostToDateOut(
        customer=customer.external_id,
        as_of=told.as_of,
        totals=[
            TotalOut(currency=currency, amount=amount) for currency, amount in told.totals.items()
        ],
        subscriptions=[_subscription(cost) for cost in told.subscriptions],
        held=[_held(held) for held in told.held],
    )


def _subscription(cost: SubscriptionCost) -> SubscriptionCostOut:
    return SubscriptionCostOut(
        plan=cost.subscription.plan.slug,
        status=cost.subscription.status,
        stripe_subscription_id=cost.subscription.stripe_subscription_id,
        currency=cost.currency,
        total=cost.total,
        period_start=cost.period_start,
        invoiced_at=cost.invoiced_at,
        lines=[_line(line) for line in cost.lines],
    )


def _line(line: Line) -> LineOut:
    meter = line.price.meter
    return LineOut(
        price=line.price.lookup_key,
        stripe_price_id=line.price.stripe_price_id,
        name=line.price.name,
        meter=None if meter is None else meter.slug,
        unit=None if meter is None else meter.unit,
        quantity=format(line.quantity, "f"),
        period_start=line.period_start,
        period_end=line.period_end,
        amount=line.amount,
        parts=[_part(part) for part in line.parts],
    )


def _part(part: Part) -> PartOut:
    return PartOut(
        quantity=format(part.quantity, "f"),
        unit_amount=text(part.unit_amount),
        flat_amount=text(part.flat_amount),
        amount=part.amount,
    )


def _held(held: Held) -> HeldCostOut:
    return HeldCostOut(
        plan=held.subscription.plan.slug,
        meter=held.meter.slug,
        unit=held.meter.unit,
        quantity=None if held.quantity is None else format(held.quantity, "f"),
        event_count=held.event_count,
        reason=held.reason,
        meaning=HeldReason(held.reason).label,
    )
