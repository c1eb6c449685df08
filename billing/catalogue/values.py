"""What a catalogue file says, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from billing.enums import Aggregation, PriceKind


@dataclass(frozen=True, slots=True)
class Reading:
    """How a meter reads events."""

    event_type: str
    value_property: str
    required: bool
    measures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MeterDefinition:
    """A meter as the file wants it."""

    slug: str
    display_name: str
    event_name: str
    aggregation: Aggregation
    unit: str
    scale: int
    reading: Reading


@dataclass(frozen=True, slots=True)
class PriceDefinition:
    """A price as the file wants it; `rule` is in Stripe's fields and the meter's smallest unit."""

    plan: str
    name: str
    kind: PriceKind
    meter: str
    currency: str
    interval: str
    rule: Mapping[str, Any] = field(hash=False)

    @property
    def slug(self) -> str:
        """What tells this price from the others: its plan, and its meter or the base fee."""
        return f"{self.plan}:{self.meter or 'base'}"


@dataclass(frozen=True, slots=True)
class PlanDefinition:
    """A plan as the file wants it."""

    slug: str
    name: str
    prices: tuple[PriceDefinition, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The whole file."""

    meters: tuple[MeterDefinition, ...]
    plans: tuple[PlanDefinition, ...]
