"""From accepted to counted: what waits, what is taken back, and what a crash left out."""

import heapq
from decimal import Decimal

from stripe_emulator.core import alerts
from stripe_emulator.core.additive_book import AdditiveBook
from stripe_emulator.core.arrivals import Arrival, EventVerdict
from stripe_emulator.core.billing.subscription_agenda import usage_counted
from stripe_emulator.core.entries import Entry
from stripe_emulator.core.ordered_book import OrderedBook
from stripe_emulator.core.records import IdentifierRecord
from stripe_emulator.core.world import World


def settle(  # noqa: PLR0913, PLR0917  an entry, its book, its sign and its lag
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
    settle(world, record.meter, record.customer, entry, -1, lag)


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


def identifier_key(identifier: str, *, livemode: bool) -> str:
    """Return where an identifier is remembered.

    That is per account and mode, over all meters (the strict reading).
    """
    return f"{'live' if livemode else 'test'}:{identifier}"


def _remembered(world: World, event: EventVerdict, arrival: Arrival) -> IdentifierRecord | None:
    record = world.identifiers.get(identifier_key(event.identifier, livemode=arrival.livemode))
    return record if record and world.meters.find(record.meter) else None


def _entry_of(record: IdentifierRecord) -> Entry:
    return Entry(record.timestamp, record.sequence, Decimal(record.value))


def _count(world: World, meter_id: str, customer: str, entry: Entry) -> None:
    book_of(world, meter_id, customer).add(entry)
    alerts.check(world, meter_id, customer)
    if customer in world.thresholds_of:
        usage_counted(world, customer)
