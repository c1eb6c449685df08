"""Invoice items that wait for an invoice, and how they get onto one.

The calls about them stand in `invoice_items`.
"""

from stripe_emulator.core import events
from stripe_emulator.core.billing.invoice_shape import item_line, item_of, of_item
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.world import World

MAX_ITEMS = 250
"""Invoice items an invoice takes. Source: docs.stripe.com/invoicing."""


def add(world: World, customer: Object, fields: Object) -> Object:
    """Keep a new item of a customer, with at least its amount, currency and livemode.

    It waits until an invoice is made, or is put on one with `attach`.
    """
    item = world.invoice_items.add(draft(world, customer, fields))
    events.emit(world, "invoiceitem.created", item)
    return item


def draft(world: World, customer: Object, fields: Object) -> Object:
    """Return an item that nobody keeps, as a preview needs it."""
    now = world.second_for(customer)
    return {
        "id": world.ids.new("ii"),
        "object": "invoiceitem",
        "customer": customer["id"],
        "customer_account": None,
        "date": now,
        "description": None,
        "discountable": fields["amount"] >= 0 and not fields.get("proration", False),
        "discounts": [],
        "frozen_fields": [],
        "invoice": None,
        "invoicing_rules": [],
        "metadata": {},
        "net_amount": fields["amount"],
        "parent": None,
        "period": {"start": now, "end": now},
        "pricing": None,
        "proration": False,
        "proration_details": None,
        "quantity": 1,
        "quantity_decimal": "1",
        "tax_rates": [],
        "test_clock": customer.get("test_clock"),
        "_counted_until": world.arrivals + 1,
        **fields,
    }


def of_subscription(subscription: str, subscription_item: str | None = None) -> Object:
    """Return the `parent` of an item that only this subscription's invoices take."""
    return {
        "subscription_details": {
            "subscription": subscription,
            "subscription_item": subscription_item,
        },
        "type": "subscription_details",
    }


def collect(
    world: World, invoice: Object, *, subscription: str | None = None, others: bool = True
) -> None:
    """Put what waits for this invoice on it, oldest first, as far as there is room.

    That is the items of its subscription, and with `others` those that belong to none. What finds
    no room waits on (inferred).
    """
    for item in waiting(world, invoice, subscription=subscription, others=others):
        if room(invoice) > 0:
            attach(world, invoice, item)


def waiting(
    world: World, holder: Object, *, subscription: str | None, others: bool
) -> list[Object]:
    """Return what waits for an invoice of the holder's customer and currency, oldest first."""
    wanted = {subscription, None} if others else {subscription}
    return [
        item
        for item in world.invoice_items
        if item["invoice"] is None
        and item["customer"] == holder["customer"]
        and item["currency"] == holder["currency"]
        and subscription_of(item) in wanted
    ]


def room(invoice: Object) -> int:
    """Return how many more invoice items an invoice takes."""
    return MAX_ITEMS - sum(1 for line in invoice["lines"]["data"] if item_of(line) is not None)


def check_room(invoice: Object, more: int, *, param: str) -> None:
    """Refuse more invoice items than an invoice takes."""
    if room(invoice) < more:
        raise invalid(f"An invoice takes at most {MAX_ITEMS} invoice items.", param=param)


def attach(world: World, invoice: Object, item: Object) -> Object:
    """Put an item on a draft and return its line; the totals are the caller's to make."""
    made = item_line(world, item) | {"invoice": invoice["id"]}
    invoice["lines"]["data"].append(made)
    item["invoice"] = invoice["id"]
    return made


def detach(world: World, invoice: Object, line: Object) -> Object | None:
    """Take a line off a draft and return the item it was made from, which waits again."""
    invoice["lines"]["data"].remove(line)
    item = world.invoice_items.find(item_of(line) or "")
    if item is not None:
        item["invoice"] = None
    return item


def refresh(invoice: Object, item: Object) -> None:
    """Let the line of a changed item follow it."""
    line_of(invoice, item).update(of_item(item))


def line_of(invoice: Object, item: Object) -> Object:
    """Return the line an item has on the invoice it stands on."""
    lines: list[Object] = invoice["lines"]["data"]
    for line in lines:
        if item_of(line) == item["id"]:
            return line
    raise LookupError(f"{item['id']} has no line on {invoice['id']}")


def subscription_of(item: Object) -> str | None:
    details = (item["parent"] or {}).get("subscription_details") or {}
    subscription: str | None = details.get("subscription")
    return subscription
