"""What a quantity costs under a price, by Stripe's rules. Pure.

Quantities are in the meter's smallest unit, as they go over the wire and as `Price.rule` counts
them; amounts are in the currency's minor unit. All arithmetic is exact: one that would have to drop
a digit raises. Discounts, credits and taxes are left to Stripe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, Inexact, InvalidOperation
from typing import Any

EXACT = Context(prec=120, traps=[Inexact, InvalidOperation])
"""Far more digits than a quantity times an amount has; Python's own 28 would drop some."""
ROUNDING = Context(prec=120, rounding=ROUND_HALF_UP)
NOTHING = Decimal(0)
ENDLESS = "inf"
"""Stripe's `up_to` of the last tier."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one line of an invoice charges: `quantity` at `unit_amount` each, and `flat_amount`.

    For a package price the quantity counts packages. `amount` is in whole minor units.
    """

    quantity: Decimal
    unit_amount: Decimal
    flat_amount: Decimal

    @property
    def amount(self) -> int:
        """Return whole minor units, rounded half up.

        Stripe publishes that a line is rounded and not how (inferred, as the emulator does).
        """
        exact = EXACT.add(EXACT.multiply(self.quantity, self.unit_amount), self.flat_amount)
        return int(exact.to_integral_value(context=ROUNDING))


def parts(rule: Mapping[str, Any], quantity: Decimal) -> tuple[Part, ...]:
    """Return how a period's total is charged under a price's rule: a part for each invoice line.

    Graduated tiers have a part for each tier reached, its flat amount included; anything else has
    one, also for no usage at all. A tier's `up_to` is inside it. A negative total counts as none.
    Source: Stripe's guides to tiered pricing and to recording usage; that a graduated tier is a
    line of its own is inferred.
    """
    quantity = max(quantity, NOTHING)
    if "tiers" in rule:
        charge = _graduated if rule["tiers_mode"] == "graduated" else _volume
        return tuple(charge(rule["tiers"], quantity))
    return (Part(_packed(rule, quantity), Decimal(rule["unit_amount_decimal"]), NOTHING),)


def _packed(rule: Mapping[str, Any], quantity: Decimal) -> Decimal:
    """Return what the price multiplies: the total itself, or packages of it.

    Packages are counted once, on the period's total, and a started one as the rule says. Source:
    Stripe's guide to the billing setup, `transform_quantity`.
    """
    transform = rule.get("transform_quantity")
    if transform is None:
        return quantity
    size = Decimal(transform["divide_by"])
    full, rest = EXACT.divmod(quantity, size)
    return full + 1 if rest and transform["round"] == "up" else full


def _graduated(tiers: list[Mapping[str, Any]], quantity: Decimal) -> Iterator[Part]:
    below = NOTHING
    for tier in tiers:
        top = quantity if _holds(tier, quantity) else Decimal(tier["up_to"])
        yield _part(tier, EXACT.subtract(top, below))
        if top == quantity:
            return
        below = top


def _volume(tiers: list[Mapping[str, Any]], quantity: Decimal) -> Iterator[Part]:
    yield _part(next(tier for tier in tiers if _holds(tier, quantity)), quantity)


def _holds(tier: Mapping[str, Any], quantity: Decimal) -> bool:
    return tier["up_to"] == ENDLESS or quantity <= Decimal(tier["up_to"])


def _part(tier: Mapping[str, Any], quantity: Decimal) -> Part:
    return Part(
        quantity=quantity,
        unit_amount=Decimal(tier["unit_amount_decimal"]),
        flat_amount=Decimal(tier["flat_amount_decimal"]),
    )
