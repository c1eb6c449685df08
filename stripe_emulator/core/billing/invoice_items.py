"""The calls about invoice items: amounts that wait for an invoice, or stand on a draft.

How they get onto invoices is decided in `pending_items`, what they cost in
`invoice_item_amounts`.
"""

import copy
from typing import Any

from stripe_emulator.core import customers, events
from stripe_emulator.core.billing import invoice_item_amounts, invoice_states, pending_items
from stripe_emulator.core.billing.invoice_totals import total_up
from stripe_emulator.core.billing.manual_invoices import check_currency, named_subscription, tell
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, in_span
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.metadata import merged


def create(call: Call) -> Answer:
    """Make an item that waits for the next invoice, or put it on a draft at once."""
    invoice = _draft(call)
    customer = _customer(call, invoice)
    subscription = named_subscription(call, customer)
    currency = _currency(call, customer, invoice)
    check_currency(customer, currency)
    cost = invoice_item_amounts.asked(call, call.params, currency=currency, item=None)
    if cost is None:
        raise invalid("An item needs an amount.", param="amount")
    fields = chosen(call.params, {}) | {"currency": currency, "livemode": call.livemode}
    if subscription is not None:
        fields["parent"] = pending_items.of_subscription(subscription["id"])
    customer["currency"] = currency
    fields |= invoice_item_amounts.stored(call, cost)
    item = pending_items.add(call.world, customer, fields)
    if invoice is not None:
        before = copy.deepcopy(invoice)
        pending_items.attach(call.world, invoice, item)
        total_again(call, invoice, before)
    return item


def retrieve(call: Call) -> Object:
    return call.world.invoice_items.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    given = call.given
    return call.world.invoice_items.page(
        call.params,
        url=call.url,
        livemode=call.livemode,
        keep=lambda each: (
            given("customer") in {None, each["customer"]}
            and given("invoice") in {None, each["invoice"]}
            and given("pending") in {None, each["invoice"] is None}
            and in_span(given("created"), each["date"])
        ),
    )


def update(call: Call) -> Answer:
    """Change an item that waits or stands on a draft; its line follows."""
    item = retrieve(call)
    invoice = _invoice_of(call, item)
    cost = invoice_item_amounts.asked(call, call.params, currency=item["currency"], item=item)
    change(call, item, call.params, cost)
    if invoice is not None:
        before = copy.deepcopy(invoice)
        pending_items.refresh(invoice, item)
        total_again(call, invoice, before)
    return item


def delete(call: Call) -> Answer:
    """Delete an item, and its line from the draft it stands on."""
    item = retrieve(call)
    invoice = _invoice_of(call, item)
    if invoice is not None:
        before = copy.deepcopy(invoice)
        pending_items.detach(call.world, invoice, pending_items.line_of(invoice, item))
        total_again(call, invoice, before)
    remove(call, item)
    return {"id": item["id"], "object": "invoiceitem", "deleted": True}


def total_again(call: Call, invoice: Object, before: Object) -> None:
    """Make a draft's totals from its changed lines, and tell of the change."""
    total_up(call.world, invoice)
    tell(call, before, invoice)


def remove(call: Call, item: Object) -> None:
    call.world.invoice_items.remove(item["id"])
    events.emit(call.world, "invoiceitem.deleted", item)


def change(
    call: Call, item: Object, params: dict[str, Any], cost: invoice_item_amounts.Cost | None
) -> None:
    """Give an item what was asked for; everything that can be refused was."""
    item.update(chosen(params, item))
    if cost is not None:
        item.update(invoice_item_amounts.stored(call, cost))


def chosen(params: dict[str, Any], item: Object) -> Object:
    """Return the plain fields that were asked for, checked."""
    fields: Object = {
        name: params[name] for name in ("description", "discountable", "period") if name in params
    }
    if "period" in fields and fields["period"]["end"] < fields["period"]["start"]:
        raise invalid("A period does not end before it starts.", param="period[end]")
    if "metadata" in params:
        fields["metadata"] = merged(item.get("metadata", {}), params["metadata"])
    return fields


def _draft(call: Call) -> Object | None:
    named = call.given("invoice")
    if named is None:
        return None
    invoice = call.world.invoices.get(named, livemode=call.livemode, param="invoice", status=400)
    invoice_states.check(invoice, "edit")
    pending_items.check_room(invoice, 1, param="invoice")
    return invoice


def _customer(call: Call, invoice: Object | None) -> Object:
    """Return the customer that is named, or the one of the draft."""
    if invoice is None:
        return customers.named(call)
    if call.given("customer", invoice["customer"]) != invoice["customer"]:
        raise invalid("The invoice belongs to another customer.", param="invoice")
    return customers.find(call, invoice["customer"], param="customer", status=400)


def _currency(call: Call, customer: Object, invoice: Object | None) -> str:
    """Return the currency asked for, the price's, the invoice's or the customer's."""
    price = call.world.prices.find((call.given("pricing") or {}).get("price", "")) or {}
    named = (
        call.given("currency")
        or (call.given("price_data") or {}).get("currency")
        or price.get("currency")
        or (invoice or {}).get("currency")
        or customer["currency"]
        or "usd"
    )
    if invoice is not None and named.lower() != invoice["currency"]:
        raise invalid(f"The invoice is in {invoice['currency']}.", param="currency")
    return str(named.lower())


def _invoice_of(call: Call, item: Object) -> Object | None:
    """Return the draft an item stands on, or None while it waits."""
    if item["invoice"] is None:
        return None
    invoice = call.world.invoices.find(item["invoice"])
    if invoice is not None:
        invoice_states.check(invoice, "edit")
    return invoice
