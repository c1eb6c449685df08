"""Decimal arithmetic that never rounds: it raises where a result would not fit."""

from decimal import Context, Decimal, Inexact, InvalidOperation

_EXACT = Context(prec=200, traps=[Inexact, InvalidOperation])


def add(left: Decimal, right: Decimal) -> Decimal:
    return _EXACT.add(left, right)


def subtract(left: Decimal, right: Decimal) -> Decimal:
    return _EXACT.subtract(left, right)


def multiply(left: Decimal, right: Decimal) -> Decimal:
    return _EXACT.multiply(left, right)


def divided(left: Decimal, right: Decimal) -> tuple[Decimal, Decimal]:
    """Return how often `right` goes into `left` whole, and what is left over."""
    return _EXACT.divmod(left, right)


def plain(value: Decimal) -> str:
    """Write `value` without exponent and without needless zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def json_number(value: Decimal) -> int | float:
    """Return what a JSON reader of Stripe's answer gets: a double, with its loss above 2^53."""
    double = float(value)
    return int(double) if double.is_integer() else double
