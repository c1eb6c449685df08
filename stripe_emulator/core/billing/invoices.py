"""The life of an invoice: it is made, finalized, and then paid, voided or given up.

Calls about invoices stand in `invoice_calls` and `manual_invoices`, payments in
`invoice_payments`. What a subscription puts on an invoice is decided by its engine.
"""

from typing import Any

from stripe_emulator.core import events
from stripe_emulator.core.billing import (
    finalization,
    invoice_states,
    pending_items,
    subscription_status,
)
from stripe_emulator.core.billing.credit_application import apply_credits, give_back
from stripe_emulator.core.billing.invoice_shape import blank, of_subscription
from stripe_emulator.core.billing.invoice_totals import apply_balance, total_up, unapply_balance
from stripe_emulator.core.collection import Object
from stripe_emulator.core.settings import DAY_SECONDS
from stripe_emulator.core.world import World


def make(  # noqa: PLR0913  what an invoice is made of
    world: World,
    subscription: Object,
    lines: list[Object],
    *,
    reason: str,
    draft: bool,
    threshold: Object | None = None,
) -> Object:
    """Make an invoice of `lines`, and of what invoice items wait for it.

    A draft is finalized after the grace period, another one is open at once. `threshold` says
    which one was reached.
    """
    customer = world.customers.find(subscription["customer"]) or {"id": subscription["customer"]}
    invoice = blank(world, customer, lines) | {
        "billing_reason": reason,
        "collection_method": subscription["collection_method"],
        "currency": subscription["currency"],
        "livemode": subscription["livemode"],
        "parent": of_subscription(subscription),
        "test_clock": subscription["test_clock"],
        "threshold_reason": threshold,
    }
    if subscription["days_until_due"] is not None:
        invoice["due_date"] = invoice["created"] + subscription["days_until_due"] * DAY_SECONDS
    pending_items.collect(world, invoice, subscription=subscription["id"], others=True)
    invoice["auto_advance"] = not draft or subscription_status.advances(subscription)
    waits = draft and invoice["auto_advance"]
    at = invoice["created"] + world.settings.finalization_delay_seconds
    store(world, invoice, finalizes_at=at if waits else None)
    if not draft:
        finalize(world, invoice)
    return invoice


def store(world: World, invoice: Object, *, finalizes_at: int | None) -> None:
    """Total a new draft, keep it, and let it finalize itself at a moment if there is one."""
    total_up(world, invoice)
    world.invoices.add(invoice)
    finalization.schedule(world, invoice, finalizes_at)
    created = events.emit(world, "invoice.created", invoice)
    finalization.told(invoice, created)


def finalize(world: World, invoice: Object) -> None:
    """Open a draft whose usage was counted for the last time.

    In order: billing credits, the customer's balance, then a number and a payment to be made. An
    invoice with nothing due is paid at once.
    """
    if invoice["status"] != "draft":
        return
    now = _now(world, invoice)
    apply_credits(world, invoice, now)
    total_up(world, invoice)
    apply_balance(world, invoice)
    invoice_states.move(invoice, "open", now)
    invoice["_counted_until"] = world.arrivals + 1
    invoice["automatically_finalizes_at"] = None
    invoice["number"] = f"EMULATOR-{world.count('invoice number'):06d}"
    invoice["effective_at"] = invoice["effective_at"] or now
    intent = world.ids.new("pi")
    invoice["_confirmation_secret"] = {
        "client_secret": f"{intent}_secret_{world.ids.characters(24)}",
        "type": "payment_intent",
    }
    invoice["_payments"] = {
        "object": "list",
        "data": [],
        "has_more": False,
        "url": "/v1/invoice_payments",
    }
    add_payment(world, invoice, "payment_intent", intent, default=True)
    events.emit(world, "invoice.finalized", invoice)
    if invoice["amount_due"] == 0:
        settle(world, invoice)


