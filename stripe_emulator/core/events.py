"""What happened, as snapshot and thin events, and who is owed a delivery of it."""

import copy
from typing import Any

from stripe_emulator.core.collection import Object
from stripe_emulator.core.deliveries import snapshot_body
from stripe_emulator.core.expansion import render
from stripe_emulator.core.moments import rfc3339
from stripe_emulator.core.world import World
from stripe_emulator.version import API_VERSION


def emit(
    world: World,
    type_: str,
    obj: Object,
    *,
    previous: Object | None = None,
) -> Object:
    """Record a snapshot event about `obj` and owe it to every endpoint that listens.

    `previous` holds the former values of changed fields; without one the event has none.
    """
    data: Object = {"object": render(world, obj)}
    if previous is not None:
        data["previous_attributes"] = previous
    event = world.events.add(
        {
            "id": world.ids.new("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": world.second(),
            "data": data,
            "livemode": obj["livemode"],
            "pending_webhooks": 0,
            "request": {
                "id": world.cause.request_id,
                "idempotency_key": world.cause.idempotency_key,
            },
            "type": type_,
        }
    )
    _owe(world, event)
    return event


def emit_thin(
    world: World,
    type_: str,
    *,
    livemode: bool,
    data: Object,
    related_object: Object | None = None,
) -> Object:
    """Record a thin event: its delivery is a notice without `data`, which must be fetched."""
    event: Object = {
        "id": world.ids.new("evt"),
        "object": "v2.core.event",
        "type": type_,
        "created": rfc3339(world.clock.now()),
        "livemode": livemode,
        "context": None,
        "reason": None,
        "_at": world.clock.now(),
    }
    if related_object is not None:
        event["related_object"] = related_object
    event["data"] = data
    world.thin_events.add(event)
    _owe_notice(world, event)
    return event


def told_once(world: World, event_id: str) -> bool:
    """Tell whether the change behind this event has no second event yet, and can have one."""
    event = world.events.find(event_id) or world.thin_events.find(event_id)
    return event is not None and not event.get("_told_twice")


def tell_again(world: World, event_id: str) -> None:
    """Record a second event, of another id, for the change behind this one."""
    event = world.events.find(event_id)
    collection = world.events if event is not None else world.thin_events
    first = collection.find(event_id)
    if first is None:
        raise LookupError(f"there is no event {event_id} to tell again")
    first["_told_twice"] = True
    second = collection.add(copy.deepcopy(first) | {"id": world.ids.new("evt")})
    if event is not None:
        _owe(world, second)
    else:
        _owe_notice(world, second)


def _owe(world: World, event: Object) -> None:
    endpoints = _listeners(world, event, thin=False)
    event["pending_webhooks"] = len(endpoints)
    for endpoint in endpoints:
        shown = render(world, event) | {"api_version": endpoint["api_version"] or API_VERSION}
        _put(world, event, endpoint, shown)


def _owe_notice(world: World, event: Object) -> None:
    """Owe a thin event: what is delivered has no data."""
    for endpoint in _listeners(world, event, thin=True):
        shown = {key: value for key, value in render(world, event).items() if key != "data"}
        _put(world, event, endpoint, shown)


def _put(world: World, event: Object, endpoint: Object, shown: Object) -> None:
    world.outbox.owe(
        event_id=event["id"],
        endpoint_id=endpoint["id"],
        body=snapshot_body(shown),
        due_at=world.clock.now(),
    )


def changes(before: Object, after: Object) -> Object:
    """Return the former values of the top-level fields that differ, as `previous_attributes`."""
    return {
        key: value
        for key, value in before.items()
        if not key.startswith("_") and after.get(key) != value
    }


def _listeners(world: World, event: Object, *, thin: bool) -> list[Object]:
    def listens(endpoint: Object) -> bool:
        wanted: list[Any] = endpoint["enabled_events"]
        return endpoint["status"] == "enabled" and ("*" in wanted or event["type"] in wanted)

    return [
        endpoint
        for endpoint in world.webhook_endpoints
        if endpoint["_thin"] == thin
        and endpoint["livemode"] == event["livemode"]
        and listens(endpoint)
    ]
