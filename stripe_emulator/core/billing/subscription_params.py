"""What the subscription calls take."""

from stripe_emulator.core.kinds import Boolean, Choice, Integer, IntegerOr, Kind, String
from stripe_emulator.core.params import CREATED, EXPAND, METADATA, Array, Hash, anything, listing

MAX_ITEMS = 20

_ITEM: dict[str, Kind] = {
    "billing_thresholds": Hash({"usage_gte": Integer(1)}, "usage_gte", unsettable=True),
    "current_trial": anything(),
    "discounts": anything(),
    "metadata": METADATA,
    "plan": String(),
    "price": String(),
    "price_data": anything(),
    "quantity": Integer(0),
    "tax_rates": anything(),
    "trial": anything(),
}
_FIELDS: dict[str, Kind] = {
    "add_invoice_items": anything(),
    "application_fee_percent": anything(),
    "automatic_tax": anything(),
    "billing_schedules": anything(),
    "billing_thresholds": Hash(
        {"amount_gte": Integer(1), "reset_billing_cycle_anchor": Boolean()}, unsettable=True
    ),
    "cancel_at_period_end": Boolean(),
    "collection_method": Choice("charge_automatically", "send_invoice"),
    "days_until_due": Integer(0),
    "default_payment_method": String(),
    "default_source": anything(),
    "default_tax_rates": anything(),
    "description": String(500, unsettable=True),
    "discounts": anything(),
    "expand": EXPAND,
    "invoice_settings": anything(),
    "metadata": METADATA,
    "off_session": Boolean(),
    "on_behalf_of": anything(),
    "payment_behavior": Choice(
        "allow_incomplete", "default_incomplete", "error_if_incomplete", "pending_if_incomplete"
    ),
    "payment_settings": Hash(
        {
            "payment_method_options": anything(),
            "payment_method_types": anything(),
            "save_default_payment_method": Choice("off", "on_subscription"),
        }
    ),
    "pending_invoice_item_interval": anything(),
    "proration_behavior": Choice("always_invoice", "create_prorations", "none"),
    "transfer_data": anything(),
    "trial_end": IntegerOr("now"),
    "trial_from_plan": Boolean(),
    "trial_settings": Hash(
        {
            "end_behavior": Hash(
                {
                    "billing_cycle_anchor": anything(),
                    "missing_payment_method": Choice("cancel", "create_invoice", "pause"),
                },
                "missing_payment_method",
            )
        },
        "end_behavior",
    ),
}
CANCEL_WORDS = ("max_billed_until", "max_period_end", "min_period_end")
CHANGED_ITEMS = Array(
    Hash({**_ITEM, "clear_usage": Boolean(), "deleted": Boolean(), "id": String()}), MAX_ITEMS
)
CREATE = Hash(
    {
        **_FIELDS,
        "backdate_start_date": Integer(0),
        "billing_cycle_anchor": Integer(0),
        "billing_cycle_anchor_config": Hash(
            {
                "day_of_month": Integer(1, 31),
                "hour": Integer(0, 23),
                "minute": Integer(0, 59),
                "month": Integer(1, 12),
                "second": Integer(0, 59),
            },
            "day_of_month",
        ),
        "billing_mode": Hash(
            {"flexible": anything(), "type": Choice("classic", "flexible")}, "type"
        ),
        "cancel_at": IntegerOr(*CANCEL_WORDS),
        "currency": String(3),
        "customer": String(),
        "customer_account": anything(),
        "items": Array(Hash(_ITEM), MAX_ITEMS),
        "trial_period_days": Integer(0, 730),
    }
)
UPDATE = Hash(
    {
        **_FIELDS,
        "billing_cycle_anchor": Hash({"type": Choice("now", "unchanged")}, "type"),
        "cancel_at": IntegerOr(*CANCEL_WORDS, unsettable=True),
        "cancellation_details": anything(),
        "items": CHANGED_ITEMS,
        "pause_collection": Hash(
            {
                "behavior": Choice("keep_as_draft", "mark_uncollectible", "void"),
                "resumes_at": Integer(0),
            },
            "behavior",
            unsettable=True,
        ),
        "proration_date": Integer(0),
    }
)
CANCEL = Hash(
    {
        "cancellation_details": Hash(
            {
                "comment": String(unsettable=True),
                "feedback": String(unsettable=True),
                "feedback_option": String(),
            }
        ),
        "expand": EXPAND,
        "invoice_now": Boolean(),
        "prorate": Boolean(),
    }
)
LIST = listing(
    automatic_tax=anything(),
    collection_method=Choice("charge_automatically", "send_invoice"),
    created=CREATED,
    current_period_end=anything(),
    current_period_start=anything(),
    customer=String(),
    customer_account=anything(),
    expand=EXPAND,
    plan=String(),
    price=String(),
    status=Choice(
        "active",
        "all",
        "canceled",
        "ended",
        "incomplete",
        "incomplete_expired",
        "past_due",
        "paused",
        "trialing",
        "unpaid",
    ),
    test_clock=String(),
)
