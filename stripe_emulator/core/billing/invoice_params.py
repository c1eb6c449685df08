"""What the calls that make and change invoices and their lines take."""

from stripe_emulator.core.kinds import Amount, Boolean, Choice, Integer, Kind, String
from stripe_emulator.core.params import CREATED, EXPAND, METADATA, Array, Hash, anything, listing

MAX_LINES = 250

_FIELDS: dict[str, Kind] = {
    "account_tax_ids": anything(),
    "application_fee_amount": anything(),
    "auto_advance": Boolean(),
    "automatic_tax": anything(),
    "automatically_finalizes_at": Integer(0),
    "collection_method": Choice("charge_automatically", "send_invoice"),
    "custom_fields": anything(),
    "days_until_due": Integer(0),
    "default_payment_method": String(unsettable=True),
    "default_source": anything(),
    "default_tax_rates": anything(),
    "description": String(1500, unsettable=True),
    "discounts": anything(),
    "due_date": Integer(0),
    "effective_at": Integer(0, unsettable=True),
    "expand": EXPAND,
    "footer": String(unsettable=True),
    "issuer": anything(),
    "metadata": METADATA,
    "number": anything(),
    "on_behalf_of": anything(),
    "payment_settings": anything(),
    "rendering": anything(),
    "shipping_cost": anything(),
    "shipping_details": anything(),
    "statement_descriptor": String(22, unsettable=True),
    "transfer_data": anything(),
}
CREATE = Hash(
    {
        **_FIELDS,
        "currency": String(3),
        "customer": String(),
        "customer_account": anything(),
        "from_invoice": anything(),
        "pending_invoice_items_behavior": Choice("exclude", "include"),
        "subscription": String(),
    }
)
UPDATE = Hash(_FIELDS)

_PERIOD = Hash({"end": Integer(0), "start": Integer(0)}, "end", "start")
_PRICE_DATA: dict[str, Kind] = {
    "currency": String(3),
    "product": String(),
    "tax_behavior": anything(),
    "unit_amount": Integer(),
    "unit_amount_decimal": Amount(),
}
_ITEM: dict[str, Kind] = {
    "amount": Integer(),
    "description": String(unsettable=True),
    "discountable": Boolean(),
    "discounts": anything(),
    "metadata": METADATA,
    "period": _PERIOD,
    "price_data": Hash(_PRICE_DATA, "currency", "product"),
    "pricing": Hash({"price": String()}),
    "quantity": Integer(0),
    "quantity_decimal": Amount(),
    "tax_rates": anything(),
}
ITEM_CREATE = Hash(
    {
        **_ITEM,
        "currency": String(3),
        "customer": String(),
        "customer_account": anything(),
        "expand": EXPAND,
        "invoice": String(),
        "subscription": String(),
        "tax_behavior": anything(),
        "tax_code": anything(),
        "unit_amount_decimal": Amount(),
    }
)
ITEM_UPDATE = Hash(
    {
        **_ITEM,
        "expand": EXPAND,
        "invoicing_rules": anything(),
        "tax_behavior": anything(),
        "tax_code": anything(),
        "unit_amount_decimal": Amount(),
    }
)
ITEM_LIST = listing(
    created=CREATED,
    customer=String(),
    customer_account=anything(),
    expand=EXPAND,
    invoice=String(),
    pending=Boolean(),
)

_LINE: dict[str, Kind] = {
    **_ITEM,
    "price_data": Hash(
        {
            **_PRICE_DATA,
            "product_data": Hash(
                {
                    "description": String(),
                    "images": anything(),
                    "metadata": METADATA,
                    "name": String(),
                    "tax_code": String(),
                    "tax_details": anything(),
                    "unit_label": String(),
                },
                "name",
            ),
        },
        "currency",
    ),
    "tax_amounts": anything(),
}
LINE_UPDATE = Hash({**_LINE, "expand": EXPAND})
ADD_LINES = Hash(
    {
        "expand": EXPAND,
        "invoice_metadata": METADATA,
        "lines": Array(Hash({**_LINE, "invoice_item": String()}), MAX_LINES),
    },
    "lines",
)
UPDATE_LINES = Hash(
    {
        "expand": EXPAND,
        "invoice_metadata": METADATA,
        "lines": Array(Hash({**_LINE, "id": String()}, "id"), MAX_LINES),
    },
    "lines",
)
REMOVE_LINES = Hash(
    {
        "expand": EXPAND,
        "invoice_metadata": METADATA,
        "lines": Array(
            Hash({"behavior": Choice("delete", "unassign"), "id": String()}, "behavior", "id"),
            MAX_LINES,
        ),
    },
    "lines",
)
