"""The calls that read invoices, and those that move one through its life."""

from stripe_emulator.core import events
from stripe_emulator.core.billing import cycle_invoices, invoice_payments, invoice_states, invoices
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, in_span, paged
from stripe_emulator.core.errors import ApiError, invalid
from stripe_emulator.core.kinds import Boolean, Choice, String
from stripe_emulator.core.params import CREATED, EXPAND, Hash, anything, listing

LIST = listing(
    collection_method=Choice("charge_automatically", "send_invoice"),
    created=CREATED,
    customer=String(),
    customer_account=anything(),
    due_date=anything(),
    expand=EXPAND,
    status=Choice("draft", "open", "paid", "uncollectible", "void"),
    subscription=String(),
)
LINES = listing(expand=EXPAND)
FINALIZE = Hash({"auto_advance": Boolean(), "expand": EXPAND})
PAY = Hash(
    {
        "expand": EXPAND,
        "forgive": Boolean(),
        "mandate": anything(),
        "off_session": Boolean(),
        "paid_out_of_band": Boolean(),
        "payment_method": String(),
        "source": anything(),
    }
)
ATTACH = Hash({"expand": EXPAND, "payment_intent": String(), "payment_record": String()})


def retrieve(call: Call) -> Object:
    return call.world.invoices.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    given = call.given
    plain = {
        name: given(name)
        for name in ("collection_method", "customer", "status")
        if name in call.params
    }
    return call.world.invoices.page(
        call.params,
        url=call.url,
        livemode=call.livemode,
        keep=lambda each: (
            all(each[name] == value for name, value in plain.items())
            and given("subscription") in {None, invoices.subscription_of(each)}
            and in_span(given("created"), each["created"])
            and (given("due_date") is None or _due_in(given("due_date"), each))
        ),
    )


def list_lines(call: Call) -> Answer:
    """Return the lines in the order they stand in."""
    lines = retrieve(call)["lines"]["data"]
    return paged(lines, call.params, url=call.url, kind="invoice line item")


def finalize(call: Call) -> Answer:
    """Finalize a draft now; with `auto_advance` it is collected, too."""
    invoice = retrieve(call)
    invoice_states.check(invoice, "finalize")
    invoice["auto_advance"] = call.given("auto_advance", invoice["auto_advance"])
    cycle_invoices.finalize(call.world, invoice, collecting=invoice["auto_advance"])
    return invoice


def pay(call: Call) -> Answer:
    """Pay an invoice with a payment method, or say that it was paid elsewhere.

    A draft is finalized first. `forgive` concerns sources that hold money, which none does here.
    """
    world, invoice = call.world, retrieve(call)
    invoice_states.check(invoice, "pay")
    elsewhere = call.given("paid_out_of_band", False)
    method = call.given("payment_method") or invoice_payments.method_for(world, invoice)
    if invoice["status"] == "draft":
        cycle_invoices.finalize(world, invoice, collecting=False)
    if invoice["status"] == "paid":
        return invoice
    if elsewhere:
        invoices.settle(world, invoice, elsewhere=True)
        return invoice
    if method is None:
        raise ApiError(
            400,
            "This customer has no attached payment source or default payment method. Please "
            "consider adding a default payment method.",
            code="resource_missing",
        )
    off_session = call.given("off_session", True)
    outcome = invoice_payments.attempt(
        world, invoice, method, off_session=off_session, automatic=False
    )
    if outcome.status != "succeeded":
        raise invoice_payments.refusal(outcome)
    return invoice


def send(call: Call) -> Answer:
    """Tell that the invoice was sent; a draft is finalized first. Nobody gets mail here."""
    invoice = retrieve(call)
    invoice_states.check(invoice, "send")
    if invoice["collection_method"] != "send_invoice":
        raise invalid(
            "You can only manually send an invoice if its collection method is `send_invoice`."
        )
    if invoice["status"] == "draft":
        cycle_invoices.finalize(call.world, invoice, collecting=False)
    events.emit(call.world, "invoice.sent", invoice)
    return invoice


def void(call: Call) -> Answer:
    invoice = retrieve(call)
    invoice_states.check(invoice, "void")
    invoices.void(call.world, invoice)
    return invoice


def mark_uncollectible(call: Call) -> Answer:
    invoice = retrieve(call)
    invoice_states.check(invoice, "mark_uncollectible")
    invoices.mark_uncollectible(call.world, invoice, "user_forgiven")
    return invoice


def attach_payment(call: Call) -> Answer:
    """Add a payment to those of an open invoice.

    A payment record says what was paid elsewhere: all that remains (inferred). The emulator keeps
    no payment intents: any id stands for one that nobody has paid yet.
    """
    invoice = retrieve(call)
    invoice_states.check(invoice, "attach_payment")
    intent, record = call.given("payment_intent"), call.given("payment_record")
    if (intent is None) == (record is None):
        raise invalid(
            "Give `payment_intent` or `payment_record`, and not both.", param="payment_intent"
        )
    if intent is not None:
        invoices.add_payment(call.world, invoice, "payment_intent", intent, default=False)
        return invoice
    payment = invoices.add_payment(call.world, invoice, "payment_record", record, default=False)
    invoices.paid_by(call.world, invoice, payment)
    return invoice


def _due_in(asked: object, invoice: Object) -> bool:
    return invoice["due_date"] is not None and in_span(asked, invoice["due_date"])
