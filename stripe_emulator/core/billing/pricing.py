"""What a quantity costs under a price, and the old `plan` shape of a price."""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import Any

from stripe_emulator.core import exact
from stripe_emulator.core.collection import Object


def billed_quantity(price: Object, quantity: Decimal) -> Decimal:
    """Return a period's total after the price's transformation, which is applied once.

    A negative total is billed as zero. Source: docs.stripe.com, usage-based billing, on managing
    the billing setup and on recording usage.
    """
    quantity = max(quantity, Decimal(0))
    transform = price["transform_quantity"]
    if transform is None:
        return quantity
    rounding = ROUND_CEILING if transform["round"] == "up" else ROUND_FLOOR
    divisor = Decimal(transform["divide_by"])
    return (quantity / divisor).to_integral_value(rounding=rounding)


def amount(price: Object, quantity: Decimal) -> int:
    """Return minor units for `quantity`, rounded half up.

    Stripe does not publish its rounding (inferred).
    """
    if price["billing_scheme"] == "tiered":
        exact_amount = _tiered(price, billed_quantity(price, quantity))
    else:
        unit = Decimal(price["unit_amount_decimal"] or 0)
        exact_amount = unit * billed_quantity(price, quantity)
    return rounded(exact_amount)


def rounded(amount: Decimal) -> int:
    """Return whole minor units, half up: away from zero, so that a credit mirrors its charge."""
    return int(amount.to_integral_value(rounding=ROUND_HALF_UP))


def _tiered(price: Object, quantity: Decimal) -> Decimal:
    total, below = Decimal(0), Decimal(0)
    for tier in price["_tiers"]:
        top = Decimal(tier["up_to"]) if tier["up_to"] is not None else quantity
        unit = Decimal(tier["unit_amount_decimal"] or 0)
        flat = Decimal(tier["flat_amount_decimal"] or 0)
        reached = quantity > below or below == 0
        if price["tiers_mode"] == "volume":
            if quantity <= top:
                return quantity * unit + flat
        elif reached:
            total += (min(quantity, top) - below) * unit + flat
        below = top
        if price["tiers_mode"] == "graduated" and quantity <= top:
            break
    return total


def as_plan(price: Object) -> Object:
    """Return the `plan` a subscription item still carries beside its price."""
    recurring: dict[str, Any] = price["recurring"] or {}
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": recurring.get("interval", "month"),
        "interval_count": recurring.get("interval_count", 1),
        "livemode": price["livemode"],
        "metadata": price["metadata"],
        "meter": recurring.get("meter"),
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": price["tiers_mode"],
        "transform_usage": price["transform_quantity"],
        "trial_period_days": recurring.get("trial_period_days"),
        "usage_type": recurring.get("usage_type", "licensed"),
    }


def decimal_text(value: Decimal | None) -> str | None:
    """Write a decimal amount as Stripe does: plain, without trailing zeros."""
    return None if value is None else exact.plain(value)
