"""Handing deliveries out and learning how they went.

Who may be late, doubled or forged is decided by `faults`.
"""

from stripe_emulator.core import events, webhook_endpoints
from stripe_emulator.core.billing import finalization
from stripe_emulator.core.deliveries import Delivery, Owed, signed_headers
from stripe_emulator.core.faults import Faults
from stripe_emulator.core.world import World

SUCCESS = range(200, 300)
RECENT = 200
FORGERS_SECRET = "whsec_not_the_secret"  # noqa: S105  nobody's


def take_due(world: World, faults: Faults) -> list[Delivery]:
    """Return the deliveries to make now, signed now.

    Each needs a `report`; one that is never reported counts as delivered to nobody and is not
    repeated.
    """
    now = world.clock.now()
    due: list[Owed] = []
    taken = world.outbox.take_due(now)
    if _told_twice(world, faults, taken):
        taken += world.outbox.take_due(now)
    for owed in taken:
        due += _disturbed(world, faults, owed, now)
    if faults.strikes("webhook_shuffle"):
        faults.shuffle(due)
    return [delivery for owed in due if (delivery := _signed(world, owed)) is not None]


def report(world: World, delivery: Delivery, status: int) -> None:
    """Record the answer to a delivery (0 for none); anything but 2xx is repeated after a wait."""
    owed = world.outbox.under_way.pop(delivery.id, None)
    _remember(world, delivery, status)
    if owed is None:
        return
    if status in SUCCESS:
        event = world.events.find(delivery.event_id)
        if event is not None and event["pending_webhooks"] > 0:
            event["pending_webhooks"] -= 1
            if event["pending_webhooks"] == 0:
                finalization.delivered(world, event)
        return
    waits = world.settings.webhook_retry_seconds
    if owed.attempt <= len(waits):
        world.outbox.put(owed, world.clock.now() + waits[owed.attempt - 1])


def _told_twice(world: World, faults: Faults, taken: list[Owed]) -> bool:
    """Make second events for changes told of here for the first time; tell whether there are any.

    Each goes to everybody who hears of the first, and is in the lists of events as well.
    """
    struck = False
    for owed in taken:
        if owed.attempt == 0 and events.told_once(world, owed.event_id):
            rule = faults.strikes("webhook_second_event")
            if rule is not None:
                events.tell_again(world, owed.event_id)
                struck = True
    return struck


def _disturbed(world: World, faults: Faults, owed: Owed, now: float) -> list[Owed]:
    """Return what becomes of one owed delivery under the rules for webhooks that are on."""
    if faults.strikes("webhook_drop"):
        return []
    late = faults.strikes("webhook_late")
    if late is not None:
        world.outbox.put(owed, now + late.delay_seconds)
        return []
    sent = [owed]
    if faults.strikes("webhook_duplicate"):
        sent.append(owed)
    forged = faults.strikes("webhook_forge")
    if forged is not None:
        sent.append(Owed(-owed.id, owed.event_id, owed.endpoint_id, owed.body, forged=True))
    replayed = faults.strikes("webhook_replay")
    if replayed is not None:
        age = int(replayed.delay_seconds) or 3600
        sent.append(
            Owed(-owed.id, owed.event_id, owed.endpoint_id, owed.body, signature_age_seconds=age)
        )
    return sent


def _signed(world: World, owed: Owed) -> Delivery | None:
    endpoint = world.webhook_endpoints.find(owed.endpoint_id)
    if endpoint is None or endpoint["status"] != "enabled":
        return None
    owed.attempt += 1
    if owed.id > 0:
        world.outbox.under_way[owed.id] = owed
    secrets = webhook_endpoints.secrets_of(endpoint, world.clock.now())
    headers = signed_headers(
        owed.body,
        secrets=[FORGERS_SECRET] if owed.forged else secrets,
        at=world.clock.second() - owed.signature_age_seconds,
        livemode=endpoint["livemode"],
    )
    return Delivery(
        url=endpoint["url"],
        headers=headers,
        body=owed.body,
        id=owed.id,
        event_id=owed.event_id,
        endpoint_id=owed.endpoint_id,
        attempt=owed.attempt,
    )


def _remember(world: World, delivery: Delivery, status: int) -> None:
    recent = world.outbox.recent
    recent.append(
        {
            "at": world.clock.now(),
            "event": delivery.event_id,
            "url": delivery.url,
            "attempt": delivery.attempt,
            "status": status,
        }
    )
    del recent[:-RECENT]
