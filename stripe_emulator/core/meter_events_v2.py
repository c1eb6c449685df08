"""`/v2/billing/meter_events` and the stream: JSON in, and most refusals told later."""

from typing import Any

from stripe_emulator.core import error_reports
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.errors import ApiError, malformed
from stripe_emulator.core.intake import Judged, Offered, take
from stripe_emulator.core.kinds import Kind, String
from stripe_emulator.core.moments import rfc3339, unix_second
from stripe_emulator.core.params import Array, Hash, Texts
from stripe_emulator.core.usage_rules import Refused

STREAM_LIMIT = 100
PAYLOAD_KEYS = 100


class Moment(Kind):
    """An RFC 3339 timestamp; the whole second it lies in counts."""

    def parse(self, raw: Any, name: str) -> int:
        try:
            return unix_second(raw)
        except (TypeError, ValueError):
            raise malformed(
                f"{name} must be an RFC 3339 timestamp such as 2026-11-23T12:00:00Z.",
                param=name,
                code="invalid_timestamp",
            ) from None


EVENT = Hash(
    {
        "event_name": String(100),
        "identifier": String(100),
        "payload": Texts(PAYLOAD_KEYS, 100, 100),
        "timestamp": Moment(),
    },
    "event_name",
    "payload",
)
STREAM = Hash({"events": Array(EVENT, STREAM_LIMIT)}, "events")
_CODES = {
    "no_meter": "no_meter",
    "archived_meter": "archived_meter",
    "no_customer_defined": "payload_no_customer_defined",
    "value_not_found": "payload_no_value_defined",
    "invalid_value": "payload_invalid_value",
    "value_too_many_digits": "payload_invalid_value",
    "duplicate": "duplicate_meter_event",
}
"""Refusals `/v2/billing/meter_events` gives at once; those without a published code come later."""


def create(call: Call) -> Answer:
    """Take one event. All refusals are a 400 (status inferred)."""
    world = call.world
    offered = _offered(call, call.params)
    try:
        usable, verdict = take(world, offered, call.faults)
    except Judged as judged:
        call.events.append(judged.verdict)
        code = _CODES.get(judged.refusal.reason)
        if code is not None:
            raise ApiError(400, judged.refusal.message, code=code) from judged
        error_reports.gather(world, offered, judged.refusal)
        timestamp = world.clock.second() if offered.timestamp is None else offered.timestamp
    else:
        call.events.append(verdict)
        timestamp = usable.timestamp
    return {
        "object": "v2.billing.meter_event",
        "created": rfc3339(world.clock.now()),
        "event_name": offered.event_name,
        "identifier": offered.identifier,
        "livemode": call.livemode,
        "payload": dict(offered.payload),
        "timestamp": rfc3339(timestamp),
    }


def stream(call: Call) -> Answer:
    """Take up to a hundred events and say nothing about any of them.

    A refused one is reported later; one with a known identifier is dropped in silence (inferred).
    """
    with call.world.identifiers.together():
        _take_all(call)
    return {}


def _take_all(call: Call) -> None:
    for event in call.params["events"]:
        offered = _offered(call, event)
        if call.faults.strikes("reject_in_stream"):
            refusal = Refused("customer_not_found", "Refused by the emulator on request.")
            error_reports.gather(call.world, offered, refusal)
            call.events.append(offered.verdict("refused:on_request"))
            continue
        try:
            _, verdict = take(call.world, offered, call.faults)
        except Judged as judged:
            error_reports.gather(call.world, offered, judged.refusal)
            verdict = judged.verdict
        call.events.append(verdict)


def _offered(call: Call, params: dict[str, Any]) -> Offered:
    return Offered(
        event_name=params["event_name"],
        payload=params["payload"],
        identifier=params.get("identifier") or call.world.ids.characters(32),
        timestamp=params.get("timestamp"),
        livemode=call.livemode,
    )