def settle(world: World, invoice: Object, *, elsewhere: bool = False) -> None:
    """Mark an invoice paid; an incomplete or past due subscription becomes active.

    What was paid elsewhere is paid, but no payment here succeeded.
    """
    now = _now(world, invoice)
    invoice_states.move(invoice, "paid", now)
    invoice["attempted"] = True
    if elsewhere:
        invoice["amount_paid_off_stripe"] += invoice["amount_remaining"]
    invoice["amount_paid"] = invoice["amount_due"]
    invoice["amount_remaining"] = 0
    invoice["next_payment_attempt"] = None
    _close_payments(invoice, now, paid=not elsewhere)
    events.emit(world, "invoice.paid", invoice)
    if not elsewhere:
        events.emit(world, "invoice.payment_succeeded", invoice)
    subscription = world.subscriptions.find(subscription_of(invoice) or "")
    if subscription is not None:
        subscription_status.paid(world, subscription, invoice)


def void(world: World, invoice: Object) -> None:
    """Void what will not be paid: credits and balance go back to where they came from."""
    now = _now(world, invoice)
    invoice_states.move(invoice, "void", now)
    invoice["next_payment_attempt"] = None
    _close_payments(invoice, now, paid=False)
    give_back(world, invoice, now)
    unapply_balance(world, invoice)
    events.emit(world, "invoice.voided", invoice)


def void_open(world: World, invoice_id: str | None) -> None:
    """Void an invoice that nobody paid in time; one that is not open stays as it is."""
    invoice = world.invoices.find(invoice_id or "")
    if invoice is not None and invoice["status"] == "open":
        void(world, invoice)


def mark_uncollectible(world: World, invoice: Object, reason: str) -> None:
    """Give an open invoice up; it can still be paid."""
    invoice["status_details"] = {"uncollectible": {"reason": reason}}
    invoice_states.move(invoice, "uncollectible", _now(world, invoice))
    invoice["next_payment_attempt"] = None
    events.emit(world, "invoice.marked_uncollectible", invoice)


def add_payment(world: World, invoice: Object, kind: str, named: str, *, default: bool) -> Object:
    """Add an open payment of what remains to those `expand` shows."""
    payment: Object = {
        "id": world.ids.new("inpay"),
        "object": "invoice_payment",
        "amount_paid": None,
        "amount_requested": invoice["amount_remaining"],
        "created": _now(world, invoice),
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": default,
        "livemode": invoice["livemode"],
        "payment": {kind: named, "type": kind},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }
    invoice["_payments"]["data"].append(payment)
    return payment


def match_payment(invoice: Object) -> None:
    """Let the default payment ask for what remains, while it is open.

    Source: stripe-python, `InvoicePayment.is_default`.
    """
    for payment in invoice["_payments"]["data"]:
        if payment["is_default"] and payment["status"] == "open":
            payment["amount_requested"] = invoice["amount_remaining"]


def paid_by(world: World, invoice: Object, payment: Object) -> None:
    """Take what remains as paid elsewhere, by this payment."""
    _pay(payment, invoice["amount_remaining"], _now(world, invoice))
    settle(world, invoice, elsewhere=True)


def subscription_of(invoice: Object) -> str | None:
    details: Any = (invoice.get("parent") or {}).get("subscription_details") or {}
    subscription: str | None = details.get("subscription")
    return subscription


def _close_payments(invoice: Object, now: int, *, paid: bool) -> None:
    """Let the default payment be the one that was made, and cancel what is still open."""
    for payment in invoice["_payments"]["data"]:
        if payment["status"] != "open":
            continue
        if paid and payment["is_default"]:
            _pay(payment, invoice["amount_paid"], now)
        else:
            payment["status"] = "canceled"
            payment["status_transitions"]["canceled_at"] = now


def _pay(payment: Object, amount: int, now: int) -> None:
    payment["status"] = "paid"
    payment["amount_paid"] = payment["amount_requested"] = amount
    payment["status_transitions"]["paid_at"] = now


def _now(world: World, invoice: Object) -> int:
    return world.second_for(invoice)
