"""Which paths `expand` takes, by the object an operation answers with.

A wrong path is known before the operation begins, so it is refused before anything is done. The
paths are those Stripe's description marks as expandable; a test holds them against it.
"""

from collections.abc import Mapping, Sequence

from stripe_emulator.core.errors import malformed

MAX_DEPTH = 4

_SHOWN = {
    "/v1/customers": "customer",
    "/v1/products": "product",
    "/v1/prices": "price",
    "/v1/subscriptions": "subscription",
    "/v1/invoices": "invoice",
    "/v1/invoices/{id}/lines": "line_item",
    "/v1/invoiceitems": "invoiceitem",
    "/v1/credit_notes": "credit_note",
    "/v1/credit_notes/{id}/lines": "credit_note_line_item",
    "/v1/credit_notes/preview/lines": "credit_note_line_item",
    "/v1/billing/credit_grants": "billing.credit_grant",
    "/v1/billing/credit_balance_summary": "billing.credit_balance_summary",
    "/v1/billing/credit_balance_transactions": "billing.credit_balance_transaction",
    "/v1/billing/alerts": "billing.alert",
    "/v1/setup_intents": "setup_intent",
    "/v1/billing_portal/sessions": "billing_portal.session",
    "/v1/checkout/sessions": "checkout.session",
    "/v1/checkout/sessions/{id}/line_items": "item",
}
"""What the operations under a path answer with; other answers have nothing to expand."""

EXPANDABLE: Mapping[str, Mapping[str, str]] = {
    "customer": {"test_clock": "test_helpers.test_clock"},
    "product": {"default_price": "price"},
    "price": {"product": "product"},
    "plan": {"product": "product"},
    "subscription": {
        "customer": "customer",
        "latest_invoice": "invoice",
        "pending_setup_intent": "setup_intent",
        "test_clock": "test_helpers.test_clock",
    },
    "invoice": {
        "customer": "customer",
        "from_invoice.invoice": "invoice",
        "latest_revision": "invoice",
        "parent.subscription_details.subscription": "subscription",
        "test_clock": "test_helpers.test_clock",
        "total_pretax_credit_amounts.credit_balance_transaction": (
            "billing.credit_balance_transaction"
        ),
    },
    "invoice_payment": {"invoice": "invoice"},
    "line_item": {
        "pretax_credit_amounts.credit_balance_transaction": "billing.credit_balance_transaction",
        "pricing.price_details.price": "price",
        "subscription": "subscription",
    },
    "invoiceitem": {
        "customer": "customer",
        "invoice": "invoice",
        "pricing.price_details.price": "price",
        "test_clock": "test_helpers.test_clock",
    },
    "credit_note": {
        "customer": "customer",
        "invoice": "invoice",
        "pretax_credit_amounts.credit_balance_transaction": "billing.credit_balance_transaction",
    },
    "credit_note_line_item": {
        "pretax_credit_amounts.credit_balance_transaction": "billing.credit_balance_transaction",
    },
    "billing.credit_grant": {"customer": "customer", "test_clock": "test_helpers.test_clock"},
    "billing.credit_balance_summary": {"customer": "customer"},
    "billing.credit_balance_transaction": {
        "credit.credits_application_invoice_voided.invoice": "invoice",
        "credit_grant": "billing.credit_grant",
        "debit.credits_applied.invoice": "invoice",
        "test_clock": "test_helpers.test_clock",
    },
    "setup_intent": {"customer": "customer"},
    "checkout.session": {
        "customer": "customer",
        "invoice": "invoice",
        "setup_intent": "setup_intent",
        "subscription": "subscription",
    },
    "billing.alert": {
        "usage_threshold.filters.customer": "customer",
        "usage_threshold.meter": "billing.meter",
    },
}
"""By kind of object, the fields that hold an id and what that id names."""

