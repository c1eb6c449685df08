"""JSON objects read strictly: each key once, numbers finite and of sane size, no NUL, not deep.

The decoder is fast because it takes the last of two equal keys, ignores how large a number is and
knows nothing of PostgreSQL. Whether "last" was meant is not ours to guess when money is counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal, DecimalException
from typing import Any

import msgspec

MAX_DEPTH = 5
MAX_EXPONENT = 30
"""Beyond any quantity, and far below what would fill a page of the database with zeros."""
BEYOND = 10 ** (MAX_EXPONENT + 1)

MAX_DATA_BYTES = 8 * 1024
"""How long an event's data may be, written without white space."""

compact = msgspec.json.Encoder(decimal_format="number", order="sorted").encode
"""Writes what was read as it will be stored: exact, keys in order, and without white space."""

_NUL = "must not hold a NUL character"
_TOO_LONG = "must not hold a number beyond 30 digits"

_DECODER = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)


class NotAnObject(ValueError):
    """The text is not a JSON object we take; the message is for the caller.

    `key` is the one of the object at fault, where it is one.
    """

    key = ""


def read_object(text: bytes) -> dict[str, Any]:
    """Return the object `text` holds; floats come as exact decimals.

    Raises:
        NotAnObject: with the reason.
    """
    try:
        value = _DECODER.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotAnObject(f"must be a JSON object ({error})") from error
    except DecimalException as error:
        # An exponent of twenty digits is JSON, and beyond what even a decimal can hold.
        raise NotAnObject(_TOO_LONG) from error
    try:
        strings = _measure(value, depth=1)
    except NotAnObject as error:
        error.key = next((key for key in value if _is_at_fault(key, value[key])), "")
        raise
    if may_repeat_key(text, strings=strings) and has_repeated_key(text):
        raise NotAnObject("must not hold a key twice")
    return value


def may_repeat_key(text: bytes, *, strings: int) -> bool:
    """Return whether `text`, which was read as `strings` keys and strings, may hold more.

    The decoder drops the first of two equal keys. Without a backslash in it, every string shows
    as exactly two quotes, so the right number of quotes proves that nothing was dropped.
    """
    return b"\\" in text or text.count(b'"') != 2 * strings


def has_repeated_key(text: bytes) -> bool:
    """Return whether any object in `text`, which is well-formed JSON, holds a key twice.

    Slow: callers ask `may_repeat_key` first.
    """
    repeated = False

    def note(pairs: list[tuple[str, Any]]) -> None:
        nonlocal repeated
        repeated = repeated or len({key for key, _ in pairs}) != len(pairs)

    json.loads(text, object_pairs_hook=note, parse_int=str, parse_float=str)
    return repeated


def _measure(container: dict[str, Any] | list[Any], *, depth: int) -> int:
    """Count keys and strings, and refuse what must not be stored.

    Plain values are looked at in the loop, not by a call each: this runs for every event.
    """
    if depth > MAX_DEPTH:
        raise NotAnObject(f"must not be deeper than {MAX_DEPTH} levels")
    strings = 0
    values: Iterable[Any] = container
    if isinstance(container, dict):
        strings, values = _count_keys(container), container.values()
    for value in values:
        kind = type(value)
        if kind is str:
            if "\0" in value:
                raise NotAnObject(_NUL)
            strings += 1
        elif kind is int:
            if not -BEYOND < value < BEYOND:
                raise NotAnObject(_TOO_LONG)
        elif kind is Decimal:
            check_order(value)
        elif kind is dict or kind is list:
            strings += _measure(value, depth=depth + 1)
    return strings


def _count_keys(value: dict[str, Any]) -> int:
    if "\0" in "".join(value):
        raise NotAnObject(_NUL)
    return len(value)


def _is_at_fault(key: str, value: Any) -> bool:
    try:
        _measure({key: value}, depth=1)
    except NotAnObject:
        return "\0" not in key
    return False


def check_order(value: Decimal) -> None:
    """Refuse a decimal of an order no quantity has."""
    # Small ones, too: 1e-400 is near 0 and as long to store as 1e400.
    if abs(value.adjusted()) > MAX_EXPONENT:
        raise NotAnObject(_TOO_LONG)
