"""Relations between settings that usage depends on, checked before anything starts."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from usage.claiming import STRIPE_ACCEPTS_DAYS

STRIPE_REMEMBERS_SECONDS = 24 * 3600
"""How long Stripe keeps an identifier at least. Source: its reference of meter events."""
LATE_ARRIVAL_SECONDS = 15 * 60
"""How much later than its beginning a call we gave up on may still be processed (A3)."""
STRIPE_AHEAD_SECONDS = 300
"""How far ahead a timestamp may be. Source: Stripe's reference of meter events."""


@register()
def check_relations(**_: Any) -> list[CheckMessage]:
    """Return an error for each relation that does not hold."""
    call = settings.STRIPE_CONNECT_TIMEOUT_SECONDS + settings.STRIPE_CALL_DEADLINE_SECONDS
    relations = {
        "USAGE_LEASE_SECONDS must outlast a whole call to Stripe": call
        < settings.USAGE_LEASE_SECONDS,
        "USAGE_DOUBT_HOURS, a whole call and a late arrival must end within Stripe's 24 h": (
            settings.USAGE_DOUBT_HOURS * 3600 + call + LATE_ARRIVAL_SECONDS
            < STRIPE_REMEMBERS_SECONDS
        ),
        "USAGE_DELIVERY_PASS_SECONDS and a whole call must fit CELERY_TASK_SOFT_TIME_LIMIT": (
            settings.USAGE_DELIVERY_PASS_SECONDS + call < settings.CELERY_TASK_SOFT_TIME_LIMIT
        ),
        "USAGE_LATE_DAYS must leave time to deliver before Stripe refuses": (
            settings.USAGE_LATE_DAYS < STRIPE_ACCEPTS_DAYS
        ),
        "USAGE_AHEAD_SECONDS must stay below what Stripe takes": (
            settings.USAGE_AHEAD_SECONDS < STRIPE_AHEAD_SECONDS
        ),
        "the broker's visibility timeout must outlast the longest task": (
            settings.CELERY_BROKER_TRANSPORT_OPTIONS.get("visibility_timeout", float("inf"))
            > settings.CELERY_TASK_TIME_LIMIT
        ),
    }
    return [
        Error(f"{relation}.", id=f"usage.E{number:03}")
        for number, (relation, holds) in enumerate(relations.items(), start=1)
        if not holds
    ]
