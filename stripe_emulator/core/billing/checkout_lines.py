"""What a Checkout session sells: prices with their quantities, and what of it is due today."""

from decimal import Decimal

from stripe_emulator.core.billing.pricing import amount
from stripe_emulator.core.billing.subscription_items import check_together, is_metered, priced
from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.metadata import merged


def prices_of(call: Call, asked_lines: list[Object], mode: str) -> list[Object]:
    """Return the price of each line, or refuse what makes no subscription.

    A metered price takes no quantity and any other needs one.
    """
    prices = [
        priced(call, asked, index, among="line_items") for index, asked in enumerate(asked_lines)
    ]
    for index, (asked, price) in enumerate(zip(asked_lines, prices, strict=True)):
        if not is_metered(price) and not asked.get("quantity"):
            raise invalid(
                f"Quantity is required. Add `quantity` to `line_items[{index}]`",
                param=f"line_items[{index}][quantity]",
            )
    check_together(prices, mode)
    return prices


def made(call: Call, asked: Object, price: Object, *, trial: bool) -> Object:
    """Return a line. Usage is due later, and so is everything after a trial (inferred)."""
    product = call.world.products.find(price["product"]) or {}
    due = 0 if trial or is_metered(price) else amount(price, Decimal(asked["quantity"]))
    return {
        "id": call.world.ids.new("li"),
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": due,
        "amount_tax": 0,
        "amount_total": due,
        "currency": price["currency"],
        "description": product.get("name"),
        "discounts": [],
        "metadata": merged({}, asked.get("metadata", {})),
        "price": price["id"],
        "quantity": asked.get("quantity"),
        "taxes": [],
    }


def as_item(line: Object) -> Object:
    """Return a line as a subscription's call takes it."""
    quantity = {} if line["quantity"] is None else {"quantity": line["quantity"]}
    return {"price": line["price"], "metadata": line["metadata"], **quantity}
