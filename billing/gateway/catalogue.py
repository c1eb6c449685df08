"""Meters, products and prices at Stripe.

Nothing here sends an idempotency key of ours: a meter is unique by its event name, a product by
the id we give it, a price by its lookup key, and all three are looked up before they are created.
A key would be forgotten after a day, and replay a stored 500 until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import stripe

from billing.gateway import stamps
from billing.gateway.client import connection
from billing.gateway.errors import sorted_errors
from billing.gateway.names import CUSTOMER_KEY, VALUE_KEY
from billing.gateway.values import PriceTerms, StripeMeter, StripePrice, StripeProduct

PER_PAGE = 100
LOOKUP_KEYS_PER_CALL = 10
"""Source: Stripe's API reference, `lookup_keys` of the list of prices."""


def meters() -> dict[str, StripeMeter]:
    """Return all of the account's meters, inactive ones too, by event name."""
    with sorted_errors():
        page = connection().v1.billing.meters.list({"limit": PER_PAGE})
        return {meter.event_name: _meter(meter) for meter in page.auto_paging_iter()}


def create_meter(*, event_name: str, display_name: str, formula: str) -> StripeMeter:
    """Create a meter that takes every event, and makes one value of them by `formula`."""
    with sorted_errors():
        return _meter(
            connection().v1.billing.meters.create(
                {
                    "event_name": event_name,
                    "display_name": display_name,
                    "default_aggregation": {"formula": formula},
                    "customer_mapping": {"type": "by_id", "event_payload_key": CUSTOMER_KEY},
                    "value_settings": {"event_payload_key": VALUE_KEY},
                }
            )
        )


def rename_meter(*, meter_id: str, display_name: str) -> None:
    """Change the only thing about a meter that can change."""
    with sorted_errors():
        connection().v1.billing.meters.update(meter_id, {"display_name": display_name})


def products(ids: Sequence[str]) -> dict[str, StripeProduct]:
    """Return those products that exist, by id."""
    found: dict[str, StripeProduct] = {}
    with sorted_errors():
        for start in range(0, len(ids), PER_PAGE):
            page = connection().v1.products.list(
                {"ids": list(ids[start : start + PER_PAGE]), "limit": PER_PAGE}
            )
            for product in page.auto_paging_iter():
                found[product.id] = StripeProduct(id=product.id, name=product.name)
    return found


def create_product(*, id: str, name: str) -> None:  # noqa: A002 - Stripe's word
    """Create a product under an id of ours."""
    with sorted_errors():
        connection().v1.products.create({"id": id, "name": name, "metadata": stamps.stamped()})


def rename_product(*, id: str, name: str) -> None:  # noqa: A002 - Stripe's word
    """Rename a product; invoices finalized before keep the old name."""
    with sorted_errors():
        connection().v1.products.update(id, {"name": name})


def prices(lookup_keys: Sequence[str]) -> dict[str, StripePrice]:
    """Return the prices that hold these lookup keys now, by key."""
    found: dict[str, StripePrice] = {}
    with sorted_errors():
        for start in range(0, len(lookup_keys), LOOKUP_KEYS_PER_CALL):
            page = connection().v1.prices.list(
                {
                    "lookup_keys": list(lookup_keys[start : start + LOOKUP_KEYS_PER_CALL]),
                    "limit": PER_PAGE,
                }
            )
            for price in page.auto_paging_iter():
                found[price.lookup_key or ""] = _price(
                    # Only tiered prices have tiers to expand.
                    connection().v1.prices.retrieve(price.id, {"expand": ["tiers"]})
                    if price.billing_scheme == "tiered"
                    else price
                )
    return found


def create_price(*, lookup_key: str, product_id: str, name: str, terms: PriceTerms) -> str:
    """Create a price, move the lookup key to it from the price that holds it; return its id."""
    recurring: dict[str, Any] = {"interval": terms.interval}
    if terms.meter_id is not None:
        recurring |= {"usage_type": "metered", "meter": terms.meter_id}
    params: dict[str, Any] = {
        "lookup_key": lookup_key,
        "transfer_lookup_key": True,
        "product": product_id,
        "nickname": name,
        "currency": terms.currency,
        "recurring": recurring,
        "billing_scheme": "tiered" if "tiers" in terms.rule else "per_unit",
        "metadata": stamps.stamped(),
        **terms.rule,
    }
    with sorted_errors():
        return connection().v1.prices.create(params).id  # type: ignore[arg-type]  # built above


def _meter(meter: stripe.billing.Meter) -> StripeMeter:
    return StripeMeter(
        id=meter.id,
        event_name=meter.event_name,
        display_name=meter.display_name,
        formula=meter.default_aggregation.formula,
        is_active=meter.status == "active",
        is_live=meter.livemode,
        event_time_window=meter.event_time_window or "",
        customer_key=meter.customer_mapping.event_payload_key,
        value_key=meter.value_settings.event_payload_key,
    )


def _price(price: stripe.Price) -> StripePrice:
    recurring = price.recurring
    product = price.product
    return StripePrice(
        id=price.id,
        lookup_key=price.lookup_key or "",
        product_id=product if isinstance(product, str) else product.id,
        is_active=price.active,
        deployment=price.metadata.to_dict().get(stamps.DEPLOYMENT, ""),
        terms=PriceTerms(
            currency=price.currency,
            interval=_interval(recurring),
            meter_id=recurring.meter if recurring is not None else None,
            rule=_rule(price),
        ),
    )


def _interval(recurring: Any) -> str:
    if recurring is None:
        return ""
    # We only make prices of one interval; another count must not look like ours.
    count = recurring.interval_count
    return recurring.interval if count == 1 else f"{count} {recurring.interval}"


def _rule(price: stripe.Price) -> dict[str, Any]:
    if price.billing_scheme == "tiered":
        return {
            "tiers_mode": price.tiers_mode,
            "tiers": [
                {
                    "up_to": "inf" if tier.up_to is None else tier.up_to,
                    "unit_amount_decimal": decimal_text(tier.unit_amount_decimal),
                    "flat_amount_decimal": decimal_text(tier.flat_amount_decimal),
                }
                for tier in price.tiers or []
            ],
        }
    rule: dict[str, Any] = {"unit_amount_decimal": decimal_text(price.unit_amount_decimal)}
    if price.transform_quantity is not None:
        rule["transform_quantity"] = {
            "divide_by": price.transform_quantity.divide_by,
            "round": price.transform_quantity.round,
        }
    return rule


def decimal_text(amount: Decimal | str | None) -> str:
    """Return an amount as the shortest plain decimal: 0.0040 as 0.004, nothing as 0."""
    text = format(Decimal(amount or 0), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
