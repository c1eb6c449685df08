"""The calls that change the lines of a draft: one or many, added, changed or taken off.

A line made by hand is an invoice item's; what a subscription put there keeps its amount
(inferred).
"""

import copy
from typing import Any

from stripe_emulator.core.billing import (
    invoice_item_amounts,
    invoice_items,
    invoice_states,
    pending_items,
)
from stripe_emulator.core.billing.invoice_calls import retrieve
from stripe_emulator.core.billing.invoice_shape import item_of
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid, missing_object
from stripe_emulator.core.metadata import merged

_OF_ANY_LINE = {"description", "discountable", "metadata", "period"}

Change = tuple[Object, dict[str, Any], invoice_item_amounts.Cost | None]


def update_one(call: Call) -> Answer:
    """Change one line, and with it the invoice item it was made from."""
    invoice = _draft(call)
    line = _line(invoice, call.path["line"], param="id", status=404)
    change = _checked(call, line, call.params, "")
    before = copy.deepcopy(invoice)
    _apply(call, invoice, change)
    invoice_items.total_again(call, invoice, before)
    return line


def update_many(call: Call) -> Answer:
    invoice = _draft(call)
    changes = []
    for index, asked in enumerate(call.params["lines"]):
        prefix = f"lines[{index}]"
        line = _line(invoice, asked["id"], param=f"{prefix}[id]", status=400)
        fields = {name: value for name, value in asked.items() if name != "id"}
        changes.append(_checked(call, line, fields, prefix))
    before = _with_metadata(call, invoice)
    for change in changes:
        _apply(call, invoice, change)
    invoice_items.total_again(call, invoice, before)
    return invoice


def add(call: Call) -> Answer:
    """Add lines: each is a new invoice item, or one that waits."""
    world, invoice = call.world, _draft(call)
    asked_lines = call.params["lines"]
    pending_items.check_room(invoice, len(asked_lines), param="lines")
    prepared = [_prepared(call, invoice, asked, index) for index, asked in enumerate(asked_lines)]
    named = [item["id"] for item, _, _ in prepared if item]
    if len(set(named)) < len(named):
        raise invalid("An invoice item can be added once only.", param="lines")
    customer = world.customers.get(invoice["customer"], livemode=call.livemode)
    before = _with_metadata(call, invoice)
    for waiting, fields, cost in prepared:
        if waiting is None:
            costs = invoice_item_amounts.stored(call, cost) if cost else {}
            made = pending_items.add(world, customer, fields | costs)
            pending_items.attach(world, invoice, made)
        else:
            invoice_items.change(call, waiting, fields, cost)
            pending_items.attach(world, invoice, waiting)
    invoice_items.total_again(call, invoice, before)
    return invoice


def remove(call: Call) -> Answer:
    """Take lines off; `unassign` lets their invoice items wait again, `delete` deletes them."""
    invoice = _draft(call)
    chosen: list[tuple[Object, str]] = []
    for index, asked in enumerate(call.params["lines"]):
        param = f"lines[{index}][id]"
        line = _line(invoice, asked["id"], param=param, status=400)
        if item_of(line) is None:
            raise invalid("The line of a subscription cannot be removed.", param=param)
        if any(line is other for other, _ in chosen):
            raise invalid("A line can be removed once only.", param=param)
        chosen.append((line, asked["behavior"]))
    before = _with_metadata(call, invoice)
    for line, behavior in chosen:
        item = pending_items.detach(call.world, invoice, line)
        if item is not None and behavior == "delete":
            invoice_items.remove(call, item)
    invoice_items.total_again(call, invoice, before)
    return invoice


def _draft(call: Call) -> Object:
    invoice = retrieve(call)
    invoice_states.check(invoice, "edit")
    return invoice


def _line(invoice: Object, line_id: str, *, param: str, status: int) -> Object:
    lines: list[Object] = invoice["lines"]["data"]
    for line in lines:
        if line["id"] == line_id:
            return line
    error = missing_object("invoice line item", line_id, param=param)
    error.status = status
    raise error


def _checked(call: Call, line: Object, params: dict[str, Any], prefix: str) -> Change:
    """Return a change that cannot be refused any more."""
    item = call.world.invoice_items.find(item_of(line) or "")
    if item is None:
        for name in params.keys() - _OF_ANY_LINE:
            raise invalid(
                f"`{name}` of a line that a subscription made cannot be changed.",
                param=f"{prefix}[{name}]" if prefix else name,
            )
        invoice_items.chosen(params, line)
        return line, params, None
    invoice_items.chosen(params, item)
    cost = invoice_item_amounts.asked(
        call, params, currency=item["currency"], item=item, prefix=prefix
    )
    return line, params, cost


def _apply(call: Call, invoice: Object, change: Change) -> None:
    line, params, cost = change
    item = call.world.invoice_items.find(item_of(line) or "")
    if item is None:
        line.update(invoice_items.chosen(params, line))
        return
    invoice_items.change(call, item, params, cost)
    pending_items.refresh(invoice, item)


def _prepared(
    call: Call, invoice: Object, asked: dict[str, Any], index: int
) -> tuple[Object | None, Object, invoice_item_amounts.Cost | None]:
    """Return the waiting item a line names, if any, with what is to be set on it or a new one."""
    prefix = f"lines[{index}]"
    named = asked.get("invoice_item")
    if named is None:
        cost = invoice_item_amounts.asked(
            call, asked, currency=invoice["currency"], item=None, prefix=prefix
        )
        fields = invoice_items.chosen(asked, {})
        return None, fields | {"currency": invoice["currency"], "livemode": call.livemode}, cost
    param = f"{prefix}[invoice_item]"
    item = call.world.invoice_items.get(named, livemode=call.livemode, param=param, status=400)
    if item["invoice"] is not None or item["customer"] != invoice["customer"]:
        raise invalid(
            "The invoice item does not wait for an invoice of this customer.", param=param
        )
    if item["currency"] != invoice["currency"]:
        raise invalid(f"The invoice item is in {item['currency']}.", param=param)
    cost = invoice_item_amounts.asked(
        call, asked, currency=item["currency"], item=item, prefix=prefix
    )
    invoice_items.chosen(asked, item)
    return item, asked, cost


def _with_metadata(call: Call, invoice: Object) -> Object:
    """Set the invoice's metadata if they were given, and return the invoice as it was."""
    metadata = merged(invoice["metadata"], call.given("invoice_metadata", {}))
    before = copy.deepcopy(invoice)
    invoice["metadata"] = metadata
    return before
