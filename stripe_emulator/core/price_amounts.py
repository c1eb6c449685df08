"""The amounts of a new price: whole or decimal, one or in tiers."""

from decimal import Decimal

from stripe_emulator.core.billing.pricing import decimal_text
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid


def amounts_of(params: Object) -> Object:
    """Return the stored amounts, or refuse what makes no price."""
    if params.get("billing_scheme") == "tiered":
        for name in ("unit_amount", "unit_amount_decimal", "transform_quantity"):
            if name in params:
                raise invalid(f"`{name}` cannot be used with tiered prices.", param=name)
        if not params.get("tiers") or "tiers_mode" not in params:
            raise invalid("Tiered prices need `tiers` and `tiers_mode`.", param="tiers")
        return {"unit_amount": None, "unit_amount_decimal": None, "_tiers": _tiers(params["tiers"])}
    for name in ("tiers", "tiers_mode"):
        if name in params:
            raise invalid("`tiers` need `billing_scheme=tiered`.", param=name)
    unit = _decimal_of(params, "unit_amount", "unit_amount_decimal", prefix="")
    if unit is None and "custom_unit_amount" not in params:
        raise invalid("A price needs `unit_amount` or `unit_amount_decimal`.", param="unit_amount")
    if unit is not None and unit < 0:
        raise invalid("Amounts must not be negative.", param="unit_amount_decimal")
    return {"unit_amount": _whole(unit), "unit_amount_decimal": decimal_text(unit), "_tiers": None}


def _tiers(asked: list[Object]) -> list[Object]:
    tiers = []
    below = 0
    for index, tier in enumerate(asked):
        last = index == len(asked) - 1
        if (tier["up_to"] == "inf") != last:
            raise invalid(
                "The last tier, and only that one, must have `up_to=inf`.",
                param=f"tiers[{index}][up_to]",
            )
        if not last:
            if tier["up_to"] <= below:
                raise invalid("Tiers must be in ascending order.", param=f"tiers[{index}][up_to]")
            below = tier["up_to"]
        unit = _decimal_of(tier, "unit_amount", "unit_amount_decimal", prefix=f"tiers[{index}]")
        flat = _decimal_of(tier, "flat_amount", "flat_amount_decimal", prefix=f"tiers[{index}]")
        if unit is None and flat is None:
            raise invalid("A tier needs a unit amount or a flat amount.", param=f"tiers[{index}]")
        tiers.append(
            {
                "flat_amount": _whole(flat),
                "flat_amount_decimal": decimal_text(flat),
                "unit_amount": _whole(unit),
                "unit_amount_decimal": decimal_text(unit),
                "up_to": None if last else tier["up_to"],
            }
        )
    return tiers


def _decimal_of(params: Object, whole: str, decimal: str, *, prefix: str) -> Decimal | None:
    if whole in params and decimal in params:
        param = f"{prefix}[{decimal}]" if prefix else decimal
        raise invalid(f"You may specify only one of `{whole}` and `{decimal}`.", param=param)
    if whole in params:
        return Decimal(params[whole])
    given: Decimal | None = params.get(decimal)
    return given


def _whole(value: Decimal | None) -> int | None:
    return int(value) if value is not None and value == value.to_integral_value() else None
