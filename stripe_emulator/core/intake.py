"""Taking a meter event in: the identifier's memory, acceptance, and the later moment it counts."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from stripe_emulator.core import alerts
from stripe_emulator.core.arrivals import EventVerdict
from stripe_emulator.core.records import IdentifierRecord
from stripe_emulator.core.usage_books import AdditiveBook, Entry, OrderedBook
from stripe_emulator.core.usage_rules import Refused, Usable, customer_of, fingerprint, ruling
from stripe_emulator.core.violations import Violation
from stripe_emulator.core.world import World


@dataclass(frozen=True, slots=True)
class Offered:
    """One meter event as a client sent it."""

    event_name: str
    payload: Mapping[str, str]
    identifier: str
    timestamp: int | None
    livemode: bool


def take(world: World, offered: Offered) -> tuple[Usable, EventVerdict]:
    """Accept one event, or raise Refused with the verdict in its `verdict`.

    A known identifier is refused as a duplicate until its window is over; after that it acts anew,
    and that is also a violation. Rules come first, so a repeat can be refused for another reason
    than being one (inferred).
    """
    verdict = _opened(world, offered)
    try:
        usable = ruling(
            world,
            livemode=offered.livemode,
            event_name=offered.event_name,
            payload=offered.payload,
            timestamp=offered.timestamp,
        )
        print_ = fingerprint(offered.event_name, offered.payload, offered.timestamp)
        _check_identifier(world, offered, print_)
    except Refused as refusal:
        duplicate = refusal.reason == "duplicate"
        verdict.verdict = "duplicate" if duplicate else f"refused:{refusal.reason}"
        if refusal.reason.startswith("timestamp_"):
            _violate(
                world,
                "timestamp_out_of_range",
                identifier=offered.identifier,
                timestamp=offered.timestamp,
            )
        raise Judged(refusal, verdict) from refusal
    verdict.verdict = "accepted"
    verdict.timestamp = usable.timestamp
    verdict.customer = usable.customer
    verdict.value = str(usable.value)
    _accept(world, offered, usable, print_)
    return usable, verdict


class Judged(Exception):
    """A refusal together with what the arrival log will say about it."""

    def __init__(self, refusal: Refused, verdict: EventVerdict) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.verdict = verdict


def settle_due(world: World, now: float) -> None:
    """Count what has waited long enough."""
    while world.settling and world.settling[0][0] <= now:
        _, meter_id, customer, entry = heapq.heappop(world.settling)
        if entry.sequence in world.cancelled_unsettled:
            world.cancelled_unsettled.discard(entry.sequence)
            continue
        _count(world, meter_id, customer, entry)


def cancel(world: World, record: IdentifierRecord) -> None:
    """Take an accepted event back, counted or not."""
    entry = entry_of(record)
    if any(waiting[3].sequence == entry.sequence for waiting in world.settling):
        world.cancelled_unsettled.add(entry.sequence)
        return
    book_of(world, record.meter, record.customer).remove(entry)


def entry_of(record: IdentifierRecord) -> Entry:
    return Entry(record.timestamp, record.sequence, Decimal(record.value))


def book_of(world: World, meter_id: str, customer: str) -> AdditiveBook | OrderedBook:
    meter = world.meters.find(meter_id)
    if meter is None:
        raise LookupError(f"the books name a meter that was never made: {meter_id}")
    return world.usage.book(
        meter_id,
        customer,
        formula=meter["default_aggregation"]["formula"],
        window=meter["event_time_window"],
    )


def _opened(world: World, offered: Offered) -> EventVerdict:
    meter = world.meter_names.get((offered.event_name, offered.livemode))
    value_key = meter["value_settings"]["event_payload_key"] if meter else "value"
    return EventVerdict(
        event_name=offered.event_name,
        identifier=offered.identifier,
        timestamp=offered.timestamp,
        customer=customer_of(meter, offered.payload),
        value=offered.payload.get(value_key),
        verdict="",
    )


def _check_identifier(world: World, offered: Offered, print_: str) -> None:
    known = world.identifiers.get(identifier_key(offered.identifier, livemode=offered.livemode))
    if known is None:
        return
    if known.fingerprint != print_:
        _violate(world, "identifier_with_two_payloads", identifier=offered.identifier)
    if world.clock.now() - known.received_at < world.settings.identifier_window_seconds:
        raise Refused(
            "duplicate",
            f"An event already exists with identifier {offered.identifier}.",
            param="identifier",
        )
    _violate(
        world,
        "identifier_after_window",
        identifier=offered.identifier,
        first_received_at=known.received_at,
    )


def _accept(world: World, offered: Offered, usable: Usable, print_: str) -> None:
    now = world.clock.now()
    entry = Entry(usable.timestamp, world.count("usage"), usable.value)
    world.identifiers.put(
        identifier_key(offered.identifier, livemode=offered.livemode),
        IdentifierRecord(
            received_at=now,
            fingerprint=print_,
            meter=usable.meter["id"],
            customer=usable.customer,
            value=str(usable.value),
            timestamp=usable.timestamp,
            sequence=entry.sequence,
        ),
    )
    lag = world.settings.settle_lag_seconds
    if lag > 0:
        heapq.heappush(world.settling, (now + lag, usable.meter["id"], usable.customer, entry))
    else:
        _count(world, usable.meter["id"], usable.customer, entry)


def _count(world: World, meter_id: str, customer: str, entry: Entry) -> None:
    book_of(world, meter_id, customer).add(entry)
    alerts.check(world, meter_id, customer)


def identifier_key(identifier: str, *, livemode: bool) -> str:
    """Return where an identifier is remembered.

    Per account and mode, over all meters (the strict reading).
    """
    return f"{'live' if livemode else 'test'}:{identifier}"


def _violate(world: World, kind: str, **detail: object) -> None:
    world.violations.add(Violation(kind, world.clock.now(), world.cause.arrival, detail))
