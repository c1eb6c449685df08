"""Invoices at the end of a billing period.

A draft, counted again when it is finalized an hour later.
Made only with the setting `cycle_invoices`, until the rest of an invoice's life is emulated too.
"""

from decimal import Decimal

from stripe_emulator.core import events, exact
from stripe_emulator.core.billing import invoices
from stripe_emulator.core.billing.invoice_shape import line
from stripe_emulator.core.billing.pricing import amount, billed_quantity
from stripe_emulator.core.billing.subscription_items import is_metered, price_of
from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World


def close_periods(world: World, subscription: Object, ended: list[Object], *, final: bool) -> None:
    """Bill the usage of the ended periods, and the new ones of licensed items unless it is final.

    `ended` are the items as they were. A metered item gets a line for nothing, too.
    """
    if not world.settings.cycle_invoices:
        return
    items = {item["id"]: item for item in subscription["items"]["data"]}
    lines = []
    for former in ended:
        price = price_of(world, former)
        if is_metered(price):
            lines.append(_usage_line(world, subscription, former, price))
        elif not final:
            item = items[former["id"]]
            charged = amount(price, Decimal(item["quantity"]))
            lines.append(
                line(world, subscription, item, price, amount=charged, quantity=item["quantity"])
            )
    if lines:
        invoice = invoices.make(world, subscription, lines, reason="subscription_cycle", draft=True)
        subscription["latest_invoice"] = invoice["id"]


def bill_now(world: World, subscription: Object, until: int) -> None:
    """Bill the usage of the running periods at once, as `invoice_now` asks for on cancellation."""
    if not world.settings.cycle_invoices:
        return
    running = [
        {**item, "current_period_end": until}
        for item in subscription["items"]["data"]
        if is_metered(price_of(world, item))
    ]
    lines = [_usage_line(world, subscription, item, price_of(world, item)) for item in running]
    if lines:
        invoice = invoices.make(
            world, subscription, lines, reason="subscription_update", draft=False
        )
        subscription["latest_invoice"] = invoice["id"]
        collect(world, invoice)


def finalize(world: World, invoice: Object, *, collecting: bool = True) -> None:
    """Count the usage of a draft again, open it, and collect it if it advances by itself."""
    if invoice["status"] != "draft":
        return
    for each in invoice["lines"]["data"]:
        _recount(world, invoice, each)
    invoices.finalize(world, invoice)
    if collecting and invoice["auto_advance"]:
        collect(world, invoice)


def collect(world: World, invoice: Object) -> None:
    """Charge an open invoice: paid with a payment method, or the subscription is past due."""
    if invoice["status"] != "open" or invoice["collection_method"] != "charge_automatically":
        return
    subscription = world.subscriptions.find(invoices.subscription_of(invoice) or "") or {}
    customer = world.customers.find(invoice["customer"]) or {}
    card = subscription.get("default_payment_method") or (
        customer.get("invoice_settings") or {}
    ).get("default_payment_method")
    if card:
        invoices.settle(world, invoice)
        return
    invoice["attempted"] = True
    invoice["attempt_count"] += 1
    events.emit(world, "invoice.payment_failed", invoice)
    if subscription.get("status") == "active":
        subscription["status"] = "past_due"
        events.emit(
            world, "customer.subscription.updated", subscription, previous={"status": "active"}
        )


def _usage_line(world: World, subscription: Object, item: Object, price: Object) -> Object:
    made = line(world, subscription, item, price, amount=0, quantity=0)
    _count(world, made, price, subscription["customer"])
    return made


def _recount(world: World, invoice: Object, made: Object) -> None:
    if made["parent"]["type"] != "subscription_item_details":
        return
    price = world.prices.find(made["pricing"]["price_details"]["price"])
    if price is not None and is_metered(price):
        _count(world, made, price, invoice["customer"])


def _count(world: World, made: Object, price: Object, customer: str) -> None:
    """Set a line to what its period holds now; the quantity is shown transformed (inferred)."""
    period = made["period"]
    used = world.usage.aggregate(
        price["recurring"]["meter"], customer, period["start"], period["end"]
    )
    quantity = billed_quantity(price, used)
    made["quantity"] = int(quantity)
    made["quantity_decimal"] = exact.plain(quantity)
    made["amount"] = made["subtotal"] = amount(price, used)
