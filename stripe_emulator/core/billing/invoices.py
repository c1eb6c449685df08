"""Invoices as far as the first one of a subscription needs them.

Cycles come with the invoice engine.
"""

from typing import Any

from stripe_emulator.core import events
from stripe_emulator.core.billing.invoice_shape import blank
from stripe_emulator.core.billing.invoice_totals import total_up
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, in_span
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.kinds import Boolean, Choice, String
from stripe_emulator.core.params import CREATED, EXPAND, Hash, anything, listing
from stripe_emulator.core.settings import HOUR_SECONDS
from stripe_emulator.core.world import World

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
AGENDA_KIND = "invoice"
FINALIZE_AFTER_SECONDS = HOUR_SECONDS


def retrieve(call: Call) -> Answer:
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
            and given("subscription") in {None, subscription_of(each)}
            and in_span(given("created"), each["created"])
        ),
    )


def pay(call: Call) -> Answer:
    """Pay an open invoice.

    Any payment method pays, and so does the word that it was paid elsewhere.
    """
    invoice = call.world.invoices.get(call.path["id"], livemode=call.livemode)
    if invoice["status"] == "paid":
        raise invalid("Invoice is already paid")
    if invoice["status"] == "draft":
        finalize(call.world, invoice)
    settle(call.world, invoice)
    return invoice


def make(
    world: World, subscription: Object, lines: list[Object], *, reason: str, draft: bool
) -> Object:
    """Make an invoice of `lines`.

    A draft is finalized an hour later, another one is open at once.
    """
    invoice_id = world.ids.new("in")
    for line in lines:
        line["invoice"] = invoice_id
    customer = world.customers.find(subscription["customer"]) or {}
    now = world.second()
    invoice = blank() | {
        "id": invoice_id,
        "auto_advance": True,
        "automatically_finalizes_at": now + FINALIZE_AFTER_SECONDS if draft else None,
        "billing_reason": reason,
        "collection_method": subscription["collection_method"],
        "created": now,
        "currency": subscription["currency"],
        "customer": subscription["customer"],
        "customer_email": customer.get("email"),
        "customer_name": customer.get("name"),
        "lines": {
            "object": "list",
            "data": lines,
            "has_more": False,
            "url": f"/v1/invoices/{invoice_id}/lines",
        },
        "livemode": subscription["livemode"],
        "parent": {
            "quote_details": None,
            "subscription_details": {
                "metadata": subscription["metadata"],
                "subscription": subscription["id"],
            },
            "type": "subscription_details",
        },
        "period_end": now,
        "period_start": now,
        "test_clock": subscription["test_clock"],
        "_confirmation_secret": None,
    }
    total_up(invoice)
    world.invoices.add(invoice)
    events.emit(world, "invoice.created", invoice)
    if draft:
        world.agenda_for(customer).add(now + FINALIZE_AFTER_SECONDS, AGENDA_KIND, invoice_id)
    else:
        finalize(world, invoice)
    return invoice


def finalize(world: World, invoice: Object) -> None:
    """Open a draft: it gets its number and a secret to confirm its payment with.

    An invoice over nothing is paid at once.
    """
    if invoice["status"] != "draft":
        return
    invoice["status"] = "open"
    invoice["automatically_finalizes_at"] = None
    invoice["number"] = f"EMULATOR-{world.count('invoice number'):06d}"
    invoice["status_transitions"]["finalized_at"] = world.second()
    invoice["effective_at"] = world.second()
    invoice["_confirmation_secret"] = {
        "client_secret": f"{world.ids.new('pi')}_secret_{world.ids.characters(24)}",
        "type": "payment_intent",
    }
    events.emit(world, "invoice.finalized", invoice)
    if invoice["amount_due"] == 0:
        settle(world, invoice)


def settle(world: World, invoice: Object) -> None:
    """Mark an invoice paid; an incomplete or past due subscription becomes active."""
    invoice["status"] = "paid"
    invoice["attempted"] = True
    invoice["amount_paid"] = invoice["amount_due"]
    invoice["amount_remaining"] = 0
    invoice["status_transitions"]["paid_at"] = world.second()
    events.emit(world, "invoice.paid", invoice)
    events.emit(world, "invoice.payment_succeeded", invoice)
    subscription = world.subscriptions.find(subscription_of(invoice) or "")
    if subscription is not None and subscription["status"] in {"incomplete", "past_due"}:
        before = subscription["status"]
        subscription["status"] = "active"
        events.emit(
            world, "customer.subscription.updated", subscription, previous={"status": before}
        )


def void(world: World, invoice: Object) -> None:
    """Void what will not be paid."""
    invoice["status"] = "void"
    invoice["status_transitions"]["voided_at"] = world.second()
    events.emit(world, "invoice.voided", invoice)


def subscription_of(invoice: Object) -> str | None:
    details: Any = (invoice.get("parent") or {}).get("subscription_details") or {}
    subscription: str | None = details.get("subscription")
    return subscription
