"""Quantities: from what a caller reported to whole numbers of a meter's smallest unit. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Context, Decimal
from typing import Any

MAX_DIGITS = 15
"""Most significant digits Stripe takes in a value. Source: its change log of 2026-04-22."""

MAX_VALUE = 10**MAX_DIGITS - 1

_EXACT = Context(prec=10_000)
"""More digits than an event's data can hold. The default context would round away all but 28."""
_TOO_MUCH = f"must be at most {MAX_VALUE} of the meter's smallest unit"
_DECIMAL_TEXT = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")


class InvalidQuantity(ValueError):
    """A reported value is not a quantity of the meter."""


def read_quantity(value: Any, *, scale: int) -> int:
    """Return `value` in units of 10^-`scale`, a whole number from 0 to `MAX_VALUE`.

    Numbers and decimal text are taken. Booleans are not numbers here, and nothing is rounded: a
    value with more decimals than the meter has is refused.

    Raises:
        InvalidQuantity: with the reason, as a caller should read it.
    """
    # By type, not by instance: a boolean is an integer to Python and to nobody else.
    kind = type(value)
    number: int
    if kind is int:
        number = value * 10**scale if scale else value
    elif kind is Decimal:
        number = _whole(value, scale=scale)
    elif kind is str and _DECIMAL_TEXT.fullmatch(value):
        number = _whole(Decimal(value), scale=scale)
    else:
        raise InvalidQuantity("must be a number")
    if number < 0:
        raise InvalidQuantity("must not be negative")
    if number > MAX_VALUE:
        raise InvalidQuantity(_TOO_MUCH)
    return number


def _whole(value: Decimal, *, scale: int) -> int:
    if not value.is_finite():
        raise InvalidQuantity("must be a finite number")
    if value.adjusted() > MAX_DIGITS:
        raise InvalidQuantity(_TOO_MUCH)
    scaled = value.scaleb(scale, context=_EXACT)
    number = int(scaled)
    if number != scaled:
        raise InvalidQuantity(
            f"must have at most {scale} decimals" if scale else "must be a whole number"
        )
    return number


def split(total: Decimal) -> Iterator[Decimal]:
    """Yield the parts of `total` that Stripe takes one by one: none for 0, each of its sign."""
    # Copies, because arithmetic on a sign alone would round to the default context's 28 digits.
    rest = total.copy_abs()
    while rest > 0:
        part = min(rest, Decimal(MAX_VALUE))
        yield part.copy_sign(total)
        rest -= part
