"""The catalogue file: read, checked, and turned into values.

Every mistake is told with its table and key, all of them at once. What a change of the file leads
to is `changes`' part.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from billing.catalogue.amounts import minor, text
from billing.catalogue.rules import rule
from billing.catalogue.tables import MeterTable, PlanTable, meter_mistakes, plan_mistakes
from billing.catalogue.values import (
    Catalogue,
    MeterDefinition,
    PlanDefinition,
    PriceDefinition,
    Reading,
)
from billing.enums import PriceKind

SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,49}")
SLUG_RULE = "up to 50 of a-z, 0-9, - and _, with a letter or digit first"
Table = TypeVar("Table", bound=msgspec.Struct)


class CatalogueInvalid(Exception):
    """The catalogue file cannot be used; one sentence for each mistake."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


def read(path: Path) -> Catalogue:
    """Read and check a catalogue file.

    Raises:
        CatalogueInvalid: the file is missing, no TOML, or says what cannot be.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise CatalogueInvalid([f"{path} cannot be read: {error.strerror}."]) from error
    return parse(text)


def parse(text: str) -> Catalogue:
    """Check a catalogue's text and return it as values."""
    try:
        # Decimals straight from the text: 0.1 never passes through a binary fraction.
        tables = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise CatalogueInvalid([f"The catalogue is no TOML: {error}."]) from error
    mistakes = [
        f"[{key}] is not known; write [meters.…] and [plans.…]."
        for key in tables
        if key not in {"meters", "plans"}
    ]
    meter_tables = _tables(tables, "meters", MeterTable, mistakes)
    plan_tables = _tables(tables, "plans", PlanTable, mistakes)
    if not mistakes:
        for slug, meter in meter_tables.items():
            mistakes += [f"[meters.{slug}] {each}" for each in meter_mistakes(meter)]
        mistakes += _shared_event_names(meter_tables)
        for slug, plan in plan_tables.items():
            mistakes += [f"[plans.{slug}] {each}" for each in plan_mistakes(plan, meter_tables)]
    if mistakes:
        raise CatalogueInvalid(mistakes)
    return Catalogue(
        meters=tuple(_meter(slug, table) for slug, table in meter_tables.items()),
        plans=tuple(_plan(slug, table, meter_tables) for slug, table in plan_tables.items()),
    )


def _tables(
    tables: Mapping[str, Any], kind: str, shape: type[Table], mistakes: list[str]
) -> dict[str, Table]:
    """Return the tables [kind.slug] by slug; what has another shape is added to `mistakes`."""
    found: dict[str, Table] = {}
    group = tables.get(kind, {})
    if not isinstance(group, dict):
        mistakes.append(f"{kind} is not a table; write [{kind}.…].")
        return found
    for slug, content in group.items():
        if not SLUG.fullmatch(slug):
            mistakes.append(f"[{kind}.{slug}] is no name: write {SLUG_RULE}.")
            continue
        try:
            found[slug] = msgspec.convert(content, shape)
        except msgspec.ValidationError as error:
            mistakes.append(f"[{kind}.{slug}] {_told(error)}")
    return found


def _told(error: msgspec.ValidationError) -> str:
    """Return msgspec's sentence with the key in front: `prices[0].meter: Expected `str`…`."""
    sentence, separator, path = str(error).rpartition(" - at `$")
    if not separator:
        return f"{error}."
    return f"{path.rstrip('`').lstrip('.')}: {sentence}."


def _shared_event_names(meters: Mapping[str, MeterTable]) -> Iterator[str]:
    owners: dict[str, str] = {}
    for slug, meter in meters.items():
        owner = owners.setdefault(meter.event_name, slug)
        if owner != slug:
            yield f"[meters.{slug}] event_name {meter.event_name} is that of [meters.{owner}]."


def _meter(slug: str, table: MeterTable) -> MeterDefinition:
    return MeterDefinition(
        slug=slug,
        display_name=table.display_name,
        event_name=table.event_name,
        aggregation=table.aggregation,
        unit=table.unit,
        scale=table.scale,
        reading=Reading(
            event_type=table.event_type,
            value_property=table.value_property,
            required=table.required,
            measures=tuple(sorted(table.measures)),
        ),
    )


def _plan(slug: str, table: PlanTable, meters: Mapping[str, MeterTable]) -> PlanDefinition:
    prices = [
        PriceDefinition(
            plan=slug,
            name=price.name,
            kind=PriceKind.METERED,
            meter=price.meter,
            currency=table.currency,
            interval=table.interval,
            rule=rule(price, table.currency, meters[price.meter].scale),
        )
        for price in table.prices
    ]
    if table.base_fee is not None:
        base = PriceDefinition(
            plan=slug,
            name=table.base_fee.name,
            kind=PriceKind.BASE,
            meter="",
            currency=table.currency,
            interval=table.interval,
            rule={"unit_amount_decimal": text(minor(table.base_fee.amount, table.currency))},
        )
        prices.insert(0, base)
    return PlanDefinition(slug=slug, name=table.name, prices=tuple(prices))
