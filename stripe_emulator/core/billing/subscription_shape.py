"""The fields of a new subscription."""

from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.metadata import merged


def thresholds(asked: Object | None) -> Object | None:
    """Return what a subscription shows of its thresholds."""
    none = {"amount_gte": None, "reset_billing_cycle_anchor": None}
    return {**none, **asked} if asked else None


def blank(call: Call, customer: Object, mode: str) -> Object:
    """Return one without items, periods or a status it has earned."""
    given, world = call.given, call.world
    now = world.now_for(customer)
    subscription_id = world.ids.new("sub")
    return {
        "id": subscription_id,
        "object": "subscription",
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor_config": given("billing_cycle_anchor_config"),
        "billing_mode": {
            "type": mode,
            "flexible": {"proration_discounts": "included"} if mode == "flexible" else None,
        },
        "billing_schedules": [],
        "billing_thresholds": thresholds(given("billing_thresholds")),
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": given("collection_method", "charge_automatically"),
        "created": now,
        "customer": customer["id"],
        "days_until_due": given("days_until_due"),
        "default_payment_method": given("default_payment_method"),
        "default_source": None,
        "default_tax_rates": [],
        "description": given("description"),
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": {
            "object": "list",
            "data": [],
            "has_more": False,
            "url": f"/v1/subscription_items?subscription={subscription_id}",
        },
        "latest_invoice": None,
        "livemode": call.livemode,
        "metadata": merged({}, given("metadata", {})),
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": None,
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": (given("payment_settings") or {}).get(
                "save_default_payment_method", "off"
            ),
        },
        "pending_invoice_item_interval": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "status": "active",
        "status_details": None,
        "test_clock": customer["test_clock"],
        "transfer_data": None,
        "trial_settings": given(
            "trial_settings", {"end_behavior": {"missing_payment_method": "create_invoice"}}
        ),
        "_announced": now,
        "_cancel_prorates": False,
        "_due": None,
        "_held": None,
        "_left_items": [],
        "_resumption": None,
        "_trial_end_told": False,
    }
