"""What an invoice comes to: the sum of its lines, and what of it is still to be paid."""

from stripe_emulator.core.collection import Object

TOTALS = ("subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax")


def total_up(invoice: Object) -> None:
    """Set a draft's totals from its lines."""
    total = sum(line["amount"] for line in invoice["lines"]["data"])
    for name in TOTALS:
        invoice[name] = total
    invoice["amount_due"] = total
    invoice["amount_remaining"] = total - invoice["amount_paid"]
