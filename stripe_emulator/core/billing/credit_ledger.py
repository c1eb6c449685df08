"""What a credit grant holds, in minor units: the sum of its transactions, kept in `_left`."""

from typing import Literal

from stripe_emulator.core import events
from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World

Credit = Literal["credits_granted", "credits_application_invoice_voided"]
Debit = Literal["credits_applied", "credits_expired", "credits_voided"]


def credit(  # noqa: PLR0913  a transaction has this many sides
    world: World,
    grant: Object,
    value: int,
    kind: Credit,
    *,
    at: int,
    line: Object | None = None,
) -> Object:
    """Add to a grant; `line` is the one of a voided invoice that had drawn on it."""
    details = {"credits_application_invoice_voided": _place(line)}
    return _record(
        world, grant, {"type": "credit", "credit": _entry(grant, value, kind) | details}, at
    )


def debit(  # noqa: PLR0913  a transaction has this many sides
    world: World,
    grant: Object,
    value: int,
    kind: Debit,
    *,
    at: int,
    line: Object | None = None,
) -> Object:
    """Take from a grant; `line` is the one of an invoice that draws on it."""
    details = {"credits_applied": _place(line)}
    return _record(
        world, grant, {"type": "debit", "debit": _entry(grant, value, kind) | details}, at
    )


def was_applied(world: World, grant: Object) -> bool:
    """Tell whether an invoice ever drew on a grant, given back or not."""
    return any(
        each["credit_grant"] == grant["id"]
        and each["type"] == "debit"
        and each["debit"]["type"] == "credits_applied"
        for each in world.credit_transactions
    )


def value_of(transaction: Object) -> int:
    """Return what a transaction adds to its grant; a debit is below zero."""
    side = transaction["credit"] or transaction["debit"]
    value: int = side["amount"]["monetary"]["value"]
    return value if transaction["type"] == "credit" else -value


def _record(world: World, grant: Object, sides: Object, at: int) -> Object:
    transaction = world.credit_transactions.add(
        {
            "id": world.ids.new("cbtxn"),
            "object": "billing.credit_balance_transaction",
            "created": at,
            "credit": None,
            "credit_grant": grant["id"],
            "debit": None,
            # What a grant of the future holds is there from then on.
            "effective_at": max(at, grant["effective_at"]),
            "livemode": grant["livemode"],
            "test_clock": grant["test_clock"],
            **sides,
        }
    )
    grant["_left"] += value_of(transaction)
    events.emit(world, "billing.credit_balance_transaction.created", transaction)
    return transaction


def _entry(grant: Object, value: int, kind: str) -> Object:
    currency = grant["amount"]["monetary"]["currency"]
    return {
        "amount": {"monetary": {"currency": currency, "value": value}, "type": "monetary"},
        "type": kind,
    }


def _place(line: Object | None) -> Object | None:
    return None if line is None else {"invoice": line["invoice"], "invoice_line_item": line["id"]}
