"""The routes of invoices, their items, credit notes and billing credits."""

from collections.abc import Sequence

from stripe_emulator.core import search
from stripe_emulator.core.billing import (
    credit_balances,
    credit_grant_params,
    credit_grants,
    credit_notes,
    invoice_calls,
    invoice_items,
    invoice_lines,
    invoice_params,
    manual_invoices,
)
from stripe_emulator.core.params import NO_PARAMETERS
from stripe_emulator.core.route import ONLY_EXPAND, Route

_INVOICE = "/v1/invoices/{id}"
_ITEM = "/v1/invoiceitems/{id}"
_NOTE = "/v1/credit_notes/{id}"
_GRANT = "/v1/billing/credit_grants/{id}"

ROUTES: Sequence[Route] = (
    Route("POST", "/v1/invoices", manual_invoices.create, invoice_params.CREATE),
    Route("GET", "/v1/invoices", invoice_calls.list_all, invoice_calls.LIST),
    Route("GET", "/v1/invoices/search", search.invoices, search.SEARCH),
    Route("GET", _INVOICE, invoice_calls.retrieve, ONLY_EXPAND),
    Route("POST", _INVOICE, manual_invoices.update, invoice_params.UPDATE),
    Route("DELETE", _INVOICE, manual_invoices.delete, NO_PARAMETERS),
    Route("POST", _INVOICE + "/finalize", invoice_calls.finalize, invoice_calls.FINALIZE),
    Route("POST", _INVOICE + "/pay", invoice_calls.pay, invoice_calls.PAY),
    Route("POST", _INVOICE + "/send", invoice_calls.send, ONLY_EXPAND),
    Route("POST", _INVOICE + "/void", invoice_calls.void, ONLY_EXPAND),
    Route("POST", _INVOICE + "/mark_uncollectible", invoice_calls.mark_uncollectible, ONLY_EXPAND),
    Route("POST", _INVOICE + "/attach_payment", invoice_calls.attach_payment, invoice_calls.ATTACH),
    Route("GET", _INVOICE + "/lines", invoice_calls.list_lines, invoice_calls.LINES),
    Route("POST", _INVOICE + "/lines/{line}", invoice_lines.update_one, invoice_params.LINE_UPDATE),
    Route("POST", _INVOICE + "/add_lines", invoice_lines.add, invoice_params.ADD_LINES),
    Route("POST", _INVOICE + "/remove_lines", invoice_lines.remove, invoice_params.REMOVE_LINES),
    Route(
        "POST", _INVOICE + "/update_lines", invoice_lines.update_many, invoice_params.UPDATE_LINES
    ),
    Route("POST", "/v1/invoiceitems", invoice_items.create, invoice_params.ITEM_CREATE),
    Route("GET", "/v1/invoiceitems", invoice_items.list_all, invoice_params.ITEM_LIST),
    Route("GET", _ITEM, invoice_items.retrieve, ONLY_EXPAND),
    Route("POST", _ITEM, invoice_items.update, invoice_params.ITEM_UPDATE),
    Route("DELETE", _ITEM, invoice_items.delete, NO_PARAMETERS),
    Route("POST", "/v1/credit_notes", credit_notes.create, credit_notes.CREATE),
    Route("GET", "/v1/credit_notes", credit_notes.list_all, credit_notes.LIST),
    Route("GET", "/v1/credit_notes/preview", credit_notes.preview, credit_notes.CREATE),
    Route(
        "GET",
        "/v1/credit_notes/preview/lines",
        credit_notes.preview_lines,
        credit_notes.PREVIEW_LINES,
    ),
    Route("GET", _NOTE, credit_notes.retrieve, ONLY_EXPAND),
    Route("POST", _NOTE, credit_notes.update, credit_notes.UPDATE),
    Route("POST", _NOTE + "/void", credit_notes.void, ONLY_EXPAND),
    Route("GET", _NOTE + "/lines", credit_notes.list_lines, credit_notes.LINES),
    Route("POST", "/v1/billing/credit_grants", credit_grants.create, credit_grant_params.CREATE),
    Route("GET", "/v1/billing/credit_grants", credit_grants.list_all, credit_grant_params.LIST),
    Route("GET", _GRANT, credit_grants.retrieve, ONLY_EXPAND),
    Route("POST", _GRANT, credit_grants.update, credit_grant_params.UPDATE),
    Route("POST", _GRANT + "/expire", credit_grants.expire, ONLY_EXPAND),
    Route("POST", _GRANT + "/void", credit_grants.void, ONLY_EXPAND),
    Route(
        "GET",
        "/v1/billing/credit_balance_summary",
        credit_balances.summary,
        credit_balances.SUMMARY,
    ),
    Route(
        "GET",
        "/v1/billing/credit_balance_transactions",
        credit_balances.list_all,
        credit_balances.LIST,
    ),
    Route(
        "GET",
        "/v1/billing/credit_balance_transactions/{id}",
        credit_balances.retrieve,
        ONLY_EXPAND,
    ),
)
