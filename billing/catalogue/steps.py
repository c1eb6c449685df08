"""The steps of a sync, each with the line that tells it to a person.

Those in `Ours` change our own tables and are made in one transaction. Those in `AtStripe` follow;
should the sync be broken off between them, the next one finds what is there and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from billing.catalogue.values import MeterDefinition, PriceDefinition, Reading


@dataclass(frozen=True, slots=True)
class RecordMeter:
    """Write a meter into our tables, new or with another name or unit."""

    meter: MeterDefinition
    is_new: bool

    def __str__(self) -> str:
        if self.is_new:
            return f"add meter {self.meter.slug} ({self.meter.aggregation})"
        return f"update meter {self.meter.slug}: {self.meter.display_name}, in {self.meter.unit}"


@dataclass(frozen=True, slots=True)
class BeginReading:
    """Have a meter read events in a new way, from the beginning of time or from soon on."""

    meter: str
    reading: Reading
    from_the_beginning: bool

    def __str__(self) -> str:
        what = self.reading.value_property or "the number"
        since = "from the beginning" if self.from_the_beginning else "from 5 minutes after the sync"
        return f"let meter {self.meter} read {what} of {self.reading.event_type} {since}"


@dataclass(frozen=True, slots=True)
class RecordPlan:
    """Write a plan into our tables and offer it."""

    slug: str
    name: str
    is_new: bool

    def __str__(self) -> str:
        return f"{'add' if self.is_new else 'update'} plan {self.slug}: {self.name}"


@dataclass(frozen=True, slots=True)
class RetirePlan:
    """Offer a plan no longer. Who is on it stays on it."""

    slug: str

    def __str__(self) -> str:
        return f"offer plan {self.slug} no longer; who is on it stays"


@dataclass(frozen=True, slots=True)
class RetirePrice:
    """Leave a price out of new subscriptions. Who has it keeps it."""

    lookup_key: str

    def __str__(self) -> str:
        return f"leave price {self.lookup_key} out of new subscriptions"


@dataclass(frozen=True, slots=True)
class CreateMeter:
    """Create a meter at Stripe."""

    meter: MeterDefinition

    def __str__(self) -> str:
        return f"create meter {self.meter.event_name} at Stripe"


@dataclass(frozen=True, slots=True)
class LinkMeter:
    """Use the meter Stripe already has under our event name."""

    meter: MeterDefinition
    stripe_meter_id: str

    def __str__(self) -> str:
        return f"use Stripe's meter {self.stripe_meter_id} for {self.meter.event_name}"


@dataclass(frozen=True, slots=True)
class RenameMeter:
    """Give a meter another name at Stripe."""

    meter: MeterDefinition
    stripe_meter_id: str

    def __str__(self) -> str:
        return f"rename Stripe's meter {self.stripe_meter_id} to {self.meter.display_name}"


@dataclass(frozen=True, slots=True)
class NameProduct:
    """Create a price's product at Stripe, or rename it."""

    lookup_key: str
    name: str
    is_new: bool

    def __str__(self) -> str:
        return (
            f"{'create' if self.is_new else 'rename'} the product of {self.lookup_key}"
            f" at Stripe: {self.name}"
        )


@dataclass(frozen=True, slots=True)
class CreatePrice:
    """Create a price at Stripe and move the lookup key to it from the price that had it, if any."""

    price: PriceDefinition
    lookup_key: str
    replaces: str

    def __str__(self) -> str:
        if self.replaces:
            return f"replace price {self.replaces} of {self.lookup_key} by a new one at Stripe"
        return f"create price {self.lookup_key} at Stripe"


@dataclass(frozen=True, slots=True)
class LinkPrice:
    """Use the price Stripe already has under our lookup key."""

    price: PriceDefinition
    lookup_key: str
    stripe_price_id: str

    def __str__(self) -> str:
        return f"use Stripe's price {self.stripe_price_id} for {self.lookup_key}"


@dataclass(frozen=True, slots=True)
class RenamePrice:
    """Give a price another name in our tables."""

    lookup_key: str
    name: str

    def __str__(self) -> str:
        return f"rename price {self.lookup_key} to {self.name}"


Ours: TypeAlias = RecordMeter | BeginReading | RecordPlan | RetirePlan | RetirePrice
AtStripe: TypeAlias = (
    CreateMeter | LinkMeter | RenameMeter | NameProduct | CreatePrice | LinkPrice | RenamePrice
)


@dataclass(frozen=True, slots=True)
class Changes:
    """All that is to be done, in order. Empty when everything is as the file wants it."""

    ours: tuple[Ours, ...] = ()
    at_stripe: tuple[AtStripe, ...] = ()
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.ours or self.at_stripe)

    def lines(self) -> list[str]:
        """Return one line for each change."""
        return [str(change) for change in (*self.ours, *self.at_stripe)]
