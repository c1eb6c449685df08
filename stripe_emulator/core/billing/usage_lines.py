"""Lines for metered usage: what a period's spans hold now, counted again until they are final.

A span is some of an item's period at one price: usage is billed at the price in force at the moment
of its timestamp, so a change of price begins another span ("when it was reported" in the docs;
inferred). Spans are half open, in unix seconds.
"""

from stripe_emulator.core import exact
from stripe_emulator.core.billing.invoice_shape import line
from stripe_emulator.core.billing.pricing import Part, parts
from stripe_emulator.core.billing.subscription_items import is_metered, price_of
from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World


def spans(world: World, item: Object, until: int | None = None) -> list[Object]:
    """Return a metered item's spans in its running period, up to its end or an earlier moment.

    A licensed item has those of the metered prices it had before.
    """
    end = item["current_period_end"] if until is None else until
    found = list(item["_earlier"])
    if is_metered(price_of(world, item)):
        found.append({"price": item["price"], "start": item["_since"], "end": end})
    return [each for each in found if each["start"] < each["end"]]


def charged(world: World, customer: str, span: Object) -> list[Part]:
    """Return how the usage of a span is charged as it is counted now."""
    price = price_of(world, span)
    used = world.usage.aggregate(price["recurring"]["meter"], customer, span["start"], span["end"])
    return parts(price, used)


def usage_lines(
    world: World, subscription: Object, item: Object, until: int | None = None
) -> list[Object]:
    """Return the lines of an item's running period: at least one for each span."""
    return [
        each
        for span in spans(world, item, until)
        for each in _lines(world, subscription, item, span)
    ]


def recount(world: World, invoice: Object) -> None:
    """Count a draft's usage again; a tier that was reached meanwhile gets its line.

    A line keeps its id and what was written on it; one that somebody took off stays off.
    """
    lines: list[Object] = []
    counted: list[Object] = []
    for known in invoice["lines"]["data"]:
        span = known.get("_span")
        if span is None:
            lines.append(known)
        elif span not in counted:
            counted.append(span)
            lines += _recounted(world, invoice, span)
    invoice["lines"]["data"] = lines


def _recounted(world: World, invoice: Object, span: Object) -> list[Object]:
    same = [each for each in invoice["lines"]["data"] if each.get("_span") == span]
    lines = []
    for index, part in enumerate(charged(world, invoice["customer"], span)):
        if index < len(same):
            each = same[index]
        else:
            each = same[-1] | {"id": world.ids.new("il"), "pricing": dict(same[-1]["pricing"])}
        charge(each, part)
        lines.append(each)
    return lines


def _lines(world: World, subscription: Object, item: Object, span: Object) -> list[Object]:
    price = price_of(world, span)
    found = []
    for part in charged(world, subscription["customer"], span):
        made = line(world, subscription, item, price, amount=0, quantity=0)
        made["period"] = {"start": span["start"], "end": span["end"]}
        made["_span"] = {**span, "subscription_item": item["id"]}
        charge(made, part)
        found.append(made)
    return found


def charge(made: Object, part: Part) -> None:
    """Write a part on its line; the quantity is shown transformed (inferred)."""
    made["quantity"] = int(part.quantity)
    made["quantity_decimal"] = exact.plain(part.quantity)
    made["pricing"]["unit_amount_decimal"] = part.unit_amount_decimal
    made["amount"] = made["subtotal"] = part.amount
