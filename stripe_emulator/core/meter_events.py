"""`POST /v1/billing/meter_events`: one event, refused at once or accepted."""

from stripe_emulator.core import error_reports
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.errors import ApiError
from stripe_emulator.core.intake import Judged, Offered, take
from stripe_emulator.core.kinds import Integer, String
from stripe_emulator.core.params import EXPAND, Hash, Texts
from stripe_emulator.core.usage_rules import Refused

PAYLOAD_KEYS = 100
CREATE = Hash(
    {
        "event_name": String(100),
        "expand": EXPAND,
        "identifier": String(100),
        "payload": Texts(PAYLOAD_KEYS, 100, 100),
        "timestamp": Integer(0),
    },
    "event_name",
    "payload",
)
_LATE = {"no_meter", "archived_meter", "customer_not_found"}
"""Refusals that v1 may give at once or later: not established, so a setting decides."""


def create(call: Call) -> Answer:
    world, given = call.world, call.given
    offered = Offered(
        event_name=given("event_name"),
        payload=given("payload"),
        identifier=given("identifier") or world.ids.characters(32),
        timestamp=given("timestamp"),
        livemode=call.livemode,
    )
    try:
        usable, verdict = take(world, offered, call.faults)
    except Judged as judged:
        call.events.append(judged.verdict)
        if judged.refusal.reason not in _LATE or world.settings.unknown_usage == "refuse":
            raise _refusal(judged.refusal) from judged
        error_reports.gather(world, offered, judged.refusal)
        timestamp = offered.timestamp if offered.timestamp is not None else world.clock.second()
    else:
        call.events.append(verdict)
        timestamp = usable.timestamp
    return {
        "object": "billing.meter_event",
        "created": world.clock.second(),
        "event_name": offered.event_name,
        "identifier": offered.identifier,
        "livemode": call.livemode,
        "payload": dict(offered.payload),
        "timestamp": timestamp,
    }


def _refusal(refusal: Refused) -> ApiError:
    """Return the 400. Only a duplicate says not to retry (field: langfuse pull request 16292)."""
    if refusal.reason == "duplicate":
        return ApiError(
            400, refusal.message, param="identifier", headers={"Stripe-Should-Retry": "false"}
        )
    code = "resource_missing" if refusal.reason in {"customer_not_found", "no_meter"} else None
    return ApiError(400, refusal.message, param=refusal.param, code=code)
