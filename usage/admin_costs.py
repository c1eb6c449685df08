"""What a customer's page in the admin tells of its next invoices."""

from __future__ import annotations

from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe

from billing.catalogue.amounts import main
from billing.models import Customer
from usage.cost_to_date import Line, SubscriptionCost, cost_to_date
from usage.enums import HeldReason
from usage.questions import Unanswerable


def cost_in_words(customer: Customer) -> str:
    """Return the next invoice of each subscription, line by line, as HTML."""
    try:
        told = cost_to_date(customer)
    except Unanswerable:
        return "This takes too long to count here."
    invoices = format_html_join(
        mark_safe("<br><br>"), "{}", ((_invoice(cost),) for cost in told.subscriptions)
    )
    held = format_html_join(
        "",
        "<br>Not in it: {} of {} ({} events), held: {}",
        (
            (
                "a running value" if each.quantity is None else format(each.quantity, "f"),
                each.meter.slug,
                each.event_count,
                HeldReason(each.reason).label,
            )
            for each in told.held
        ),
    )
    return format_html("{}{}", invoices, held) if told.subscriptions else "-"


def _invoice(cost: SubscriptionCost) -> str:
    lines = format_html_join(
        "",
        "<br>{}: {}, {}",
        (
            (
                line.price.name,
                _quantity(line),
                _money(line.amount, cost.currency),
            )
            for line in cost.lines
        ),
    )
    return format_html(
        "<strong>{}</strong> on the invoice of {} ({}), before credits, discounts and taxes{}",
        _money(cost.total, cost.currency),
        f"{cost.invoiced_at:%Y-%m-%d %H:%M:%S} UTC",
        cost.subscription.plan.slug,
        lines,
    )


def _quantity(line: Line) -> str:
    unit = "" if line.price.meter is None else f" {line.price.meter.unit}"
    return f"{line.quantity:f}{unit}"


def _money(amount: int, currency: str) -> str:
    return f"{main(amount, currency):f} {currency}"
