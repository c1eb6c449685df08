"""Cancelling a meter event, within a day of its receipt, on v1 and v2."""

import msgspec

from stripe_emulator.core import settling
from stripe_emulator.core.arrivals import EventVerdict
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import ApiError
from stripe_emulator.core.kinds import Choice, Kind, String
from stripe_emulator.core.moments import rfc3339
from stripe_emulator.core.params import EXPAND, Hash
from stripe_emulator.core.records import IdentifierRecord

_FIELDS: dict[str, Kind] = {
    "cancel": Hash({"identifier": String(100)}, "identifier"),
    "event_name": String(100),
    "type": Choice("cancel"),
}
CREATE = Hash({**_FIELDS, "expand": EXPAND}, "event_name", "type")
CREATE_V2 = Hash(_FIELDS, "cancel", "event_name", "type")


def create(call: Call) -> Answer:
    return {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": _cancelled(call)},
        "event_name": call.params["event_name"],
        "livemode": call.livemode,
        "status": "pending",
        "type": "cancel",
    }


def create_v2(call: Call) -> Answer:
    return {
        "id": call.world.ids.new("mtr_event_adj"),
        "object": "v2.billing.meter_event_adjustment",
        "cancel": {"identifier": _cancelled(call)},
        "created": rfc3339(call.world.clock.now()),
        "event_name": call.params["event_name"],
        "livemode": call.livemode,
        "status": "pending",
        "type": "cancel",
    }


def _cancelled(call: Call) -> str:
    """Take the event back, and return its identifier."""
    world = call.world
    identifier = (call.given("cancel") or {}).get("identifier")
    if identifier is None:
        raise _refused(call, "An adjustment of type cancel needs `cancel[identifier]`.")
    key = settling.identifier_key(identifier, livemode=call.livemode)
    record = world.identifiers.get(key)
    meter = _meter(call, record)
    if record is None or meter is None or meter["event_name"] != call.params["event_name"]:
        raise _refused(
            call, f"No event with identifier {identifier} for '{call.params['event_name']}'."
        )
    if record.cancelled:
        raise _refused(call, f"The event with identifier {identifier} has already been cancelled.")
    if world.clock.now() - record.received_at >= world.settings.adjustment_span_seconds:
        raise _refused(
            call, f"The event with identifier {identifier} was received more than 24 hours ago."
        )
    settling.cancel(world, record)
    world.identifiers.put(key, msgspec.structs.replace(record, cancelled=True))
    call.cancelled = EventVerdict(
        event_name=meter["event_name"],
        identifier=identifier,
        timestamp=record.timestamp,
        customer=record.customer,
        value=record.value,
        verdict="cancelled",
    )
    return str(identifier)


def _meter(call: Call, record: IdentifierRecord | None) -> Object | None:
    return call.world.meters.find(record.meter) if record else None


def _refused(call: Call, message: str) -> ApiError:
    """Return the refusal in the words of the API it came by (v1's are inferred)."""
    if call.url.startswith("/v2/"):
        return ApiError(400, message, code="invalid_cancel_configuration")
    return ApiError(400, message, param="cancel[identifier]")
