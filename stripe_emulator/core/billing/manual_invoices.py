"""Invoices made by hand: creating a draft, changing one, deleting one."""

import copy
from typing import Any

from stripe_emulator.core import customers, events
from stripe_emulator.core.billing import finalization, invoice_states, invoices, pending_items
from stripe_emulator.core.billing.invoice_calls import retrieve
from stripe_emulator.core.billing.invoice_schedule import due_date, finalizes_at
from stripe_emulator.core.billing.invoice_shape import blank, of_subscription
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.metadata import merged

_PLAIN = (
    "collection_method",
    "default_payment_method",
    "description",
    "effective_at",
    "footer",
    "statement_descriptor",
)
_AFTERWARDS = {"auto_advance", "default_payment_method", "metadata"}
"""What a finalized invoice still takes; money and collection are final (in part inferred).

Source: docs.stripe.com/api/invoices/update.
"""


def create(call: Call) -> Answer:
    """Make a draft of nothing, or of the invoice items that wait.

    With a subscription it takes the items of that one only, otherwise those that belong to none
    (inferred).
    """
    world, given = call.world, call.given
    if "from_invoice" in call.params:
        raise invalid(
            "The emulator makes no revisions of invoices; void it and make another one.",
            param="from_invoice",
        )
    customer = customers.named(call)
    subscription = named_subscription(call, customer)
    currency = given("currency", customer["currency"] or "usd").lower()
    check_currency(customer, currency)
    advances = given("auto_advance", False)
    fields: Object = {
        "auto_advance": advances,
        "billing_reason": "manual",
        "collection_method": given("collection_method", "charge_automatically"),
        "currency": currency,
        "livemode": call.livemode,
        "metadata": merged({}, given("metadata", {})),
        "parent": of_subscription(subscription) if subscription else None,
    }
    now = world.now_for(customer)
    at = finalizes_at(
        call.params,
        advances=advances,
        former=None,
        now=now,
        delay=world.settings.finalization_delay_seconds,
    )
    fields["due_date"] = due_date(call.params, fields["collection_method"], created=now)
    invoice = blank(world, customer, []) | fields
    _set(invoice, call.params)
    if given("pending_invoice_items_behavior") == "include":
        pending_items.collect(
            world,
            invoice,
            subscription=subscription["id"] if subscription else None,
            others=subscription is None,
        )
    customer["currency"] = currency
    invoices.store(world, invoice, finalizes_at=at)
    if "automatically_finalizes_at" in call.params:
        finalization.schedule_finalization(world, invoice, at)
    return invoice


def update(call: Call) -> Answer:
    """Change a draft, or what a finalized invoice still takes."""
    world, invoice = call.world, retrieve(call)
    if not call.params.keys() <= _AFTERWARDS:
        invoice_states.check(invoice, "edit")
    advances = call.given("auto_advance", invoice["auto_advance"])
    method = call.given("collection_method", invoice["collection_method"])
    at = finalizes_at(
        call.params,
        advances=advances,
        former=invoice["automatically_finalizes_at"],
        now=world.second_for(invoice),
        delay=world.settings.finalization_delay_seconds,
    )
    due = invoice["due_date"]
    if call.params.keys() & {"collection_method", "days_until_due", "due_date"}:
        due = due_date(call.params, method, created=invoice["created"], former=due)
    changed = {"metadata": merged(invoice["metadata"], call.given("metadata", {}))}
    before = copy.deepcopy(invoice)
    _set(invoice, call.params)
    invoice.update(changed, auto_advance=advances, due_date=due)
    if "automatically_finalizes_at" in call.params:
        finalization.schedule_finalization(world, invoice, at)
    elif invoice["status"] == "draft" and at != invoice["automatically_finalizes_at"]:
        finalization.schedule(world, invoice, at)
    tell(call, before, invoice)
    return invoice


def delete(call: Call) -> Answer:
    """Delete a draft that no subscription made; its invoice items wait again (inferred)."""
    world, invoice = call.world, retrieve(call)
    invoice_states.check(invoice, "delete")
    if invoice["parent"] is not None:
        raise invalid("You can't delete invoices created by subscriptions.")
    for line in list(invoice["lines"]["data"]):
        pending_items.detach(world, invoice, line)
    world.invoices.remove(invoice["id"])
    events.emit(world, "invoice.deleted", invoice)
    return {"id": invoice["id"], "object": "invoice", "deleted": True}


def tell(call: Call, before: Object, invoice: Object) -> None:
    """Emit `invoice.updated` if anything that is shown has changed."""
    previous = events.changes(before, invoice)
    if previous:
        events.emit(call.world, "invoice.updated", invoice, previous=previous)


def check_currency(customer: Object, currency: str) -> None:
    """Refuse another currency than the one a customer is billed in."""
    if customer["currency"] not in {None, currency}:
        raise invalid(
            "You cannot combine currencies on a single customer. This customer is billed in "
            f"{customer['currency']}.",
            param="currency",
        )


def _set(invoice: Object, params: dict[str, Any]) -> None:
    for name in _PLAIN:
        if name in params:
            invoice[name] = params[name]


def named_subscription(call: Call, customer: Object) -> Object | None:
    """Return the subscription a call names, which must be the customer's."""
    named = call.given("subscription")
    if named is None:
        return None
    subscription = call.world.subscriptions.get(
        named, livemode=call.livemode, param="subscription", status=400
    )
    if subscription["customer"] != customer["id"]:
        raise invalid("The subscription belongs to another customer.", param="subscription")
    return subscription
