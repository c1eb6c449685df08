"""A credit note as it was asked for: how much of it lies before and how much after payment.

Minor units throughout; its lines stand in `credit_note_lines`. Rules in part inferred; source:
docs.stripe.com/api/credit_notes.
"""

from stripe_emulator.core.billing.credit_note_lines import lines_of
from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
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
    lines = lines_of(call, invoice, note_id)
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
