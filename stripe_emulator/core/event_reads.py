"""Reading events back: `/v1/events` for snapshots, `/v2/core/events` for thin ones."""

import base64
from typing import Any

import msgspec

from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, in_span
from stripe_emulator.core.errors import ApiError, invalid, malformed, missing_object
from stripe_emulator.core.kinds import Boolean, Integer, String
from stripe_emulator.core.moments import unix_second
from stripe_emulator.core.params import CREATED, EXPAND, Array, Hash, anything, listing
from stripe_emulator.core.settings import DAY_SECONDS

KEPT_SECONDS = 30 * DAY_SECONDS
MAX_TYPES = 20
DEFAULT_PAGE = 20

LIST = listing(
    created=CREATED,
    delivery_success=Boolean(),
    expand=EXPAND,
    type=String(),
    types=Array(String(), MAX_TYPES),
)
LIST_V2 = Hash(
    {
        "created": anything(),
        "limit": Integer(1, 100),
        "object_id": String(),
        "page": String(),
        "types": Array(String(), MAX_TYPES),
    }
)


def list_all(call: Call) -> Answer:
    """Return the events of the last thirty days."""
    given = call.given
    if given("type") is not None and given("types") is not None:
        raise invalid("You cannot use both type and types.", param="types")
    types = given("types") or ([given("type")] if given("type") else None)
    horizon = call.world.clock.second() - KEPT_SECONDS
    delivered = given("delivery_success")
    return call.world.events.page(
        call.params,
        url=call.url,
        livemode=call.livemode,
        keep=lambda each: (
            each["created"] >= horizon
            and (types is None or _matches(each["type"], types))
            and (delivered is None or delivered == (each["pending_webhooks"] == 0))
            and in_span(given("created"), each["created"])
        ),
    )


def retrieve(call: Call) -> Answer:
    """Return one event of the last thirty days."""
    event = call.world.events.get(call.path["id"], livemode=call.livemode)
    if event["created"] < call.world.clock.second() - KEPT_SECONDS:
        raise missing_object("event", event["id"])
    return event


def retrieve_v2(call: Call) -> Answer:
    """Return a thin event with its data."""
    found = call.world.thin_events.find(call.path["id"])
    if found is None or found["livemode"] != call.livemode:
        raise ApiError(404, f"No such event: '{call.path['id']}'", code="not_found")
    return found


def list_v2(call: Call) -> Answer:
    """Return one page, newest first; the next is named by a URL."""
    asked, start = _page_asked(call.params)
    given = asked.get
    bounds = {name: _moment(text, name) for name, text in (given("created") or {}).items()}
    limit, types = given("limit", DEFAULT_PAGE), given("types")
    chosen = [
        each
        for each in reversed(list(call.world.thin_events))
        if each["livemode"] == call.livemode
        and (types is None or each["type"] in types)
        and given("object_id") in {None, (each.get("related_object") or {}).get("id")}
        and _within(each["_at"], bounds)
    ]
    return {
        "data": [_without_data(each) for each in chosen[start : start + limit]],
        "next_page_url": _page_url(call, asked, start + limit)
        if start + limit < len(chosen)
        else None,
        "previous_page_url": _page_url(call, asked, max(0, start - limit)) if start else None,
    }


def _matches(type_: str, wanted: list[str]) -> bool:
    return any(
        type_ == each or (each.endswith("*") and type_.startswith(each[:-1])) for each in wanted
    )


def _without_data(event: Object) -> Object:
    return {key: value for key, value in event.items() if key != "data"}


def _moment(text: Any, name: str) -> int:
    try:
        return unix_second(text)
    except (TypeError, ValueError):
        raise malformed(
            f"created[{name}] must be an RFC 3339 timestamp.", param=f"created[{name}]"
        ) from None


def _within(at: float, bounds: dict[str, int]) -> bool:
    tests = {"gt": at > bounds.get("gt", -1), "gte": at >= bounds.get("gte", 0)}
    tests |= {"lt": at < bounds.get("lt", 0), "lte": at <= bounds.get("lte", 0)}
    return all(tests[name] for name in bounds)


def _page_url(call: Call, asked: Object, start: int) -> str:
    """Return the URL of another page: its token repeats the question, so filters hold on."""
    token = base64.urlsafe_b64encode(msgspec.json.encode([asked, start])).decode()
    return f"{call.url}?page={token}"


def _page_asked(params: Object) -> tuple[Object, int]:
    token = params.get("page")
    if token is None:
        return params, 0
    try:
        asked, start = msgspec.json.decode(base64.urlsafe_b64decode(token), type=tuple[Object, int])
    except (ValueError, msgspec.MsgspecError):
        raise malformed("Invalid page token.", param="page", code="invalid_page") from None
    return asked, start
