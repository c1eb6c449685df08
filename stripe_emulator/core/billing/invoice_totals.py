"""What an invoice comes to: its lines, less credits, with what the customer's balance holds.

A balance below zero is the customer's credit, one above zero is owed. Minor units throughout.
"""

from stripe_emulator.core import events
from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World

SMALLEST_CHARGE = 50
"""The smallest amount that is charged; of every currency (inferred: Stripe's differ by currency).

Source: docs.stripe.com/api/invoices, docs.stripe.com/currencies.
"""


def total_up(world: World, invoice: Object) -> None:
    """Set a draft's totals, with the amount due as it would be if it were finalized now."""
    subtotal = sum(line["amount"] for line in invoice["lines"]["data"])
    credited = sum(each["amount"] for each in invoice["total_pretax_credit_amounts"])
    invoice["subtotal"] = invoice["subtotal_excluding_tax"] = subtotal
    invoice["total"] = invoice["total_excluding_tax"] = subtotal - credited
    invoice["starting_balance"] = _balance(world, invoice)
    invoice["amount_due"] = _chargeable(invoice["total"] + invoice["starting_balance"])
    invoice["amount_remaining"] = invoice["amount_due"] - invoice["amount_paid"]


def apply_balance(world: World, invoice: Object) -> None:
    """Settle a totalled draft with the customer's balance, once and for all.

    What is due is taken from the balance first. A total below zero, and an amount too small to be
    charged, stay on the balance for the next invoice.
    """
    owed = invoice["total"] + invoice["starting_balance"]
    invoice["ending_balance"] = owed - invoice["amount_due"]
    change_balance(world, invoice["customer"], invoice["ending_balance"] - _balance(world, invoice))


def unapply_balance(world: World, invoice: Object) -> None:
    """Give back what a voided invoice had moved on the balance."""
    if invoice["ending_balance"] is not None:
        moved = invoice["ending_balance"] - invoice["starting_balance"]
        change_balance(world, invoice["customer"], -moved)


def change_balance(world: World, customer_id: str, by: int) -> None:
    """Move a customer's balance; what is left of a deleted customer has none."""
    customer = world.customers.find(customer_id)
    if by == 0 or customer is None or customer.get("deleted"):
        return
    before = customer["balance"]
    customer["balance"] = before + by
    events.emit(world, "customer.updated", customer, previous={"balance": before})


def _balance(world: World, invoice: Object) -> int:
    customer = world.customers.find(invoice["customer"]) or {}
    return int(customer.get("balance", 0))


def _chargeable(owed: int) -> int:
    return owed if owed >= SMALLEST_CHARGE else 0
