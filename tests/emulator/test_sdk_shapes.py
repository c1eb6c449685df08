"""Operations that Stripe's description leaves out, held to the SDK's typed classes both ways."""

import json

import pytest
from stripe import params as asked
from stripe._invoice import Invoice
from stripe._invoice_line_item import InvoiceLineItem
from stripe._invoice_payment import InvoicePayment
from stripe.params import billing as asked_of_billing
from stripe.params._credit_note_create_params import CreditNoteCreateParamsLine
from stripe.params._invoice_add_lines_params import InvoiceAddLinesParamsLine
from stripe.params._invoice_item_create_params import InvoiceItemCreateParamsPriceData
from stripe.params._invoice_update_lines_params import InvoiceUpdateLinesParamsLine

from stripe_emulator.core.billing import (
    credit_balances,
    credit_grant_params,
    credit_notes,
    invoice_calls,
    invoice_params,
)

from . import sdk_shapes, spec
from .conftest import NOW

pytestmark = pytest.mark.contract


def shown(answer):
    return json.loads(answer.last_response.body)


@pytest.fixture
def item(shop):
    return shop.client.v1.invoice_items.create(
        {
            "customer": shop.customer.id,
            "amount": 700,
            "currency": "usd",
            "description": "x",
            "period": {"start": NOW, "end": NOW + 5},
            "metadata": {"a": "1"},
        }
    )


@pytest.fixture
def invoice(shop, item):
    draft = shop.client.v1.invoices.create(
        {"customer": shop.customer.id, "pending_invoice_items_behavior": "include"}
    )
    return shop.client.v1.invoices.finalize_invoice(draft.id)


def test_invoice_items_have_the_fields_of_their_class(shop, request, metered_price):
    product = shop.client.v1.products.create({"name": "Once"})
    subscription = shop.client.v1.subscriptions.create(
        {"customer": shop.customer.id, "items": [{"price": metered_price.id}]}
    )
    item = request.getfixturevalue("item")  # a new subscription would have taken it at once
    priced = shop.client.v1.invoice_items.create(
        {
            "customer": shop.customer.id,
            "subscription": subscription.id,
            "price_data": {"currency": "usd", "product": product.id, "unit_amount": 3},
            "quantity": 2,
        }
    )
    changed = shop.client.v1.invoice_items.update(item.id, {"amount": 800})
    page = shop.client.v1.invoice_items.list({"pending": True, "customer": shop.customer.id})
    gone = shop.client.v1.invoice_items.delete(item.id)

    for body in (shown(item), shown(priced), shown(changed), *shown(page)["data"]):
        sdk_shapes.check(sdk_shapes.InvoiceItem, body)
    assert len(page.data) == 2
    assert shown(gone) == {"id": item.id, "object": "invoiceitem", "deleted": True}


def test_credit_notes_have_the_fields_of_their_class(shop, invoice):
    line = invoice.lines.data[0].id
    wanted = {
        "invoice": invoice.id,
        "lines": [
            {"type": "invoice_line_item", "invoice_line_item": line, "amount": 100},
            {"type": "custom_line_item", "unit_amount": 5, "quantity": 2, "description": "x"},
        ],
    }
    notes = [
        shop.client.v1.credit_notes.preview(wanted),
        shop.client.v1.credit_notes.create(wanted),
        shop.client.v1.credit_notes.create({"invoice": invoice.id, "amount": 40}),
    ]
    shop.client.v1.invoices.pay(invoice.id, {"payment_method": "pm_card_visa"})
    refunded = {"invoice": invoice.id, "amount": 60, "refund_amount": 50, "credit_amount": 10}
    notes.append(shop.client.v1.credit_notes.create(refunded))
    notes.append(shop.client.v1.credit_notes.update(notes[1].id, {"memo": "x"}))
    page = shop.client.v1.credit_notes.list({"invoice": invoice.id})
    lines = shop.client.v1.credit_notes.line_items.list(notes[1].id)
    previewed = shop.client.v1.credit_notes.preview_lines.list({**refunded, "limit": 1})

    for body in (*map(shown, notes), *shown(page)["data"]):
        sdk_shapes.check(sdk_shapes.CreditNote, body)
        for each in body["lines"]["data"]:
            sdk_shapes.check(sdk_shapes.CreditNoteLineItem, each)
    for each in (*shown(lines)["data"], *shown(previewed)["data"]):
        sdk_shapes.check(sdk_shapes.CreditNoteLineItem, each)
    assert len(page.data) == 3