ELSEWHERE: Mapping[str, frozenset[str]] = {
    "customer": frozenset({"default_source", "invoice_settings.default_payment_method"}),
    "product": frozenset({"tax_code"}),
    "subscription": frozenset(
        {
            "application",
            "automatic_tax.liability.account",
            "billing_schedules.applies_to.price",
            "cancellation_details.feedback_option",
            "default_payment_method",
            "default_source",
            "discounts",
            "invoice_settings.account_tax_ids",
            "invoice_settings.issuer.account",
            "on_behalf_of",
            "pending_update.discounts",
            "schedule",
            "transfer_data.destination",
        }
    ),
    "subscription_item": frozenset({"discounts"}),
    "invoice": frozenset(
        {
            "account_tax_ids",
            "application",
            "automatic_tax.liability.account",
            "default_payment_method",
            "default_source",
            "discounts",
            "issuer.account",
            "on_behalf_of",
            "shipping_cost.shipping_rate",
            "total_discount_amounts.discount",
            "total_pretax_credit_amounts.discount",
        }
    ),
    "line_item": frozenset(
        {
            "discount_amounts.discount",
            "discounts",
            "pretax_credit_amounts.discount",
        }
    ),
    "invoice_payment": frozenset(
        {"payment.charge", "payment.payment_intent", "payment.payment_record"}
    ),
    "invoiceitem": frozenset({"discounts", "proration_details.discount_amounts.discount"}),
    "credit_note": frozenset(
        {
            "customer_balance_transaction",
            "discount_amounts.discount",
            "pretax_credit_amounts.discount",
            "refunds.refund",
            "shipping_cost.shipping_rate",
        }
    ),
    "credit_note_line_item": frozenset(
        {"discount_amounts.discount", "pretax_credit_amounts.discount"}
    ),
    "setup_intent": frozenset(
        {
            "application",
            "latest_attempt",
            "mandate",
            "on_behalf_of",
            "payment_method",
            "single_use_mandate",
        }
    ),
    "checkout.session": frozenset(
        {
            "automatic_tax.liability.account",
            "discounts.coupon",
            "discounts.promotion_code",
            "invoice_creation.invoice_data.account_tax_ids",
            "invoice_creation.invoice_data.issuer.account",
            "payment_intent",
            "payment_link",
            "shipping_cost.shipping_rate",
            "shipping_options.shipping_rate",
        }
    ),
    "billing_portal.session": frozenset({"configuration"}),
}
"""Fields that name objects the emulator does not keep: taken, and shown as they are."""

LEFT_OUT: Mapping[str, frozenset[str]] = {
    "customer": frozenset({"cash_balance", "sources", "subscriptions", "tax", "tax_ids"}),
    "price": frozenset({"currency_options", "tiers"}),
    "plan": frozenset({"tiers"}),
    "invoice": frozenset({"confirmation_secret", "payments"}),
    "checkout.session": frozenset({"line_items"}),
}
"""Fields an answer holds only when asked for; the emulator knows `tiers`, and of invoices
both."""

_HOLDS: Mapping[str, Mapping[str, str]] = {
    "subscription": {"items.data": "subscription_item"},
    "subscription_item": {"plan": "plan", "price": "price"},
    "item": {"price": "price"},
    "invoice": {"lines.data": "line_item"},
    "credit_note": {"lines.data": "credit_note_line_item"},
}
"""Objects that are shown whole anyway: a path may lead through them but not end there."""


def check(path: str, *, listed: bool, expand: Sequence[str]) -> None:
    """Refuse what cannot be expanded in the answer of the operation at `path`."""
    for asked in expand:
        parts = asked.split(".")
        if len(parts) > MAX_DEPTH:
            raise malformed(
                f"You cannot expand more than {MAX_DEPTH} levels of a property ({asked}).",
                param="expand",
            )
        if listed:
            parts = parts[1:] if parts[0] == "data" else []
        if not parts or not _fits(_shown(path), parts):
            raise malformed(f"This property cannot be expanded ({asked}).", param="expand")


def _shown(path: str) -> str:
    """Return what the operation at `path` answers with: the longest of the paths above decides."""
    while path and path not in _SHOWN:
        path = path.rpartition("/")[0]
    return _SHOWN.get(path, "")


def _fits(kind: str, parts: Sequence[str]) -> bool:
    for length in range(1, len(parts) + 1):
        head, rest = ".".join(parts[:length]), parts[length:]
        if head in ELSEWHERE.get(kind, ()) or head in LEFT_OUT.get(kind, ()):
            return True
        if head in EXPANDABLE.get(kind, {}):
            return not rest or _fits(EXPANDABLE[kind][head], rest)
        if head in _HOLDS.get(kind, {}):
            return bool(rest) and _fits(_HOLDS[kind][head], rest)
    return False
