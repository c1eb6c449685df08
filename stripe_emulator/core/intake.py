"""Taking a meter event in: the identifier's memory, acceptance, and the later moment it counts."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from stripe_emulator.core import alerts
from stripe_emulator.core.arrivals import Arrival, EventVerdict
from stripe_emulator.core.collection import Object
from stripe_emulator.core.faults import Faults
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

    def verdict(self, verdict: str, *, meter: Object | None = None) -> EventVerdict:
        """Return the line of the arrival log about this event, before anything is looked up."""
        value_key = meter["value_settings"]["event_payload_key"] if meter else "value"
        return EventVerdict(
            event_name=self.event_name,
            identifier=self.identifier,
            timestamp=self.timestamp,
            customer=customer_of(meter, self.payload),
            value=self.payload.get(value_key),
            verdict=verdict,
        )


def take(world: World, offered: Offered, faults: Faults) -> tuple[Usable, EventVerdict]:
    """Accept one event, or raise Refused with the verdict in its `verdict`.

    A known identifier is refused as a duplicate until its window is over; after that it acts anew,
    and that is also a violation. Rules come first, so a repeat can be refused for another reason
    than being one (inferred).
    """
    meter = world.meter_names.get((offered.event_name, offered.livemode))
    verdict = offered.verdict("", meter=meter)
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
    late = faults.strikes("settle_late")
    _accept(world, offered, usable, print_, late_seconds=late.delay_seconds if late else 0.0)
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
        _, _, meter_id, customer, entry, sign = heapq.heappop(world.settling)
        if entry.sequence in world.cancelled_unsettled:
            world.cancelled_unsettled.discard(entry.sequence)
        elif sign > 0:
            _count(world, meter_id, customer, entry)
        else:
            book_of(world, meter_id, customer).remove(entry)


def cancel(world: World, record: IdentifierRecord) -> None:
    """Take an accepted event back, counted or not."""
    entry = _entry_of(record)
    if any(waiting[4].sequence == entry.sequence for waiting in world.settling):
        world.cancelled_unsettled.add(entry.sequence)
        return
    lag = world.settings.settle_lag_seconds
    _settle(world, record.meter, record.customer, entry, -1, lag)


def count_again(world: World, arrival: Arrival) -> None:
    """Put what an arrival did to usage into books that were saved before it.

    The identifiers were not lost with the books, so each event keeps its place in the order.
    """
    for event in arrival.events:
        record = _remembered(world, event, arrival) if event.verdict == "accepted" else None
        if record is not None:
            book_of(world, record.meter, record.customer).add(_entry_of(record))
            world.counters["usage"] = max(world.counters.get("usage", 0), record.sequence)
    record = _remembered(world, arrival.cancelled, arrival) if arrival.cancelled else None
    if record is not None:
        book_of(world, record.meter, record.customer).remove(_entry_of(record))


def _remembered(world: World, event: EventVerdict, arrival: Arrival) -> IdentifierRecord | None:
    record = world.identifiers.get(identifier_key(event.identifier, livemode=arrival.livemode))
    return record if record and world.meters.find(record.meter) else None


def _entry_of(record: IdentifierRecord) -> Entry:
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


def _accept(
    world: World, offered: Offered, usable: Usable, print_: str, *, late_seconds: float
) -> None:
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
    lag = world.settings.settle_lag_seconds + late_seconds
    _settle(world, usable.meter["id"], usable.customer, entry, 1, lag)


def _settle(  # noqa: PLR0913, PLR0917  an entry, its book, its sign and its lag
    world: World, meter_id: str, customer: str, entry: Entry, sign: int, lag: float
) -> None:
    """Count or uncount an entry, now or when the lag is over."""
    if lag > 0:
        due_at = world.clock.now() + lag
        order = world.count("settling")
        heapq.heappush(world.settling, (due_at, order, meter_id, customer, entry, sign))
    elif sign > 0:
        _count(world, meter_id, customer, entry)
    else:
        book_of(world, meter_id, customer).remove(entry)


def _count(world: World, meter_id: str, customer: str, entry: Entry) -> None:
    book_of(world, meter_id, customer).add(entry)
    alerts.check(world, meter_id, customer)


def identifier_key(identifier: str, *, livemode: bool) -> str:
    """Return where an identifier is remembered.

    That is per account and mode, over all meters (the strict reading).
    """
    return f"{'live' if livemode else 'test'}:{identifier}"


def _violate(world: World, kind: str, **detail: object) -> None:
    world.violations.add(Violation(kind, world.clock.now(), world.cause.arrival, detail))
