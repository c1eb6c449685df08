"""Invoices at the end of a billing period.

A draft, counted again when it is finalized and then paid. When that happens stands in
`finalization`.
"""

from decimal import Decimal

from stripe_emulator.core.billing import invoices, payments, pending_items
from stripe_emulator.core.billing.invoice_shape import line
from stripe_emulator.core.billing.pricing import parts
from stripe_emulator.core.billing.subscription_items import is_metered, price_of
from stripe_emulator.core.billing.usage_lines import charge, recount, usage_lines
from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World


def close_periods(world: World, subscription: Object, ended: list[Object], *, final: bool) -> None:
    """Bill the usage of the ended periods, and the new ones of licensed items unless it is final.

    `ended` are the items as they were. A metered item gets a line for nothing, too. What waits for
    the subscription's next invoice comes along.
    """
    lines = period_lines(world, subscription, ended, final=final)
    if lines or (final and waiting(world, subscription)):
        invoice = invoices.make(world, subscription, lines, reason="subscription_cycle", draft=True)
        subscription["latest_invoice"] = invoice["id"]


def period_lines(
    world: World, subscription: Object, ended: list[Object], *, final: bool
) -> list[Object]:
    """Return the lines for ended periods, and for the next ones of licensed items."""
    items = {item["id"]: item for item in subscription["items"]["data"]}
    lines = []
    for former in ended:
        lines += usage_lines(world, subscription, former)
        if not final and not is_metered(price_of(world, former)):
            lines += licensed_lines(world, subscription, items[former["id"]])
    return lines


def licensed_lines(world: World, subscription: Object, item: Object) -> list[Object]:
    """Return the lines for a licensed item's whole period, one for each tier it reaches."""
    price, found = price_of(world, item), []
    for part in parts(price, Decimal(item["quantity"])):
        made = line(world, subscription, item, price, amount=0, quantity=0)
        charge(made, part)
        found.append(made)
    return found


def waiting(world: World, subscription: Object) -> list[Object]:
    """Return the invoice items the subscription's next invoice takes."""
    return pending_items.waiting(world, subscription, subscription=subscription["id"], others=True)


def bill_now(
    world: World, subscription: Object, lines: list[Object], *, reason: str, attempts: bool = True
) -> Object:
    """Make an invoice of `lines` and of what waits, final at once, and ask for its payment."""
    invoice = invoices.make(world, subscription, lines, reason=reason, draft=False)
    subscription["latest_invoice"] = invoice["id"]
    if attempts:
        payments.collect(world, invoice)
    return invoice


def running_usage(world: World, subscription: Object, until: int) -> list[Object]:
    """Return the lines for usage of the running periods, as `invoice_now` bills it."""
    return [
        each
        for item in subscription["items"]["data"]
        for each in usage_lines(world, subscription, item, until)
    ]


def finalize(world: World, invoice: Object, *, collecting: bool = True) -> None:
    """Count the usage of a draft again, open it, and collect it.

    While the collection of its subscription is paused, it is voided or given up instead (docs.
    stripe.com/billing/subscriptions/pause-payment; that this waits for finalization is inferred).
    """
    if invoice["status"] != "draft":
        return
    recount(world, invoice)
    invoices.finalize(world, invoice)
    subscription = world.subscriptions.find(invoices.subscription_of(invoice) or "") or {}
    behavior = (subscription.get("pause_collection") or {}).get("behavior")
    if invoice["status"] == "open" and behavior == "void":
        invoices.void(world, invoice)
    elif invoice["status"] == "open" and behavior == "mark_uncollectible":
        invoices.mark_uncollectible(world, invoice, reason="subscription_paused")
    elif collecting:
        payments.collect(world, invoice)
