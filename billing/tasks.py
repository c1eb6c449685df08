"""Wake-ups of billing's passes. What is due is found in the database, never in a message."""

from __future__ import annotations

from dataclasses import asdict

import structlog
from celery import shared_task
from django.conf import settings
from django.utils import timezone
from django.utils.module_loading import import_string

from billing import customers, meter_checks, subscriptions, wakeups
from billing.clock import database_clock
from billing.webhooks import inbox, sweep

log = structlog.get_logger()

WEBHOOKS_PER_PASS = 500
WEBHOOK_PASS_SECONDS = 15
"""With one call's deadline of 25 s added it stays below the soft limit."""
ROWS_PER_SWEEP = 100
EVENT_SWEEP_SECONDS = 15


@shared_task(name="billing.process_webhooks", ignore_result=True)
def process_webhooks() -> None:
    """Handle stored webhooks that are due."""
    result = inbox.process_due(
        routes=import_string(settings.BILLING_WEBHOOK_ROUTES),
        limit=WEBHOOKS_PER_PASS,
        seconds=WEBHOOK_PASS_SECONDS,
    )
    _tell("billing.webhooks.pass_finished", asdict(result))


@shared_task(name="billing.sweep_webhooks", ignore_result=True)
def sweep_webhooks() -> None:
    """Go on with today's sweep over Stripe's events, or begin it; wake up again for the rest."""
    result = sweep.sweep_nightly(
        routes=import_string(settings.BILLING_WEBHOOK_ROUTES),
        clock=database_clock,
        seconds=EVENT_SWEEP_SECONDS,
    )
    if result.sweep_id is not None:
        log.info("billing.webhook_sweep.pass_finished", **asdict(result))
    if result.may_go_on:
        wakeups.after_commit("billing.sweep_webhooks")


@shared_task(name="billing.finish_customers", ignore_result=True)
def finish_customers() -> None:
    """Give customers without a Stripe id theirs."""
    result = customers.ensure_customers_at_stripe(now=timezone.now(), limit=ROWS_PER_SWEEP)
    _tell("billing.customers.sweep_finished", asdict(result))


@shared_task(name="billing.finish_subscriptions", ignore_result=True)
def finish_subscriptions() -> None:
    """Give subscriptions without a Stripe id theirs."""
    result = subscriptions.ensure_subscriptions_at_stripe(now=timezone.now(), limit=ROWS_PER_SWEEP)
    _tell("billing.subscriptions.sweep_finished", asdict(result))


@shared_task(name="billing.check_meters", ignore_result=True)
def check_meters() -> None:
    """Compare every meter with Stripe's."""
    result = meter_checks.check_all(timezone.now())
    log.info("billing.meters.checked", **asdict(result))


def _tell(event: str, counts: dict[str, int]) -> None:
    # Most passes find nothing, several times a minute.
    if any(counts.values()):
        log.info(event, **counts)
