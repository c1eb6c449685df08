"""Stripe's rule of a price, from the file's."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from billing.catalogue.amounts import minor, text
from billing.catalogue.tables import PriceTable


def rule(price: PriceTable, currency: str, scale: int) -> dict[str, Any]:
    """Return Stripe's fields for a price, per the meter's smallest unit.

    Stripe is sent whole numbers of 10^-scale units, so limits grow and unit amounts shrink by it.
    """
    if price.package is not None:
        return {
            "unit_amount_decimal": text(minor(price.package.amount, currency)),
            "transform_quantity": {
                "divide_by": price.package.size * 10**scale,
                "round": price.package.round,
            },
        }
    if price.tiers is not None:
        return {
            "tiers_mode": price.tiers_mode,
            "tiers": [
                {
                    "up_to": "inf" if tier.up_to is None else tier.up_to * 10**scale,
                    "unit_amount_decimal": text(minor(tier.unit_amount, currency).scaleb(-scale)),
                    "flat_amount_decimal": text(minor(tier.flat_amount, currency)),
                }
                for tier in price.tiers
            ],
        }
    amount = price.unit_amount or Decimal(0)
    return {"unit_amount_decimal": text(minor(amount, currency).scaleb(-scale))}
