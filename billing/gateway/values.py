"""What crosses the seam: frozen, exact, in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class Receipt:
    """Stripe's answer to a meter event. `is_duplicate`: an earlier attempt had been taken."""

    is_duplicate: bool
    request_id: str


@dataclass(frozen=True, slots=True)
class Summary:
    """Stripe's total for [`window_start`, `window_end`), as the exact decimal its text shows."""

    window_start: datetime
    window_end: datetime
    value: Decimal


@dataclass(frozen=True, slots=True)
class StripeMeter:
    """A meter as Stripe has it. `event_time_window` is empty for a meter that counts each event."""

    id: str
    event_name: str
    display_name: str
    formula: str
    is_active: bool
    is_live: bool
    event_time_window: str
    customer_key: str
    value_key: str


@dataclass(frozen=True, slots=True)
class StripeProduct:
    """A product: what an invoice line is called."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class PriceTerms:
    """What never changes about a price.

    `rule` holds Stripe's own fields, amounts as decimal texts in the currency's minor unit:
    `unit_amount_decimal`, with `transform_quantity` for a package, or `tiers_mode` and `tiers`,
    where the last tier's `up_to` is "inf".
    """

    currency: str
    interval: str
    meter_id: str | None
    rule: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StripePrice:
    """A price as Stripe has it. `deployment` is empty when the price carries no stamp."""

    id: str
    lookup_key: str
    product_id: str
    is_active: bool
    deployment: str
    terms: PriceTerms


@dataclass(frozen=True, slots=True)
class ItemPeriod:
    """One item of a subscription and its current period, start included, end not.

    `quantity` is 1 where Stripe has none, which is so for metered prices. `meter_id` is that of the
    meter the price bills, empty for none.
    """

    id: str
    price_id: str
    meter_id: str
    quantity: int
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """A subscription as Stripe had it at some moment after `asked_at`.

    The two secrets let a page of ours collect a card: `setup_secret` when nothing is due,
    `payment_secret` when a first invoice waits. Empty when there is nothing to collect.
    """

    id: str
    customer_id: str
    status: str
    metadata: Mapping[str, str]
    items: tuple[ItemPeriod, ...]
    billing_anchor: datetime
    cancel_at: datetime | None
    ended_at: datetime | None
    setup_secret: str
    payment_secret: str
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class InvoiceState:
    """An invoice as Stripe had it at some moment after `asked_at`; `total` in minor units.

    `period_start` and `period_end` are the invoice's own. `ended_periods` are the ends of the
    billing periods whose usage it bills, in order: what was used just before one of them is on
    this invoice or, once that is final, on none.
    """

    id: str
    customer_id: str
    subscription_id: str
    subscription_metadata: Mapping[str, str]
    status: str
    currency: str
    total: int
    period_start: datetime
    period_end: datetime
    ended_periods: tuple[datetime, ...]
    automatically_finalizes_at: datetime | None
    finalized_at: datetime | None
    created_at: datetime
    asked_at: datetime

    @property
    def is_final(self) -> bool:
        """Whether Stripe reads usage for it no more. A draft is counted again when it is final."""
        return self.status != "draft"


@dataclass(frozen=True, slots=True)
class Notification:
    """What an event of Stripe's says of itself. A thin one only names what to fetch."""

    event_id: str
    type: str
    object_id: str
    live_mode: bool


@dataclass(frozen=True, slots=True)
class PastEvent:
    """An event from Stripe's list. `body` is its JSON, as far as the list tells it."""

    notification: Notification
    body: str


@dataclass(frozen=True, slots=True)
class EventPage:
    """One page of events. `next` says where the following one begins; empty: this is the last."""

    events: tuple[PastEvent, ...]
    next: str


@dataclass(frozen=True, slots=True)
class ThinEvent:
    """A thin event fetched from Stripe: `data` is its own, not the delivery's."""

    id: str
    type: str
    created_at: datetime
    object_id: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ErrorSample:
    """One refused event that a report names, by whatever identifies it; with Stripe's sentence."""

    identifier: str
    message: str


@dataclass(frozen=True, slots=True)
class ReportedErrors:
    """How many events were refused for one reason, and the few of them that are named."""

    code: str
    error_count: int
    samples: tuple[ErrorSample, ...]


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """What Stripe says it refused after it had taken it, validated between the two instants.

    `error_count` is complete, the samples are not. `meter_id` is empty where no meter was found.
    """

    event_id: str
    type: str
    created_at: datetime
    meter_id: str
    validation_start: datetime
    validation_end: datetime
    summary: str
    error_count: int
    types: tuple[ReportedErrors, ...]
