"""Why accepted usage is on no invoice: what was the matter with the customer's subscriptions."""

from dataclasses import dataclass
from decimal import Decimal

from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World

NEVER = float("inf")


@dataclass(slots=True)
class Used:
    """One accepted event that was not taken back in time to matter."""

    customer: str
    meter: str
    timestamp: int
    value: Decimal
    order: int
    """The number of the request that brought it."""
    cancelled: float = NEVER
    """The number of the request that took it back."""


def why(world: World, used: Used) -> str:
    """Return what was the matter with the customer's subscriptions at the moment of the usage."""
    reasons = {
        _why_not_by(world, subscription, used)
        for subscription in world.subscriptions
        if subscription["customer"] == used.customer
    }
    order = ("running", "pending", "trial", "paused", "canceled", "not invoiced")
    return next((each for each in order if each in reasons), "no subscription")


def _why_not_by(world: World, subscription: Object, used: Used) -> str:
    """Return why this subscription did not bill the usage, in one word for the judge."""
    if not _covers(world, subscription, used):
        return "no subscription"
    if _waits(world, subscription, used):
        return "pending"
    trial_end = subscription["trial_end"]
    if trial_end is not None and subscription["trial_start"] <= used.timestamp < trial_end:
        return "trial"
    if subscription["ended_at"] is not None:
        return "canceled"
    if subscription["status"] == "paused":
        return "paused"
    running = any(
        item["_since"] <= used.timestamp
        or any(span["start"] <= used.timestamp < span["end"] for span in item["_earlier"])
        for item in subscription["items"]["data"]
        if meter_of(world, item["price"]) == used.meter
    )
    return "running" if running else "not invoiced"


def _covers(world: World, subscription: Object, used: Used) -> bool:
    """Tell whether the subscription had a price of the meter at the moment of the usage.

    That may lie ahead: behind a planned end, or in a period that has not begun.
    """
    ended = subscription["ended_at"] or subscription["cancel_at"]
    if used.timestamp < subscription["start_date"] or (
        ended is not None and used.timestamp >= ended
    ):
        return False
    meters = [meter_of(world, item["price"]) for item in subscription["items"]["data"]]
    meters += [
        meter_of(world, left["price"])
        for left in subscription["_left_items"]
        if used.timestamp < left["until"]
    ]
    return used.meter in meters


def _waits(world: World, subscription: Object, used: Used) -> bool:
    """Tell whether the usage became an invoice item that is on no invoice yet."""
    return any(
        item["invoice"] is None
        and meter_of(world, price_of(item)) == used.meter
        and item["period"]["start"] <= used.timestamp < item["period"]["end"]
        for item in world.invoice_items
        if item["customer"] == subscription["customer"]
    )


def meter_of(world: World, price_id: str | None) -> str | None:
    price = world.prices.find(price_id or "") or {}
    meter: str | None = (price.get("recurring") or {}).get("meter")
    return meter


def price_of(line: Object) -> str | None:
    details = (line["pricing"] or {}).get("price_details") or {}
    price: str | None = details.get("price")
    return price
