"""How a story's prices, and the fields of any call, are written in a form."""

from __future__ import annotations

from typing import Any

from tests.emulator.histories.story import Price, spoken


def asked(price: Price, meters: dict[str, str]) -> dict[str, Any]:
    """Return the parameters that make a price; `meters` are the ids by name."""
    recurring: dict[str, Any] = {"interval": price.interval, "interval_count": price.count}
    if price.meter is not None:
        recurring |= {"usage_type": "metered", "meter": meters[price.meter.name]}
    params: dict[str, Any] = {
        "currency": "usd",
        "product_data": {"name": price.name},
        "recurring": recurring,
        **_amount("unit_amount_decimal", price.unit),
    }
    if price.tiers:
        params |= {
            "billing_scheme": "tiered",
            "tiers_mode": "volume" if price.volume else "graduated",
            "tiers": [
                {
                    "up_to": "inf" if tier.up_to is None else tier.up_to,
                    **_amount("unit_amount_decimal", tier.unit),
                    **_amount("flat_amount_decimal", tier.flat),
                }
                for tier in price.tiers
            ],
        }
    if price.divide_by is not None:
        rounding = "up" if price.round_up else "down"
        params["transform_quantity"] = {"divide_by": price.divide_by, "round": rounding}
    return params


def _amount(name: str, value: int | None) -> dict[str, str]:
    return {} if value is None else {name: spoken(value)}


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Return a form's fields, nested ones with their brackets."""
    if isinstance(value, dict):
        return [
            pair
            for key, each in value.items()
            for pair in flat(each, f"{name}[{key}]" if name else key)
        ]
    if isinstance(value, list):
        return [pair for i, each in enumerate(value) for pair in flat(each, f"{name}[{i}]")]
    return [(name, str(value).lower() if isinstance(value, bool) else str(value))]
