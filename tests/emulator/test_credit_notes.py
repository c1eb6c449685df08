"""Credit notes: what they take off an invoice, before and after it is paid."""

import pytest

from .conftest import NOW
from .test_invoices import CARD, refused

pytestmark = pytest.mark.unit


@pytest.fixture
def invoices(shop):
    return shop.client.v1.invoices


@pytest.fixture
def notes(shop):
    return shop.client.v1.credit_notes


@pytest.fixture
def opened(shop, invoices):
    """An open invoice over 1000: lines of 700 and of 3 times 100."""
    made = invoices.create({"customer": shop.customer.id})
    invoices.add_lines(
        made.id,
        {
            "lines": [
                {"amount": 700, "description": "Work"},
                {
                    "price_data": {
                        "currency": "usd",
                        "product_data": {"name": "Hour"},
                        "unit_amount": 100,
                    },
                    "quantity": 3,
                },
            ]
        },
    )
    return invoices.finalize_invoice(made.id)


@pytest.fixture
def paid(invoices, opened):
    return invoices.pay(opened.id, CARD)


def amounts(invoice) -> tuple[str, int, int, int, int]:
    return (
        invoice.status,
        invoice.amount_due,
        invoice.amount_remaining,
        invoice.pre_payment_credit_notes_amount,
        invoice.post_payment_credit_notes_amount,
    )


def of_line(line, **params):
    return {"type": "invoice_line_item", "invoice_line_item": line.id, **params}


def test_note_lowers_what_is_to_be_paid(shop, invoices, notes, opened, events):
    shop.emulator.forward("http://app/hook", "whsec_x")
    note = notes.create({"invoice": opened.id, "amount": 300, "reason": "duplicate", "memo": "x"})

    assert (note.status, note.type, note.total, note.amount) == ("issued", "pre_payment", 300, 300)
    assert (note.pre_payment_amount, note.post_payment_amount, note.memo) == (300, 0, "x")
    assert note.number == f"{opened.number}-CN-01"
    assert amounts(invoices.retrieve(opened.id)) == ("open", 700, 700, 300, 0)
    told = events()
    assert [event["type"] for event in told] == ["credit_note.created", "invoice.updated"]
    assert told[1]["data"]["previous_attributes"] == {
        "amount_due": 1000,
        "amount_remaining": 1000,
        "pre_payment_credit_notes_amount": 0,
    }
    assert invoices.pay(opened.id, CARD).amount_paid == 700


def test_invoice_credited_whole_is_paid_without_a_payment(shop, invoices, notes, opened, events):
    shop.emulator.forward("http://app/hook", "whsec_x")
    notes.create({"invoice": opened.id, "amount": 1000})

    assert amounts(invoices.retrieve(opened.id)) == ("paid", 0, 0, 1000, 0)
    assert invoices.retrieve(opened.id).amount_paid == 0
    assert [event["type"] for event in events()] == [
        "credit_note.created",
        "invoice.updated",
        "invoice.paid",
    ]


def test_what_was_paid_is_refunded_credited_or_given_elsewhere(shop, invoices, notes, paid):
    note = notes.create(
        {
            "invoice": paid.id,
            "amount": 600,
            "refund_amount": 100,
            "credit_amount": 200,
            "out_of_band_amount": 300,
        }
    )

    assert (note.type, note.pre_payment_amount, note.post_payment_amount) == (
        "post_payment",
        0,
        600,
    )
    assert [each.amount_refunded for each in note.refunds] == [100]
    assert note.out_of_band_amount == 300
    assert note.customer_balance_transaction.startswith("cbtxn_")
    assert shop.client.v1.customers.retrieve(shop.customer.id).balance == -200
    assert amounts(invoices.retrieve(paid.id)) == ("paid", 1000, 0, 0, 600)


