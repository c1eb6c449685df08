"""The next invoice of a subscription as it would be by now: nothing of it is kept."""

import copy
from collections.abc import Sequence

from stripe_emulator.core import events
from stripe_emulator.core.billing.credit_application import drawn
from stripe_emulator.core.billing.cycle_invoices import licensed_lines, period_lines, waiting
from stripe_emulator.core.billing.invoice_shape import blank, item_line, of_subscription
from stripe_emulator.core.billing.invoice_totals import total_up
from stripe_emulator.core.billing.subscription_items import is_metered, place, price_of
from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World


def announce(world: World, subscription: Object) -> None:
    """Tell of the next invoice some days before it is made; it has no id yet.

    Source: docs.stripe.com/api/invoices/object, on `id`.
    """
    invoice = upcoming(world, subscription)
    del invoice["id"]
    events.emit(world, "invoice.upcoming", invoice)


def upcoming(world: World, subscription: Object, charges: Sequence[Object] = ()) -> Object:
    """Return the invoice at the end of the period that ends first, with what waits for it.

    Usage is what summaries say now. `charges` are lines a change would add.
    """
    future = copy.deepcopy(subscription)
    at, final = _end_of(future)
    lines = [*_lines(world, future, at, final=final), *charges]
    lines += [item_line(world, item) for item in waiting(world, subscription)]
    return shown(world, future, lines, at=at)


def recurring(world: World, subscription: Object) -> Object:
    """Return what every period costs, without what waits or is prorated."""
    future = copy.deepcopy(subscription)
    at, _ = _end_of(future)
    return shown(world, future, _lines(world, future, at, final=False), at=at)


def shown(world: World, subscription: Object, lines: list[Object], *, at: int) -> Object:
    """Return a draft nobody has, over `lines`, as if it were made at `at`."""
    customer = world.customers.find(subscription["customer"]) or {"id": subscription["customer"]}
    begin = min(
        (each["current_period_start"] for each in subscription["items"]["data"]), default=at
    )
    invoice = blank(world, customer, lines)
    invoice |= {
        "id": f"upcoming_{invoice['id']}",
        "auto_advance": True,
        "billing_reason": "upcoming",
        "collection_method": subscription["collection_method"],
        "created": at,
        "currency": subscription["currency"],
        "livemode": subscription["livemode"],
        "next_payment_attempt": at + world.settings.finalization_delay_seconds,
        "parent": of_subscription(subscription),
        "period_end": at,
        "period_start": min(begin, at),
    }
    for each in lines:
        each["invoice"] = invoice["id"]
    invoice["total_pretax_credit_amounts"] = [
        {"amount": value, "credit_balance_transaction": None, "type": "credit_balance_transaction"}
        for _, _, value in drawn(world, invoice)
    ]
    total_up(world, invoice)
    return invoice


def _end_of(subscription: Object) -> tuple[int, bool]:
    """Return when the next invoice is made, and whether it is the last one."""
    at = min(item["current_period_end"] for item in subscription["items"]["data"])
    cancel_at = subscription["cancel_at"]
    return (cancel_at, True) if cancel_at is not None and cancel_at <= at else (at, False)


def _lines(world: World, future: Object, at: int, *, final: bool) -> list[Object]:
    """Return the lines of an invoice at `at`, moving the items on into their next periods."""
    items = future["items"]["data"]
    if future["status"] == "trialing":
        licensed = [item for item in items if not is_metered(price_of(world, item))]
        for item in licensed:
            place(world, item, anchor=at, start=at, at=at)
        return [
            made for item in licensed if not final for made in licensed_lines(world, future, item)
        ]
    ended = [copy.deepcopy(item) for item in items if final or item["current_period_end"] <= at]
    for item in ended:
        item["current_period_end"] = min(item["current_period_end"], at)
    if not final:
        for item in items:
            if item["current_period_end"] <= at:
                place(world, item, anchor=future["billing_cycle_anchor"], start=at, at=at)
    return period_lines(world, future, ended, final=final)
