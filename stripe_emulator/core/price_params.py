"""What the calls about prices take."""

from stripe_emulator.core.kinds import Amount, Boolean, Choice, Integer, IntegerOr, Kind, String
from stripe_emulator.core.params import CREATED, EXPAND, METADATA, Array, Hash, anything, listing

_TIER = Hash(
    {
        "flat_amount": Integer(0),
        "flat_amount_decimal": Amount(),
        "unit_amount": Integer(0),
        "unit_amount_decimal": Amount(),
        "up_to": IntegerOr("inf"),
    },
    "up_to",
)
_MUTABLE: dict[str, Kind] = {
    "active": Boolean(),
    "currency_options": anything(),
    "expand": EXPAND,
    "lookup_key": String(200, unsettable=True),
    "metadata": METADATA,
    "nickname": String(unsettable=True),
    "tax_behavior": Choice("exclusive", "inclusive", "unspecified"),
    "transfer_lookup_key": Boolean(),
}
_RECURRING = Hash(
    {
        "interval": Choice("day", "week", "month", "year"),
        "interval_count": Integer(1),
        "meter": String(),
        "trial_period_days": Integer(0),
        "usage_type": Choice("licensed", "metered"),
    },
    "interval",
)
CREATE = Hash(
    {
        **_MUTABLE,
        "billing_scheme": Choice("per_unit", "tiered"),
        "currency": String(3),
        "custom_unit_amount": anything(),
        "product": String(),
        "product_data": Hash(
            {
                "active": Boolean(),
                "id": String(),
                "metadata": METADATA,
                "name": String(),
                "statement_descriptor": String(22),
                "tax_code": String(),
                "tax_details": anything(),
                "unit_label": String(),
            },
            "name",
        ),
        "recurring": _RECURRING,
        "tiers": Array(_TIER, 100),
        "tiers_mode": Choice("graduated", "volume"),
        "transform_quantity": Hash(
            {"divide_by": Integer(1), "round": Choice("down", "up")}, "divide_by", "round"
        ),
        "unit_amount": Integer(0),
        "unit_amount_decimal": Amount(),
    },
    "currency",
)
UPDATE = Hash(_MUTABLE)
LIST = listing(
    active=Boolean(),
    created=CREATED,
    currency=String(3),
    expand=EXPAND,
    lookup_keys=Array(String(200), 10),
    product=String(),
    recurring=Hash(
        {
            "interval": Choice("day", "week", "month", "year"),
            "meter": String(),
            "usage_type": Choice("licensed", "metered"),
        }
    ),
    type=Choice("one_time", "recurring"),
)
OF_A_PRODUCT = Hash(
    {
        "currency": String(3),
        "currency_options": anything(),
        "custom_unit_amount": anything(),
        "metadata": METADATA,
        "recurring": Hash(
            {"interval": Choice("day", "week", "month", "year"), "interval_count": Integer(1)},
            "interval",
        ),
        "tax_behavior": Choice("exclusive", "inclusive", "unspecified"),
        "unit_amount": Integer(0),
        "unit_amount_decimal": Amount(),
    },
    "currency",
)
"""A price made along with its product."""
