"""The lines of a credit note: of an invoice's lines, of words of one's own, or one over it all."""

from decimal import Decimal
from typing import Any

from stripe_emulator.core import exact
from stripe_emulator.core.billing.pricing import rounded
from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid, missing_object
from stripe_emulator.core.ids import derived
from stripe_emulator.core.metadata import merged


def lines_of(call: Call, invoice: Object, note_id: str) -> list[Object]:
    """Return the lines that were asked for; none is kept."""
    amount, asked_lines = call.given("amount"), call.given("lines")
    if (amount is None) == (asked_lines is None):
        raise invalid("A credit note needs `amount` or `lines`, and not both.", param="amount")
    if asked_lines is None:
        return [_line(invoice, derived("cnli", note_id, 0), Decimal(amount), Decimal(1), {})]
    made: list[Object] = []
    for index, asked in enumerate(asked_lines):
        line_id = derived("cnli", note_id, index)
        if asked["type"] == "custom_line_item":
            made.append(_custom(invoice, line_id, asked, f"lines[{index}]"))
        else:
            made.append(
                _of_invoice_line(
                    call, invoice, line_id, asked, prefix=f"lines[{index}]", others=made
                )
            )
    return made


def _custom(invoice: Object, line_id: str, asked: dict[str, Any], prefix: str) -> Object:
    if "amount" in asked or "invoice_line_item" in asked:
        raise invalid("A custom line has `unit_amount` and `quantity`.", param=f"{prefix}[type]")
    if ("unit_amount" in asked) == ("unit_amount_decimal" in asked):
        raise invalid(
            "A custom line needs `unit_amount` or `unit_amount_decimal`.",
            param=f"{prefix}[unit_amount]",
        )
    unit = Decimal(asked.get("unit_amount", asked.get("unit_amount_decimal", 0)))
    return _line(invoice, line_id, unit, Decimal(asked.get("quantity", 1)), asked)


def _of_invoice_line(  # noqa: PLR0913  what a line of an invoice is found by
    call: Call,
    invoice: Object,
    line_id: str,
    asked: dict[str, Any],
    *,
    prefix: str,
    others: list[Object],
) -> Object:
    """Credit a line of the invoice, by amount or by quantity, as far as it was not yet.

    Billing credits that paid for it are lost in proportion: they are not given back.
    """
    source = next(
        (each for each in invoice["lines"]["data"] if each["id"] == asked.get("invoice_line_item")),
        None,
    )
    param = f"{prefix}[invoice_line_item]"
    if source is None:
        error = missing_object(
            "invoice line item", str(asked.get("invoice_line_item", "")), param=param
        )
        error.status = 400
        raise error
    if ("amount" in asked) == ("quantity" in asked):
        raise invalid("Give `amount` or `quantity`, and not both.", param=f"{prefix}[amount]")
    whole, quantity = Decimal(source["amount"]), Decimal(source["quantity_decimal"])
    if "amount" in asked:
        amount = Decimal(asked["amount"])
    else:
        amount = whole * asked["quantity"] / quantity if quantity else Decimal(0)
    before = _credited(call, invoice, source["id"], others)
    made = _line(invoice, line_id, amount, Decimal(1), asked)
    if before + made["amount"] > source["amount"]:
        raise invalid(
            f"Only {source['amount'] - before} of this line can still be credited.", param=param
        )
    share = Decimal(made["amount"]) / whole if whole else Decimal(0)
    return made | {
        "description": source["description"],
        "invoice_line_item": source["id"],
        "pretax_credit_amounts": [
            each | {"amount": rounded(each["amount"] * share)}
            for each in source["pretax_credit_amounts"]
        ],
        "quantity": asked.get("quantity"),
        "type": "invoice_line_item",
        "unit_amount": None,
        "unit_amount_decimal": None,
    }


def _line(
    invoice: Object, line_id: str, unit: Decimal, quantity: Decimal, asked: dict[str, Any]
) -> Object:
    whole = unit == unit.to_integral_value()
    return {
        "id": line_id,
        "object": "credit_note_line_item",
        "amount": rounded(unit * quantity),
        "description": asked.get("description"),
        "discount_amount": 0,
        "discount_amounts": [],
        "invoice_line_item": None,
        "livemode": invoice["livemode"],
        "metadata": merged({}, asked.get("metadata", {})),
        "pretax_credit_amounts": [],
        "quantity": int(quantity),
        "tax_rates": [],
        "taxes": [],
        "type": "custom_line_item",
        "unit_amount": int(unit) if whole else None,
        "unit_amount_decimal": exact.plain(unit),
    }


def _credited(call: Call, invoice: Object, line_id: str, others: list[Object]) -> int:
    """Return what notes that still hold, and the lines of this one so far, took off a line."""
    earlier = [
        line
        for note in call.world.credit_notes
        if note["invoice"] == invoice["id"] and note["status"] == "issued"
        for line in note["lines"]["data"]
    ]
    return sum(
        line["amount"] for line in [*earlier, *others] if line["invoice_line_item"] == line_id
    )
