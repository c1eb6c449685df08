"""Amounts of money: from the currency's main unit, as people write it, to Stripe's minor unit."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

MOST_DECIMALS = 12
"""Of an amount in the currency's minor unit. Source: Stripe's API, `unit_amount_decimal`."""
MOST_MINOR = Decimal(99_999_999)
"""What Stripe takes as an amount. Source: Stripe's page on currencies, minimum and maximum."""
WITHOUT_DECIMALS = frozenset(
    "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf".split()  # noqa: SIM905 - one line
)
WITH_THREE_DECIMALS = frozenset("bhd jod kwd omr tnd".split())  # noqa: SIM905 - as above
"""Currencies whose minor unit is not a hundredth. Source: Stripe's page on currencies, where UGX
and ISK are charged in hundredths although they have none."""


def minor(amount: Decimal, currency: str) -> Decimal:
    """Return an amount in the currency's minor unit."""
    if currency in WITHOUT_DECIMALS:
        return amount
    return amount.scaleb(3 if currency in WITH_THREE_DECIMALS else 2)


def main(minor_amount: int, currency: str) -> Decimal:
    """Return whole minor units in the currency's main unit, with its decimals: 1200 as 12.00."""
    return Decimal(minor_amount).scaleb(minor(Decimal(1), currency).adjusted() * -1)


def text(amount: Decimal) -> str:
    """Return an amount as the shortest plain decimal: 0.0040 as 0.004."""
    plain = format(amount, "f")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def amount_mistakes(minor_amount: Decimal) -> Iterator[str]:
    """Yield what is wrong with an amount in the minor unit, to stand behind its key."""
    if not minor_amount.is_finite() or not 0 <= minor_amount <= MOST_MINOR:
        yield f"must be at least 0 and at most {MOST_MINOR} of the minor unit."
        return
    if -int(minor_amount.normalize().as_tuple().exponent) > MOST_DECIMALS:
        yield f"has more decimals than Stripe takes ({MOST_DECIMALS} of the minor unit)."