def test_credited_balance_pays_the_next_invoice(shop, invoices, notes, paid):
    notes.create({"invoice": paid.id, "amount": 200, "credit_amount": 200})
    following = invoices.create({"customer": shop.customer.id})
    invoices.add_lines(following.id, {"lines": [{"amount": 900}]})

    assert invoices.finalize_invoice(following.id).amount_due == 700


@pytest.mark.parametrize(
    "division",
    [
        {},
        {"refund_amount": 599},
        {"refund_amount": 601},
        {"credit_amount": 300, "refund_amount": 301},
    ],
)
def test_division_of_what_was_paid_must_add_up(shop, invoices, notes, paid, division):
    error = refused(notes.create, {"invoice": paid.id, "amount": 600, **division})

    assert (error.http_status, error.param) == (400, "credit_amount")
    assert notes.list().data == []
    assert amounts(invoices.retrieve(paid.id)) == ("paid", 1000, 0, 0, 0)
    assert shop.client.v1.customers.retrieve(shop.customer.id).balance == 0


def test_no_more_is_credited_than_there_is(invoices, notes, opened):
    notes.create({"invoice": opened.id, "amount": 400})

    refused(notes.create, {"invoice": opened.id, "amount": 601}, match="at most 600")
    invoices.pay(opened.id, CARD)
    wrong = {"invoice": opened.id, "amount": 601, "refund_amount": 601}
    refused(notes.create, wrong, match="at most 600")
    assert notes.create({"invoice": opened.id, "amount": 600, "refund_amount": 600}).amount == 600
    refused(
        notes.create, {"invoice": opened.id, "amount": 1, "refund_amount": 1}, match="at most 0"
    )


def test_debt_of_earlier_invoices_is_not_credited(shop, invoices, notes):
    shop.client.v1.customers.update(shop.customer.id, {"balance": 300})
    made = invoices.create({"customer": shop.customer.id})
    invoices.add_lines(made.id, {"lines": [{"amount": 1000}]})
    opened = invoices.finalize_invoice(made.id)

    assert opened.amount_due == 1300
    refused(notes.create, {"invoice": opened.id, "amount": 1001}, match="at most 1000")


def test_what_the_balance_paid_is_not_given_back_as_money(shop, invoices, notes):
    shop.client.v1.customers.update(shop.customer.id, {"balance": -300})
    made = invoices.create({"customer": shop.customer.id})
    invoices.add_lines(made.id, {"lines": [{"amount": 1000}]})
    invoices.pay(made.id, CARD)

    notes.create({"invoice": made.id, "amount": 500, "refund_amount": 500})
    wrong = {"invoice": made.id, "amount": 201, "refund_amount": 201}
    refused(notes.create, wrong, match="at most 200")


def test_lines_are_credited_by_amount_or_quantity(notes, opened):
    work, hours = opened.lines.data
    note = notes.create(
        {
            "invoice": opened.id,
            "lines": [
                of_line(work, amount=250),
                of_line(hours, quantity=2),
                {
                    "type": "custom_line_item",
                    "unit_amount_decimal": "2.5",
                    "quantity": 3,
                    "description": "Sorry",
                },
            ],
        }
    )

    assert [(line.amount, line.type, line.description) for line in note.lines.data] == [
        (250, "invoice_line_item", "Work"),
        (200, "invoice_line_item", None),
        (8, "custom_line_item", "Sorry"),
    ]
    assert note.total == 458
    assert [line.id for line in notes.line_items.list(note.id).data] == [
        line.id for line in note.lines.data
    ]


def test_line_is_credited_no_further_than_it_goes(notes, opened):
    work, hours = opened.lines.data
    notes.create({"invoice": opened.id, "lines": [of_line(hours, quantity=2)]})

    wrong = {"invoice": opened.id, "lines": [of_line(hours, amount=101)]}
    refused(notes.create, wrong, match="Only 100 of this line")
    twice = {"invoice": opened.id, "lines": [of_line(work, amount=400), of_line(work, amount=301)]}
    refused(notes.create, twice, match="Only 300 of this line")
    assert len(notes.list().data) == 1