def test_credit_balances_have_the_fields_of_their_class(shop):
    grant = shop.client.v1.billing.credit_grants.create(
        {
            "customer": shop.customer.id,
            "amount": {"type": "monetary", "monetary": {"currency": "usd", "value": 100}},
            "applicability_config": {"scope": {"price_type": "metered"}},
        }
    )
    summary = shop.client.v1.billing.credit_balance_summary.retrieve(
        {
            "customer": shop.customer.id,
            "filter": {"type": "credit_grant", "credit_grant": grant.id},
            "expand": ["customer"],
        }
    )
    transactions = shop.client.v1.billing.credit_balance_transactions
    [listed] = transactions.list({"credit_grant": grant.id, "customer": shop.customer.id}).data
    one = transactions.retrieve(listed.id, {"expand": ["credit_grant"]})

    sdk_shapes.check(sdk_shapes.CreditBalanceSummary, shown(summary))
    assert summary.customer.id == shop.customer.id
    assert one.credit_grant.id == grant.id
    spec.check_schema("billing.credit_balance_transaction", shown(one))


def test_invoices_have_every_field_of_their_class(shop, invoice):
    body = shown(
        shop.client.v1.invoices.retrieve(
            invoice.id, {"expand": ["payments", "confirmation_secret"]}
        )
    )

    assert body.keys() == sdk_shapes.fields(Invoice).keys()
    assert body["lines"]["data"][0].keys() == sdk_shapes.fields(InvoiceLineItem).keys()
    assert body["payments"]["data"][0].keys() == sdk_shapes.fields(InvoicePayment).keys()


PARAMETERS = [
    (asked.InvoiceItemCreateParams, invoice_params.ITEM_CREATE),
    (asked.InvoiceItemUpdateParams, invoice_params.ITEM_UPDATE),
    (asked.InvoiceItemListParams, invoice_params.ITEM_LIST),
    (InvoiceItemCreateParamsPriceData, invoice_params.ITEM_CREATE.fields["price_data"]),
    (asked.CreditNoteCreateParams, credit_notes.CREATE),
    (CreditNoteCreateParamsLine, credit_notes.CREATE.fields["lines"].item),
    (asked.CreditNotePreviewParams, credit_notes.CREATE),
    (asked.CreditNotePreviewLinesListParams, credit_notes.PREVIEW_LINES),
    (asked.CreditNoteUpdateParams, credit_notes.UPDATE),
    (asked.CreditNoteListParams, credit_notes.LIST),
    (asked_of_billing.CreditBalanceSummaryRetrieveParams, credit_balances.SUMMARY),
    (asked_of_billing.CreditBalanceTransactionListParams, credit_balances.LIST),
    (asked_of_billing.CreditGrantCreateParams, credit_grant_params.CREATE),
    (asked_of_billing.CreditGrantUpdateParams, credit_grant_params.UPDATE),
    (asked_of_billing.CreditGrantListParams, credit_grant_params.LIST),
    (asked.InvoiceCreateParams, invoice_params.CREATE),
    (asked.InvoiceUpdateParams, invoice_params.UPDATE),
    (asked.InvoiceListParams, invoice_calls.LIST),
    (asked.InvoicePayParams, invoice_calls.PAY),
    (asked.InvoiceFinalizeInvoiceParams, invoice_calls.FINALIZE),
    (asked.InvoiceAttachPaymentParams, invoice_calls.ATTACH),
    (asked.InvoiceLineItemUpdateParams, invoice_params.LINE_UPDATE),
    (asked.InvoiceAddLinesParams, invoice_params.ADD_LINES),
    (InvoiceAddLinesParamsLine, invoice_params.ADD_LINES.fields["lines"].item),
    (asked.InvoiceUpdateLinesParams, invoice_params.UPDATE_LINES),
    (InvoiceUpdateLinesParamsLine, invoice_params.UPDATE_LINES.fields["lines"].item),
    (asked.InvoiceRemoveLinesParams, invoice_params.REMOVE_LINES),
]
OF_THE_REQUEST = {
    "api_key",
    "idempotency_key",
    "stripe_version",
    "stripe_account",
    "stripe_context",
    "max_network_retries",
    "content_type",
    "headers",
}
"""What the SDK's classes take besides, for the request and not for the operation."""


@pytest.mark.parametrize(
    ("params", "takes"), PARAMETERS, ids=[params.__name__ for params, _ in PARAMETERS]
)
def test_parameters_are_those_of_the_sdk(params, takes):
    assert takes.fields.keys() == params.__annotations__.keys() - OF_THE_REQUEST
