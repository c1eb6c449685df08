"""The fields of a new Checkout session."""

from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.metadata import merged


def blank(call: Call, lines: list[Object], expires_at: int) -> Object:
    """Return an open session whose customer, currency and setup intent are not settled yet."""
    given, world = call.given, call.world
    session_id = world.ids.new("cs_live" if call.livemode else "cs_test", 58)
    total = sum(line["amount_total"] for line in lines) if lines else None
    return {
        "id": session_id,
        "object": "checkout.session",
        "adaptive_pricing": {"enabled": False},
        "after_expiration": None,
        "allow_promotion_codes": None,
        "allowed_payment_method_types": given("allowed_payment_method_types"),
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": None,
        "branding_settings": None,
        "cancel_url": given("cancel_url"),
        "client_reference_id": given("client_reference_id"),
        "client_secret": None,
        "collected_information": None,
        "consent": None,
        "consent_collection": None,
        "created": world.second(),
        "currency": None,
        "currency_conversion": None,
        "custom_fields": [],
        "custom_text": {
            "after_submit": None,
            "shipping_address": None,
            "submit": None,
            "terms_of_service_acceptance": None,
        },
        "customer": None,
        "customer_account": None,
        "customer_creation": given("customer_creation"),
        "customer_details": None,
        "customer_email": given("customer_email"),
        "discounts": [],
        "excluded_payment_method_types": None,
        "expires_at": expires_at,
        "integration_identifier": None,
        "invoice": None,
        "invoice_creation": None,
        "livemode": call.livemode,
        "locale": None,
        "managed_payments": None,
        "metadata": merged({}, given("metadata", {})),
        "mode": call.params["mode"],
        "name_collection": None,
        "optional_items": None,
        "origin_context": None,
        "payment_intent": None,
        "payment_link": None,
        "payment_method_collection": None,
        "payment_method_configuration_details": None,
        "payment_method_options": {},
        "payment_method_types": given("allowed_payment_method_types") or ["card"],
        "payment_status": "unpaid" if total else "no_payment_required",
        "permissions": None,
        "phone_number_collection": {"enabled": False},
        "presentment_details": None,
        "recovered_from": None,
        "redirect_on_completion": None,
        "return_url": None,
        "saved_payment_method_options": None,
        "setup_intent": None,
        "shipping_address_collection": None,
        "shipping_cost": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": given("submit_type"),
        "subscription": None,
        "success_url": given("success_url"),
        "tax_id_collection": None,
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0}
        if lines
        else None,
        "ui_mode": "hosted_page",
        "url": f"{call.base_url}/pay/{session_id}",
        "wallet_options": None,
        "_line_items": {
            "object": "list",
            "data": lines,
            "has_more": False,
            "url": f"/v1/checkout/sessions/{session_id}/line_items",
        },
        "_subscription_data": given("subscription_data", {}),
    }


def details(email: str | None, name: str | None) -> Object:
    """Return what is known of the person, who gives no address here."""
    return {
        "address": None,
        "business_name": None,
        "email": email,
        "individual_name": None,
        "name": name,
        "phone": None,
        "tax_exempt": "none",
        "tax_ids": [],
    }
