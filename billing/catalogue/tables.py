"""The shapes of the file's tables, and what can be wrong with each by itself.

A mistake is a sentence that begins with its key; `file` puts the table's name in front.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from billing.catalogue.amounts import MOST_DECIMALS, amount_mistakes, minor
from billing.enums import Aggregation

MOST_ITEMS = 20
"""Of a subscription. Source: Stripe's API, `items` of a subscription."""
LONGEST = {"display_name": 250, "event_name": 100, "event_type": 200, "unit": 30}


class MeterTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    display_name: str
    event_name: str
    event_type: str
    aggregation: Aggregation
    measures: list[str]
    unit: str
    value_property: str = ""
    required: bool = True
    scale: int = 0


class PackageTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: int
    amount: Decimal
    round: Literal["up", "down"] = "up"


class TierTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    up_to: int | None = None
    unit_amount: Decimal = Decimal(0)
    flat_amount: Decimal = Decimal(0)


class PriceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    meter: str
    name: str
    unit_amount: Decimal | None = None
    package: PackageTable | None = None
    tiers: list[TierTable] | None = None
    tiers_mode: Literal["graduated", "volume"] | None = None


class BaseFeeTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    amount: Decimal
    name: str = "Base fee"


class PlanTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    currency: str
    interval: Literal["day", "week", "month", "year"]
    base_fee: BaseFeeTable | None = None
    prices: list[PriceTable] = []


def meter_mistakes(meter: MeterTable) -> Iterator[str]:
    """Yield what is wrong with a meter."""
    for key, most in LONGEST.items():
        if not 1 <= len(getattr(meter, key).strip()) <= most:
            yield f"{key} must have 1 to {most} characters."
    if meter.aggregation is not Aggregation.COUNT and not meter.value_property:
        yield f"value_property is needed with aggregation {meter.aggregation}."
    if meter.aggregation is Aggregation.COUNT and meter.value_property:
        yield "value_property has no meaning with aggregation count."
    if not meter.measures or len(set(meter.measures)) < len(meter.measures):
        yield "measures must name the kinds of usage in the total, each once."
    if meter.aggregation in {Aggregation.COUNT, Aggregation.UNIQUE} and meter.scale:
        yield f"scale has no meaning with aggregation {meter.aggregation}."
    if not 0 <= meter.scale <= MOST_DECIMALS:
        yield f"scale is {meter.scale}; it must be at least 0 and at most {MOST_DECIMALS}."


def plan_mistakes(plan: PlanTable, meters: Mapping[str, MeterTable]) -> Iterator[str]:
    """Yield what is wrong with a plan, and whether its meters would bill the same use twice."""
    if not re.fullmatch("[a-z]{3}", plan.currency):
        yield "currency is no currency: write three small letters, such as usd."
    if not plan.prices and plan.base_fee is None:
        yield "has neither prices nor a base_fee."
    if len(plan.prices) + (plan.base_fee is not None) > MOST_ITEMS:
        yield f"has more than {MOST_ITEMS} prices, which is as many as a subscription can have."
    if plan.base_fee is not None:
        for mistake in amount_mistakes(minor(plan.base_fee.amount, plan.currency)):
            yield f"base_fee.amount {mistake}"
    for index, price in enumerate(plan.prices):
        if price.meter not in meters:
            yield f"prices[{index}].meter: there is no [meters.{price.meter}]."
            continue
        for mistake in price_mistakes(price, plan.currency, meters[price.meter].scale):
            yield f"prices[{index}].{mistake}"
    yield from _overlaps(plan, meters)


def _overlaps(plan: PlanTable, meters: Mapping[str, MeterTable]) -> Iterator[str]:
    """Yield each pair of the plan's meters that would bill the same use twice."""
    priced = [price.meter for price in plan.prices if price.meter in meters]
    for position, slug in enumerate(priced):
        for other in priced[:position]:
            shared = sorted(set(meters[slug].measures) & set(meters[other].measures))
            if meters[slug].event_type == meters[other].event_type and shared:
                yield (
                    f"would bill the same use twice: meters {other} and {slug} both measure"
                    f" {', '.join(shared)} of {meters[slug].event_type}."
                )


def price_mistakes(price: PriceTable, currency: str, scale: int) -> Iterator[str]:
    given = [key for key in ("unit_amount", "package", "tiers") if getattr(price, key) is not None]
    if len(given) != 1:
        yield "meter: give exactly one of unit_amount, package and tiers."
        return
    if (price.tiers_mode is None) is not (price.tiers is None):
        yield "tiers_mode: needed with tiers, and with nothing else."
    if price.unit_amount is not None:
        for mistake in amount_mistakes(minor(price.unit_amount, currency).scaleb(-scale)):
            yield f"unit_amount {mistake}"
    if price.package is not None:
        if price.package.size < 1:
            yield "package.size must be at least 1."
        for mistake in amount_mistakes(minor(price.package.amount, currency)):
            yield f"package.amount {mistake}"
    if price.tiers is not None:
        yield from _tier_mistakes(price.tiers, currency, scale)


def _tier_mistakes(tiers: Sequence[TierTable], currency: str, scale: int) -> Iterator[str]:
    if len(tiers) < 2:  # noqa: PLR2004 - one tier is no tiers
        yield "tiers needs at least two; with one, write unit_amount."
    limits = [tier.up_to for tier in tiers]
    if None in limits[:-1] or (limits and limits[-1] is not None):
        yield "tiers: each but the last has an up_to, the last has none."
    known = [limit for limit in limits if limit is not None]
    if known != sorted(set(known)) or any(limit < 1 for limit in known):
        yield "tiers: up_to must rise from tier to tier, from 1 on."
    for index, tier in enumerate(tiers):
        for mistake in amount_mistakes(minor(tier.unit_amount, currency).scaleb(-scale)):
            yield f"tiers[{index}].unit_amount {mistake}"
        for mistake in amount_mistakes(minor(tier.flat_amount, currency)):
            yield f"tiers[{index}].flat_amount {mistake}"