def test_preview_is_not_kept_and_changes_nothing(invoices, notes, opened):
    asked = {"invoice": opened.id, "amount": 300}
    seen = notes.preview(asked)

    assert notes.list().data == []
    assert amounts(invoices.retrieve(opened.id)) == ("open", 1000, 1000, 0, 0)
    made = notes.create(asked)
    assert seen == made
    assert made.id == seen.id


def test_voided_note_counts_no_longer(shop, invoices, notes, opened, events):
    note = notes.create({"invoice": opened.id, "amount": 300})
    shop.emulator.forward("http://app/hook", "whsec_x")
    gone = notes.void_credit_note(note.id)

    assert (gone.status, gone.voided_at) == ("void", NOW)
    assert amounts(invoices.retrieve(opened.id)) == ("open", 1000, 1000, 0, 0)
    assert [event["type"] for event in events()] == ["credit_note.voided", "invoice.updated"]
    refused(notes.void_credit_note, note.id, match="already void")
    assert notes.create({"invoice": opened.id, "amount": 1000}).number.endswith("-CN-02")


def test_line_of_a_voided_note_can_be_credited_again(notes, opened):
    work, _ = opened.lines.data
    asked = {"invoice": opened.id, "lines": [of_line(work, amount=700)]}
    notes.void_credit_note(notes.create(asked).id)

    assert notes.create(asked).total == 700


def test_note_that_paid_an_invoice_is_not_voided(invoices, notes, opened):
    note = notes.create({"invoice": opened.id, "amount": 1000})

    refused(notes.void_credit_note, note.id, match="of an open invoice")

    assert amounts(invoices.retrieve(opened.id)) == ("paid", 0, 0, 1000, 0)


def test_note_of_a_paid_invoice_is_not_voided(invoices, notes, paid):
    note = notes.create({"invoice": paid.id, "amount": 300, "refund_amount": 300})

    refused(notes.void_credit_note, note.id, match="of an open invoice")

    assert amounts(invoices.retrieve(paid.id)) == ("paid", 1000, 0, 0, 300)


@pytest.mark.parametrize("status", ["draft", "void"])
def test_draft_and_void_invoices_are_not_credited(shop, invoices, notes, opened, status):
    if status == "void":
        invoice = invoices.void_invoice(opened.id)
    else:
        invoice = invoices.create({"customer": shop.customer.id})

    refused(notes.create, {"invoice": invoice.id, "amount": 1}, match=f"invoice is {status}")


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({}, "amount"),
        ({"amount": 1, "lines": [{"type": "custom_line_item", "unit_amount": 1}]}, "amount"),
        ({"lines": [{"type": "custom_line_item", "amount": 1}]}, "lines[0][type]"),
        ({"lines": [{"type": "custom_line_item"}]}, "lines[0][unit_amount]"),
        (
            {"lines": [{"type": "invoice_line_item", "amount": 1}]},
            "lines[0][invoice_line_item]",
        ),
        ({"amount": 1, "refunds": [{"refund": "re_1"}]}, "refunds"),
        ({"amount": 1, "credit_amount": 1}, "credit_amount"),
    ],
)
def test_wrong_note_is_refused(notes, opened, asked, param):
    assert refused(notes.create, {"invoice": opened.id, **asked}).param == param
    assert notes.list().data == []


def test_note_takes_words_later(notes, opened):
    note = notes.create({"invoice": opened.id, "amount": 300, "metadata": {"a": "1"}})
    changed = notes.update(note.id, {"memo": "Sorry", "metadata": {"b": "2"}})

    assert (changed.memo, changed.metadata.to_dict()) == ("Sorry", {"a": "1", "b": "2"})
    assert notes.list({"invoice": opened.id}).data[0].memo == "Sorry"
    assert notes.list({"customer": "cus_other"}).data == []
