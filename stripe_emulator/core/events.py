"""What happened, as snapshot and thin events, and who is owed a delivery of it."""

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
    endpoints = [
        each
        for each in world.webhook_endpoints
        if not each["_thin"] and each["livemode"] == obj["livemode"] and _listens(each, type_)
    ]
    event["pending_webhooks"] = len(endpoints)
    for endpoint in endpoints:
        shown = render(world, event) | {"api_version": endpoint["api_version"] or API_VERSION}
        world.outbox.owe(
            event_id=event["id"],
            endpoint_id=endpoint["id"],
            body=snapshot_body(shown),
            due_at=world.clock.now(),
        )
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
    world.thin_events.add(event | {"data": data})
    notice = snapshot_body({key: value for key, value in event.items() if key != "_at"})
    for endpoint in world.webhook_endpoints:
        if endpoint["_thin"] and endpoint["livemode"] == livemode and _listens(endpoint, type_):
            world.outbox.owe(
                event_id=event["id"],
                endpoint_id=endpoint["id"],
                body=notice,
                due_at=world.clock.now(),
            )
    return event


def changes(before: Object, after: Object) -> Object:
    """Return the former values of the top-level fields that differ, as `previous_attributes`."""
    return {key: value for key, value in before.items() if after.get(key) != value}


def _listens(endpoint: Object, type_: str) -> bool:
    wanted: list[Any] = endpoint["enabled_events"]
    return endpoint["status"] == "enabled" and ("*" in wanted or type_ in wanted)
