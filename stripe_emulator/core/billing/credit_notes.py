"""Credit notes: what takes a finalized invoice back, whole or in part.

What one comes to is decided in `credit_note_shape`. None gives billing credits back.
"""

from stripe_emulator.core import events
from stripe_emulator.core.billing import invoice_states, invoices
from stripe_emulator.core.billing.credit_note_shape import drafted
from stripe_emulator.core.billing.invoice_totals import change_balance
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, in_span, paged
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.kinds import Amount, Choice, Integer, Kind, String
from stripe_emulator.core.metadata import merged
from stripe_emulator.core.params import CREATED, EXPAND, METADATA, Array, Hash, anything, listing

_FIELDS: dict[str, Kind] = {
    "amount": Integer(1),
    "credit_amount": Integer(0),
    "effective_at": Integer(0),
    "email_type": Choice("credit_note", "none"),
    "expand": EXPAND,
    "invoice": String(),
    "lines": Array(
        Hash(
            {
                "amount": Integer(1),
                "description": String(),
                "invoice_line_item": String(),
                "metadata": METADATA,
                "quantity": Integer(1),
                "tax_amounts": anything(),
                "tax_rates": anything(),
                "type": Choice("custom_line_item", "invoice_line_item"),
                "unit_amount": Integer(0),
                "unit_amount_decimal": Amount(),
            },
            "type",
        )
    ),
    "memo": String(),
    "metadata": METADATA,
    "out_of_band_amount": Integer(0),
    "reason": Choice("duplicate", "fraudulent", "order_change", "product_unsatisfactory"),
    "refund_amount": Integer(0),
    "refunds": anything(),
    "shipping_cost": anything(),
}
CREATE = Hash(_FIELDS, "invoice")
PREVIEW_LINES = Hash({**listing().fields, **_FIELDS}, "invoice")
UPDATE = Hash({"expand": EXPAND, "memo": String(), "metadata": METADATA})
LIST = listing(
    created=CREATED,
    customer=String(),
    customer_account=anything(),
    expand=EXPAND,
    invoice=String(),
)
LINES = listing(expand=EXPAND)


def create(call: Call) -> Answer:
    """Lower what is to be paid of an invoice, and give back what was paid of the rest.

    An open invoice of which nothing remains is paid (docs), without a payment that succeeded.
    """
    world, invoice = call.world, _invoice(call)
    note = drafted(call, invoice)
    credited = call.given("credit_amount", 0)
    if credited:
        note["customer_balance_transaction"] = world.ids.new("cbtxn")
        change_balance(world, invoice["customer"], -credited)
    world.credit_notes.add(note)
    events.emit(world, "credit_note.created", note)
    _count(call, invoice, note, 1)
    if invoice["status"] != "paid" and invoice["amount_remaining"] == 0:
        invoices.settle(world, invoice, elsewhere=True)
    return note


def preview(call: Call) -> Answer:
    return drafted(call, _invoice(call))


def preview_lines(call: Call) -> Answer:
    lines = drafted(call, _invoice(call))["lines"]["data"]
    return paged(lines, call.params, url=call.url, kind="credit note line item")


def retrieve(call: Call) -> Object:
    return call.world.credit_notes.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    given = call.given
    return call.world.credit_notes.page(
        call.params,
        url=call.url,
        livemode=call.livemode,
        keep=lambda each: (
            given("customer") in {None, each["customer"]}
            and given("invoice") in {None, each["invoice"]}
            and in_span(given("created"), each["created"])
        ),
    )


def list_lines(call: Call) -> Answer:
    lines = retrieve(call)["lines"]["data"]
    return paged(lines, call.params, url=call.url, kind="credit note line item")


def update(call: Call) -> Answer:
    note = retrieve(call)
    before = dict(note)
    if "metadata" in call.params:
        note["metadata"] = merged(note["metadata"], call.params["metadata"])
    note["memo"] = call.given("memo", note["memo"])
    previous = events.changes(before, note)
    if previous:
        events.emit(call.world, "credit_note.updated", note, previous=previous)
    return note


def void(call: Call) -> Answer:
    """Take a note back while its invoice is open; what was paid for cannot be taken back."""
    note = retrieve(call)
    invoice = call.world.invoices.get(note["invoice"], livemode=call.livemode)
    if note["status"] == "void":
        raise invalid("This credit note is already void.")
    if invoice["status"] != "open" or note["post_payment_amount"]:
        raise invalid("You can only void a credit note of an open invoice.")
    note["status"] = "void"
    note["voided_at"] = call.world.second_for(invoice)
    events.emit(call.world, "credit_note.voided", note)
    _count(call, invoice, note, -1)
    return note


def _invoice(call: Call) -> Object:
    for name in ("refunds", "shipping_cost"):
        if name in call.params:
            raise invalid(f"The emulator keeps nothing that `{name}` could name.", param=name)
    invoice = call.world.invoices.get(
        call.params["invoice"], livemode=call.livemode, param="invoice", status=400
    )
    invoice_states.check(invoice, "credit")
    return invoice


def _count(call: Call, invoice: Object, note: Object, sign: int) -> None:
    """Let a note count to its invoice, or no longer."""
    before = dict(invoice)
    invoice["amount_due"] -= sign * note["pre_payment_amount"]
    invoice["amount_remaining"] -= sign * note["pre_payment_amount"]
    invoice["pre_payment_credit_notes_amount"] += sign * note["pre_payment_amount"]
    invoice["post_payment_credit_notes_amount"] += sign * note["post_payment_amount"]
    invoices.match_payment(invoice)
    previous = events.changes(before, invoice)
    events.emit(call.world, "invoice.updated", invoice, previous=previous)
