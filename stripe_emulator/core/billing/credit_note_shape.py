"""A credit note as it was asked for: its lines, and how much of it is before and after payment.

Minor units throughout. Rules in part inferred; source: docs.stripe.com/api/credit_notes.
"""

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from stripe_emulator.core import exact
from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid, missing_object
from stripe_emulator.core.ids import derived
from stripe_emulator.core.metadata import merged


def drafted(call: Call, invoice: Object) -> Object:
    """Return the note that the parameters ask for, checked and not kept.

    It lowers what is still to be paid first; the rest must be said to be refunded, credited to
    the customer's balance, or credited elsewhere.
    """
    given = call.given
    earlier = [each for each in call.world.credit_notes if each["invoice"] == invoice["id"]]
    note_id = derived("cn", invoice["id"], len(earlier))
    lines = _lines(call, invoice, note_id)
    subtotal = sum(line["amount"] for line in lines)
    credits_lost = [each for line in lines for each in line["pretax_credit_amounts"]]
    total = subtotal - sum(each["amount"] for each in credits_lost)
    _check_total(invoice, total, earlier)
    before_payment = min(total, invoice["amount_remaining"])
    after_payment = total - before_payment
    _check_division(call, after_payment)
    now = call.world.second_for(invoice)
    refunded = given("refund_amount", 0)
    return {
        "id": note_id,
        "object": "credit_note",
        "amount": total,
        "amount_shipping": 0,
        "created": now,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_account": None,
        "customer_balance_transaction": None,
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": given("effective_at", now),
        "invoice": invoice["id"],
        "lines": {
            "object": "list",
            "data": lines,
            "has_more": False,
            "url": f"/v1/credit_notes/{note_id}/lines",
        },
        "livemode": call.livemode,
        "memo": given("memo"),
        "metadata": merged({}, given("metadata", {})),
        "number": f"{invoice['number']}-CN-{len(earlier) + 1:02d}",
        "out_of_band_amount": given("out_of_band_amount"),
        "pdf": f"https://pay.stripe.com/credit_notes/{note_id}/pdf",
        "post_payment_amount": after_payment,
        "pre_payment_amount": before_payment,
        "pretax_credit_amounts": credits_lost,
        "reason": given("reason"),
        "refunds": [
            {
                "amount_refunded": refunded,
                "payment_record_refund": None,
                "refund": derived("re", note_id),
                "type": "refund",
            }
        ]
        if refunded
        else [],
        "shipping_cost": None,
        "status": "issued",
        "subtotal": subtotal,
        "subtotal_excluding_tax": subtotal,
        "total": total,
        "total_excluding_tax": total,
        "total_taxes": [],
        "type": _type(before_payment, after_payment),
        "voided_at": None,
    }


def _lines(call: Call, invoice: Object, note_id: str) -> list[Object]:
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
            each | {"amount": _rounded(each["amount"] * share)}
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
        "amount": _rounded(unit * quantity),
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


def _check_total(invoice: Object, total: int, earlier: list[Object]) -> None:
    """Refuse more than is due or was paid, and more than the invoice came to."""
    paid = invoice["amount_paid"] - invoice["post_payment_credit_notes_amount"]
    issued = sum(each["total"] for each in earlier if each["status"] == "issued")
    most = min(invoice["amount_remaining"] + paid, invoice["total"] - issued)
    if not 0 < total <= most:
        raise invalid(
            f"A credit note over {total} cannot be made: at most {most} can be credited.",
            param="amount",
        )


def _check_division(call: Call, after_payment: int) -> None:
    names = ("credit_amount", "out_of_band_amount", "refund_amount")
    if sum(call.given(name, 0) for name in names) != after_payment:
        raise invalid(
            "The sum of `credit_amount`, `refund_amount` and `out_of_band_amount` must equal what "
            f"was paid of the credited amount, which is {after_payment}.",
            param="credit_amount",
        )


def _type(before_payment: int, after_payment: int) -> str:
    if before_payment and after_payment:
        return "mixed"
    return "post_payment" if after_payment else "pre_payment"


def _rounded(amount: Decimal) -> int:
    return int(amount.to_integral_value(rounding=ROUND_HALF_UP))
