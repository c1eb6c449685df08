"""What the calls on Checkout sessions take."""

from stripe_emulator.core.kinds import Choice, Integer, Kind, String
from stripe_emulator.core.params import CREATED, EXPAND, METADATA, Array, Hash, anything, listing

MAX_LINES = 20
"""Recurring prices a session takes; the emulator takes no others."""

_LINE: dict[str, Kind] = {
    "adjustable_quantity": anything(),
    "metadata": METADATA,
    "price": String(),
    "price_data": anything(),
    "quantity": Integer(0),
    "tax_rates": anything(),
}
_SUBSCRIPTION_DATA = Hash(
    {
        "application_fee_percent": anything(),
        "billing_cycle_anchor": Integer(0),
        "billing_cycle_anchor_config": anything(),
        "billing_mode": Hash(
            {"flexible": anything(), "type": Choice("classic", "flexible")}, "type"
        ),
        "default_tax_rates": anything(),
        "description": String(500),
        "invoice_settings": anything(),
        "metadata": METADATA,
        "on_behalf_of": anything(),
        "pending_invoice_item_interval": anything(),
        "proration_behavior": Choice("create_prorations", "none"),
        "transfer_data": anything(),
        "trial_end": Integer(0),
        "trial_period_days": Integer(1, 730),
        "trial_settings": anything(),
    }
)
_UNUSED = (
    "adaptive_pricing",
    "after_expiration",
    "allow_promotion_codes",
    "automatic_tax",
    "billing_address_collection",
    "branding_settings",
    "consent_collection",
    "custom_fields",
    "custom_text",
    "customer_account",
    "customer_update",
    "discounts",
    "excluded_payment_method_types",
    "integration_identifier",
    "invoice_creation",
    "locale",
    "managed_payments",
    "name_collection",
    "optional_items",
    "origin_context",
    "payment_intent_data",
    "payment_method_configuration",
    "payment_method_data",
    "payment_method_options",
    "permissions",
    "phone_number_collection",
    "redirect_on_completion",
    "return_url",
    "saved_payment_method_options",
    "shipping_address_collection",
    "shipping_options",
    "submit_type",
    "tax_id_collection",
    "wallet_options",
)
CREATE = Hash(
    {
        **{name: anything() for name in _UNUSED},
        "allowed_payment_method_types": Array(String(100)),
        "cancel_url": String(),
        "client_reference_id": String(200),
        "currency": String(3),
        "customer": String(),
        "customer_creation": Choice("always", "if_required"),
        "customer_email": String(800),
        "expand": EXPAND,
        "expires_at": Integer(0),
        "line_items": Array(Hash(_LINE), MAX_LINES),
        "metadata": METADATA,
        "mode": Choice("payment", "setup", "subscription"),
        "payment_method_collection": Choice("always", "if_required"),
        "setup_intent_data": Hash(
            {"description": String(1000), "metadata": METADATA, "on_behalf_of": anything()}
        ),
        "subscription_data": _SUBSCRIPTION_DATA,
        "success_url": String(),
        "ui_mode": Choice("elements", "embedded_page", "form", "hosted_page"),
    }
)
UPDATE = Hash(
    {
        "collected_information": anything(),
        "expand": EXPAND,
        "line_items": anything(),
        "metadata": METADATA,
        "payment_intent_data": anything(),
        "shipping_options": anything(),
    }
)
LIST = listing(
    created=CREATED,
    customer=String(),
    customer_account=anything(),
    customer_details=Hash({"email": String(800)}, "email"),
    expand=EXPAND,
    payment_intent=String(),
    payment_link=String(),
    status=Choice("complete", "expired", "open"),
    subscription=String(),
)
LINES = listing(expand=EXPAND)
