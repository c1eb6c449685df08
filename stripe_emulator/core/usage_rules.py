"""Whether one meter event can be taken: the same rules for v1, v2 and the stream.

What a refusal looks like on each of them stands in `meter_events`, `meter_events_v2` and
`error_reports`.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from stripe_emulator.core.collection import Object
from stripe_emulator.core.settings import DAY_SECONDS
from stripe_emulator.core.world import World

PAST_DAYS = 35
PAST_SECONDS = PAST_DAYS * DAY_SECONDS
FUTURE_SECONDS = 5 * 60
MAX_DIGITS = 15
"""Significant digits of a value. Source: docs.stripe.com/changelog/dahlia/2026-04-22."""

_VALUE = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)


class Refused(Exception):
    """One event cannot be taken; `reason` names the rule."""

    def __init__(self, reason: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.param = param


@dataclass(frozen=True, slots=True)
class Usable:
    """An event that passed the rules."""

    meter: Object
    customer: str
    value: Decimal
    timestamp: int


def ruling(
    world: World,
    *,
    livemode: bool,
    event_name: str,
    payload: Mapping[str, str],
    timestamp: int | None,
) -> Usable:
    """Return what the event means, or raise Refused. A missing timestamp is now."""
    meter = _meter(world, event_name, livemode=livemode)
    customer = _customer(world, meter, payload, livemode=livemode)
    now = world.now_for(customer)
    at = now if timestamp is None else timestamp
    if at < now - PAST_SECONDS:
        raise Refused(
            "timestamp_too_far_in_past",
            f"The event timestamp cannot be more than {PAST_DAYS} days in past. Expected a "
            f"timestamp "
            f"greater than or equal to {now - PAST_SECONDS}, got {at}.",
            param="timestamp",
        )
    if at > now + FUTURE_SECONDS:
        raise Refused(
            "timestamp_in_future",
            f"The event timestamp cannot be more than 5 minutes in the future. Expected a "
            f"timestamp "
            f"less than or equal to {now + FUTURE_SECONDS}, got {at}.",
            param="timestamp",
        )
    return Usable(meter, customer["id"], _value(meter, payload), at)


def customer_of(meter: Object | None, payload: Mapping[str, str]) -> str | None:
    """Return whom an event names, without asking whether they exist."""
    key = meter["customer_mapping"]["event_payload_key"] if meter else "stripe_customer_id"
    return payload.get(key)


def fingerprint(event_name: str, payload: Mapping[str, str], timestamp: int | None) -> str:
    """Return a digest of what a client sent under one identifier."""
    parts = [event_name, str(timestamp), *(f"{key}\x01{payload[key]}" for key in sorted(payload))]
    return hashlib.blake2b("\x00".join(parts).encode(), digest_size=8).hexdigest()


def _meter(world: World, event_name: str, *, livemode: bool) -> Object:
    meter = world.meter_names.get((event_name, livemode))
    if meter is None:
        raise Refused(
            "no_meter", f"No active meter found for event name '{event_name}'.", param="event_name"
        )
    if meter["status"] != "active":
        raise Refused(
            "archived_meter",
            f"No active meter found for event name '{event_name}': {meter['id']} is inactive.",
            param="event_name",
        )
    return meter


def _customer(world: World, meter: Object, payload: Mapping[str, str], *, livemode: bool) -> Object:
    key = meter["customer_mapping"]["event_payload_key"]
    customer_id = payload.get(key)
    if not customer_id:
        raise Refused(
            "no_customer_defined",
            f"The payload must name the customer under the key '{key}'.",
            param=f"payload[{key}]",
        )
    customer = world.customers.find(customer_id)
    if customer is None or customer.get("deleted") or customer["livemode"] != livemode:
        raise Refused(
            "customer_not_found", f"No such customer: '{customer_id}'", param=f"payload[{key}]"
        )
    return customer


def _value(meter: Object, payload: Mapping[str, str]) -> Decimal:
    """Return the exact value.

    A count meter may do without one (not established, the lenient reading).
    """
    key = meter["value_settings"]["event_payload_key"]
    text = payload.get(key)
    if text is None:
        if meter["default_aggregation"]["formula"] == "count":
            return Decimal(1)
        raise Refused(
            "value_not_found",
            f"The payload must hold a value under the key '{key}'.",
            param=f"payload[{key}]",
        )
    if not _VALUE.fullmatch(text):
        raise Refused(
            "invalid_value",
            f"The value under the key '{key}' must be a decimal number, got '{text}'.",
            param=f"payload[{key}]",
        )
    digits = len(text.lstrip("-").replace(".", "").lstrip("0"))
    if digits > MAX_DIGITS:
        raise Refused(
            "value_too_many_digits",
            f"The value may have at most {MAX_DIGITS} significant digits, got '{text}'.",
            param=f"payload[{key}]",
        )
    return Decimal(text)
