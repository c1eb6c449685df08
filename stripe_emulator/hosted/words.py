"""Prices, amounts and dates in the words a person reads."""

from collections.abc import Sequence
from decimal import Decimal

from stripe_emulator.core import exact
from stripe_emulator.core.billing.pricing import amount
from stripe_emulator.core.billing.subscription_items import is_metered
from stripe_emulator.core.collection import Object
from stripe_emulator.core.moments import utc
from stripe_emulator.core.world import World

_SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥"}
_NO_MINOR_UNIT = (
    *("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga"),
    *("pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof", "xpf"),
)
_PLACES = {
    **dict.fromkeys(_NO_MINOR_UNIT, 0),
    **dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 3),
}
"""Decimal places of a currency's minor unit where it is not two (docs.stripe.com/currencies)."""


def money(minor: Decimal | int, currency: str) -> str:
    """Write minor units, with more places than usual when a part of one is meant."""
    places = _PLACES.get(currency, 2)
    value = Decimal(minor).scaleb(-places)
    digits = max(places, len(exact.plain(value).partition(".")[2]))
    number = f"{value:,.{digits}f}"
    symbol = _SYMBOLS.get(currency)
    return f"{symbol}{number}" if symbol else f"{number} {currency.upper()}"


def day(at: int) -> str:
    """Write a date, UTC."""
    moment = utc(at)
    return f"{moment.day} {moment:%B %Y}"


def rhythm(recurring: Object) -> str:
    """Write how often a price comes: `per month`, `every 3 months`."""
    interval, count = recurring["interval"], recurring["interval_count"]
    return f"per {interval}" if count == 1 else f"every {count} {interval}s"


def price_words(world: World, price: Object, quantity: int | None) -> list[str]:
    """Say what a price is: one sentence, and one more for each tier."""
    product = world.products.find(price["product"]) or {}
    unit = product.get("unit_label") or "unit"
    when = rhythm(price["recurring"])
    used = is_metered(price)
    tail = f"for what you use {when.replace('per', 'each', 1)}" if used else when
    if price["billing_scheme"] == "tiered":
        head = "Priced" if used else f"{quantity} {_several(unit)}, priced"
        return [f"{head} by tiers, {tail}", *_tiers(price, unit)]
    each = money(Decimal(price["unit_amount_decimal"] or 0), price["currency"])
    package = price["transform_quantity"]
    if package is not None:
        size = f"{package['divide_by']:,}"
        rounded = (
            f"each started {size} counts" if package["round"] == "up" else f"only full {size} count"
        )
        return [f"{each} per {size} {_several(unit)}, {tail} ({rounded})"]
    if used:
        return [f"{each} per {unit}, {tail}"]
    return [f"{each} {when}" if quantity == 1 else f"{quantity} at {each} each, {when}"]


def later(prices: Sequence[tuple[Object, int | None]]) -> str:
    """Say what a subscription costs in time, such as `$20.00 per month plus your usage`."""
    sums: dict[str, int] = {}
    for price, quantity in prices:
        if not is_metered(price):
            when = rhythm(price["recurring"])
            sums[when] = sums.get(when, 0) + amount(price, Decimal(quantity or 0))
    currency = prices[0][0]["currency"]
    parts = [f"{money(total, currency)} {when}" for when, total in sums.items()]
    if any(is_metered(price) for price, _ in prices):
        parts.append("your usage")
    return " plus ".join(parts)


def _tiers(price: Object, unit: str) -> list[str]:
    """Say each tier. In volume pricing the total decides, in graduated each unit for itself."""
    below = 0
    said = []
    volume = price["tiers_mode"] == "volume"
    for tier in price["_tiers"]:
        top = tier["up_to"]
        if top is None:
            reach = f"More than {below:,}" if below else "Any number"
        elif below == 0:
            reach = f"Up to {top:,}" if volume else f"First {top:,}"
        else:
            reach = f"{below + 1:,} to {top:,}"
        said.append(f"{reach}: {_tier_amount(tier, price['currency'], unit, volume=volume)}")
        below = top or below
    return said


def _tier_amount(tier: Object, currency: str, unit: str, *, volume: bool) -> str:
    each = Decimal(tier["unit_amount_decimal"] or 0)
    flat = Decimal(tier["flat_amount_decimal"] or 0)
    parts = []
    if flat:
        parts.append(f"{money(flat, currency)} flat")
    if each:
        reach = ", for all of them" if volume else ""
        parts.append(f"{money(each, currency)} per {unit}{reach}")
    return " plus ".join(parts) or "free"


def _several(unit: str) -> str:
    """Return the plural of a unit, unless it is an abbreviation such as GB."""
    return unit if unit.isupper() or unit.endswith("s") else f"{unit}s"
