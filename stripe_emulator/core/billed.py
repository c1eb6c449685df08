"""The judge's books of invoices: what was billed of what was accepted, and what nobody billed.

Usage comes from the arrival log and is laid over the lines of the invoices by timestamp; the books
the invoices were made from are not asked. Values are summed, or counted on a `count` meter; a
`last` meter and a pre-aggregated one bill less than the sum, which these figures do not follow.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from stripe_emulator.core import exact
from stripe_emulator.core.arrivals import Arrival, EventVerdict
from stripe_emulator.core.billing.invoice_shape import item_of
from stripe_emulator.core.collection import Object
from stripe_emulator.core.unbilled import NEVER, Used, meter_of, price_of, why
from stripe_emulator.core.world import World


@dataclass(slots=True)
class Billed:
    """One meter's usage in one period on one invoice."""

    customer: str
    meter: str
    price: str
    start: int
    end: int
    invoice: str
    status: str
    final_at: float
    """The number of the first request that came too late for it."""
    quantity: Decimal = Decimal(0)
    amount: int = 0
    usage: Decimal = Decimal(0)

    def as_dict(self) -> dict[str, Any]:
        return {
            "customer": self.customer,
            "meter": self.meter,
            "price": self.price,
            "period": {"start": self.start, "end": self.end},
            "invoice": self.invoice,
            "status": self.status,
            "quantity": exact.plain(self.quantity),
            "amount": self.amount,
            "usage": exact.plain(self.usage),
        }


def books(
    world: World, arrivals: Iterable[Arrival], *, customer: str | None = None
) -> dict[str, Any]:
    """Return `billed`, per invoice, meter, price and period, and `unbilled`, per reason.

    `quantity` and `amount` are what the invoice says, `usage` is what the log says of its period:
    they agree unless the price transforms quantities, the total is below zero, or usage was
    accepted in time and settled too late.
    """
    billed = [each for each in _billed(world) if customer in {None, each.customer}]
    unbilled: dict[tuple[str, str, str], list[Used]] = {}
    places: dict[tuple[str, str], list[Billed]] = {}
    for each in billed:
        places.setdefault((each.customer, each.meter), []).append(each)
    for used in _used(world, arrivals):
        if customer in {None, used.customer}:
            reason = _laid(world, used, places.get((used.customer, used.meter), []))
            if reason is not None:
                unbilled.setdefault((used.customer, used.meter, reason), []).append(used)
    return {
        "billed": [each.as_dict() for each in billed],
        "unbilled": [
            {
                "customer": owner,
                "meter": meter,
                "reason": reason,
                "count": len(found),
                "usage": exact.plain(_total(each.value for each in found)),
            }
            for (owner, meter, reason), found in unbilled.items()
        ],
    }


def _used(world: World, arrivals: Iterable[Arrival]) -> Iterator[Used]:
    """Yield what was accepted, in order; what was taken back is known before it is yielded."""
    known: dict[tuple[bool, str], Used] = {}
    found: list[Used] = []
    for arrival in arrivals:
        for event in arrival.events:
            used = _read(world, arrival, event) if event.verdict == "accepted" else None
            if used is not None:
                known[arrival.livemode, event.identifier] = used
                found.append(used)
        if arrival.cancelled is not None:
            taken_back = known.get((arrival.livemode, arrival.cancelled.identifier))
            if taken_back is not None:
                taken_back.cancelled = arrival.number
    yield from found


def _read(world: World, arrival: Arrival, event: EventVerdict) -> Used | None:
    meter = world.meter_names.get((event.event_name, arrival.livemode))
    if meter is None or event.customer is None or event.timestamp is None:
        return None
    counts = meter["default_aggregation"]["formula"] == "count"
    value = Decimal(1) if counts else Decimal(event.value or "0")
    return Used(event.customer, meter["id"], event.timestamp, value, arrival.number)


def _billed(world: World) -> list[Billed]:
    """Return the metered lines of all invoices, tiers of one period together."""
    found: dict[tuple[str, str, int, int], Billed] = {}
    for invoice in world.invoices:
        for line in invoice["lines"]["data"]:
            price = world.prices.find(price_of(line) or "")
            meter = meter_of(world, price_of(line))
            if price is None or meter is None:
                continue
            period = line["period"]
            key = (invoice["id"], price["id"], period["start"], period["end"])
            each = found.setdefault(
                key,
                Billed(
                    invoice["customer"],
                    meter,
                    price["id"],
                    period["start"],
                    period["end"],
                    invoice["id"],
                    invoice["status"],
                    _final_at(world, invoice, line),
                ),
            )
            each.quantity = exact.add(each.quantity, Decimal(line["quantity_decimal"] or 0))
            each.amount += line["amount"]
    return list(found.values())


def _laid(world: World, used: Used, places: list[Billed]) -> str | None:
    """Add an event to the invoices it is on, and return why it is on none."""
    within = [each for each in places if each.start <= used.timestamp < each.end]
    counted = [each for each in within if used.order < each.final_at <= used.cancelled]
    for each in counted:
        each.usage = exact.add(each.usage, used.value)
    if counted or used.cancelled < NEVER:
        return None
    return "late" if within else why(world, used)


def _final_at(world: World, invoice: Object, line: Object) -> float:
    """Return the first request that came too late; an invoice item was counted when made."""
    item = world.invoice_items.find(item_of(line) or "")
    number = (item or invoice).get("_counted_until")
    return NEVER if number is None else number


def _total(values: Iterable[Decimal]) -> Decimal:
    total = Decimal(0)
    for value in values:
        total = exact.add(total, value)
    return total
