"""The fields of invoices and their lines. What happens to them stands in `invoices`."""

from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World


def line(  # noqa: PLR0913  the parts of a line
    world: World,
    subscription: Object,
    item: Object,
    price: Object,
    *,
    amount: int,
    quantity: int,
    proration: bool = False,
) -> Object:
    """Return a line for one item's current period."""
    return {
        "id": world.ids.new("il"),
        "object": "line_item",
        "amount": amount,
        "currency": price["currency"],
        "description": None,
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": None,
        "livemode": subscription["livemode"],
        "metadata": dict(item["metadata"]),
        "parent": {
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": proration,
                "proration_details": None,
                "subscription": subscription["id"],
                "subscription_item": item["id"],
            },
            "type": "subscription_item_details",
        },
        "period": {"start": item["current_period_start"], "end": item["current_period_end"]},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "subscription": subscription["id"],
        "subtotal": amount,
        "taxes": [],
    }


def item_line(world: World, item: Object) -> Object:
    """Return a line for an invoice item."""
    details = (item["parent"] or {}).get("subscription_details") or {}
    return {
        "id": world.ids.new("il"),
        "object": "line_item",
        "currency": item["currency"],
        "discount_amounts": [],
        "discounts": [],
        "invoice": None,
        "livemode": item["livemode"],
        "parent": {
            "invoice_item_details": {
                "invoice_item": item["id"],
                "proration": item["proration"],
                "proration_details": {"credited_items": None},
                "subscription": details.get("subscription"),
            },
            "subscription_item_details": None,
            "type": "invoice_item_details",
        },
        "pretax_credit_amounts": [],
        "subscription": details.get("subscription"),
        "taxes": [],
        **of_item(item),
    }


def of_item(item: Object) -> Object:
    """Return what a line repeats of its invoice item; it follows the item's changes."""
    shared = ("amount", "description", "discountable", "quantity", "quantity_decimal")
    return {name: item[name] for name in shared} | {
        "metadata": dict(item["metadata"]),
        "period": dict(item["period"]),
        "pricing": item["pricing"],
        "subtotal": item["amount"],
    }


def item_of(line: Object) -> str | None:
    """Return the id of the invoice item a line was made from."""
    details = line["parent"]["invoice_item_details"]
    return str(details["invoice_item"]) if details else None


def of_subscription(subscription: Object) -> Object:
    """Return the `parent` of an invoice that a subscription has."""
    return {
        "quote_details": None,
        "subscription_details": {
            "metadata": dict(subscription["metadata"]),
            "subscription": subscription["id"],
        },
        "type": "subscription_details",
    }


def blank(world: World, customer: Object, lines: list[Object]) -> Object:
    """Return a draft of `lines` for a customer, made now; it has no totals yet."""
    invoice_id, now = world.ids.new("in"), world.second_for(customer)
    for each in lines:
        each["invoice"] = invoice_id
    return {
        "id": invoice_id,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Emulated account",
        "account_tax_ids": None,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_paid_off_stripe": 0,
        "amount_shipping": 0,
        "application": None,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "status": None,
        },
        "automatically_finalizes_at": None,
        "created": now,
        "custom_fields": None,
        "customer": customer["id"],
        "customer_account": None,
        "customer_address": customer.get("address"),
        "customer_email": customer.get("email"),
        "customer_name": customer.get("name"),
        "customer_phone": customer.get("phone"),
        "customer_shipping": customer.get("shipping"),
        "customer_tax_exempt": customer.get("tax_exempt"),
        "customer_tax_ids": [],
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "due_date": None,
        "effective_at": None,
        "ending_balance": None,
        "footer": None,
        "from_invoice": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "issuer": {"type": "self"},
        "last_finalization_error": None,
        "latest_revision": None,
        "lines": {
            "object": "list",
            "data": lines,
            "has_more": False,
            "url": f"/v1/invoices/{invoice_id}/lines",
        },
        "metadata": {},
        "next_payment_attempt": None,
        "number": None,
        "on_behalf_of": None,
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": now,
        "period_start": now,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": None,
        "rendering": None,
        "shipping_cost": None,
        "shipping_details": None,
        "starting_balance": 0,
        "statement_descriptor": None,
        "status": "draft",
        "status_details": None,
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "test_clock": customer.get("test_clock"),
        "threshold_reason": None,
        "total_discount_amounts": [],
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "webhooks_delivered_at": None,
        "_confirmation_secret": None,
        "_payments": None,
    }
