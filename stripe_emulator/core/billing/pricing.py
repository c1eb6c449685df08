"""What a quantity costs under a price, and the old `plan` shape of a price."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

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
    full, rest = exact.divided(quantity, Decimal(transform["divide_by"]))
    return exact.add(full, Decimal(1)) if rest and transform["round"] == "up" else full


class Part(NamedTuple):
    """What one line charges: some of a quantity at one unit amount, and perhaps a flat amount."""

    quantity: Decimal
    unit_amount_decimal: str | None
    exact: Decimal
    """Minor units, not yet rounded."""

    @property
    def amount(self) -> int:
        """Return whole minor units, rounded half up: Stripe publishes no rounding (inferred)."""
        return rounded(self.exact)


def rounded(amount: Decimal) -> int:
    """Return whole minor units, half up: away from zero, so that a credit mirrors its charge."""
    return int(amount.to_integral_value(rounding=ROUND_HALF_UP))


def parts(price: Object, quantity: Decimal) -> list[Part]:
    """Return how a period's total is charged, one part for each line of an invoice.

    Graduated prices have one for each tier reached, flat amount included (inferred); every other
    price has one. A total of nothing is one part as well.
    """
    quantity = billed_quantity(price, quantity)
    if price["billing_scheme"] != "tiered":
        unit = Decimal(price["unit_amount_decimal"] or 0)
        return [Part(quantity, price["unit_amount_decimal"], exact.multiply(unit, quantity))]
    found, below = [], Decimal(0)
    for tier in price["_tiers"]:
        top = quantity if tier["up_to"] is None else min(quantity, Decimal(tier["up_to"]))
        last = top == quantity
        volume = price["tiers_mode"] == "volume"
        if last or not volume:
            charged = quantity if volume else exact.subtract(top, below)
            unit = Decimal(tier["unit_amount_decimal"] or 0)
            flat = Decimal(tier["flat_amount_decimal"] or 0)
            cost = exact.add(exact.multiply(charged, unit), flat)
            found.append(Part(charged, tier["unit_amount_decimal"], cost))
        if last:
            break
        below = top
    return found


def amount(price: Object, quantity: Decimal) -> int:
    """Return minor units for `quantity`: the sum of its lines, each rounded for itself."""
    return sum(part.amount for part in parts(price, quantity))


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
