"""Billing's tables, one noun a module."""

from billing.models.api_key import ApiKey, KeySpending, Source
from billing.models.case import Case
from billing.models.catalogue import Meter, MeterVersion, Plan, Price
from billing.models.customer import Customer
from billing.models.rate_limit import RateLimit
from billing.models.subscription import (
    ForeignItem,
    Invoice,
    ItemPrice,
    PeriodBoundary,
    Subscription,
    SubscriptionItem,
)
from billing.models.webhook_event import WebhookEvent
from billing.models.webhook_sweep import WebhookSweep

__all__ = [
    "ApiKey",
    "Case",
    "Customer",
    "ForeignItem",
    "Invoice",
    "ItemPrice",
    "KeySpending",
    "Meter",
    "MeterVersion",
    "PeriodBoundary",
    "Plan",
    "Price",
    "RateLimit",
    "Source",
    "Subscription",
    "SubscriptionItem",
    "WebhookEvent",
    "WebhookSweep",
]
