"""What is: the catalogue as our tables hold it, and as Stripe does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from billing.catalogue.values import Reading
from billing.enums import Aggregation
from billing.gateway.values import StripeMeter, StripePrice, StripeProduct


@dataclass(frozen=True, slots=True)
class KnownMeter:
    """A meter in our tables with the reading in force, or about to be."""

    slug: str
    display_name: str
    event_name: str
    aggregation: Aggregation
    unit: str
    scale: int
    stripe_meter_id: str
    reading: Reading | None


@dataclass(frozen=True, slots=True)
class KnownPlan:
    """A plan in our tables."""

    slug: str
    name: str
    active: bool


@dataclass(frozen=True, slots=True)
class KnownPrice:
    """A price in our tables that new subscriptions get."""

    lookup_key: str
    plan: str
    name: str
    stripe_price_id: str


@dataclass(frozen=True, slots=True)
class Known:
    """What our tables hold. `event_types` are all that any version of a meter ever read."""

    meters: Mapping[str, KnownMeter] = field(default_factory=dict)
    event_types: frozenset[str] = frozenset()
    plans: Mapping[str, KnownPlan] = field(default_factory=dict)
    prices: Mapping[str, KnownPrice] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AtStripe:
    """What Stripe holds: meters by event name, products by id, prices by lookup key."""

    meters: Mapping[str, StripeMeter] = field(default_factory=dict)
    products: Mapping[str, StripeProduct] = field(default_factory=dict)
    prices: Mapping[str, StripePrice] = field(default_factory=dict)
