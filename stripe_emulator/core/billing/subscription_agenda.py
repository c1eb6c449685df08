"""When time changes a subscription next. What it does then stands in `subscription_life`."""

from collections.abc import Iterator

from stripe_emulator.core.collection import Object
from stripe_emulator.core.settings import DAY_SECONDS, HOUR_SECONDS
from stripe_emulator.core.world import World

AGENDA_KIND = "subscription"
THRESHOLD_KIND = "threshold"
TRIAL_NOTICE_SECONDS = 3 * DAY_SECONDS
"""How long before its end a trial is announced to end. Source: docs.stripe.com/billing/webhooks."""


def plan(world: World, subscription: Object) -> None:
    """Put the next moment on the agenda; one planned before it no longer counts."""
    customer = world.customers.find(subscription["customer"])
    subscription["_due"] = None
    if customer is None or subscription["ended_at"] is not None:
        return
    due = min(_moments(world, subscription), default=None)
    if due is not None:
        due = subscription["_due"] = max(due, world.second_for(customer))
        world.agenda_for(customer).add(due, AGENDA_KIND, subscription["id"])


def watch(world: World, subscription: Object) -> None:
    """Let usage of the customer be compared with the subscription's thresholds, if it has any."""
    items = subscription["items"]["data"]
    watched = world.thresholds_of.setdefault(subscription["customer"], set())
    if subscription["billing_thresholds"] or any(each["billing_thresholds"] for each in items):
        watched.add(subscription["id"])
    else:
        watched.discard(subscription["id"])


def usage_counted(world: World, customer_id: str) -> None:
    """Have the customer's thresholds looked at when usage has counted, a moment later."""
    customer = world.customers.find(customer_id)
    for subscription_id in sorted(world.thresholds_of.get(customer_id, ())):
        if customer is not None:
            now = world.second_for(customer)
            world.agenda_for(customer).add(now, THRESHOLD_KIND, subscription_id)


def first_payment_deadline(world: World, subscription: Object) -> int:
    hours: int = world.settings.first_payment_hours
    return int(subscription["created"]) + hours * HOUR_SECONDS


def upcoming_at(world: World, subscription: Object) -> int | None:
    """Return when the next invoice is announced; a period shorter than the notice has none."""
    days = world.settings.upcoming_invoice_days
    items = subscription["items"]["data"]
    item = min(items, key=lambda each: each["current_period_end"])
    at = int(item["current_period_end"]) - days * DAY_SECONDS
    if days == 0 or at <= item["current_period_start"] or subscription["_announced"] >= at:
        return None
    return at


def _moments(world: World, subscription: Object) -> Iterator[int]:
    if subscription["cancel_at"] is not None:
        yield subscription["cancel_at"]
    if subscription["pending_update"] is not None:
        yield subscription["pending_update"]["expires_at"]
    if subscription["status"] == "paused":
        if subscription["_resumption"] is not None:
            yield subscription["_resumption"]["expires_at"]
        return
    yield from (item["current_period_end"] for item in subscription["items"]["data"])
    if subscription["status"] == "incomplete":
        yield first_payment_deadline(world, subscription)
    if subscription["status"] == "trialing" and not subscription["_trial_end_told"]:
        yield subscription["trial_end"] - TRIAL_NOTICE_SECONDS
    resumes_at = (subscription["pause_collection"] or {}).get("resumes_at")
    if resumes_at is not None:
        yield resumes_at
    announced = upcoming_at(world, subscription)
    if announced is not None and subscription["status"] != "trialing":
        yield announced
