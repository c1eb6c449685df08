"""Names: what a meter of different ones may tell apart, such as the ids of users. Pure."""

from __future__ import annotations

from typing import Any

MAX_CHARACTERS = 200


class InvalidName(ValueError):
    """A reported value cannot be told apart from others."""


def check_name(value: Any) -> None:
    """Refuse all but text of 1 to `MAX_CHARACTERS` characters and whole numbers as short.

    A number counts as its digits: 7 and "7" are the same one. With decimals or an exponent a
    number could be written in many ways, each of which would count, so it is refused.

    Raises:
        InvalidName: with the reason, as a caller should read it.
    """
    # By type, not by instance: a boolean is an integer to Python and to nobody else.
    kind = type(value)
    if kind is not str and kind is not int:
        raise InvalidName("must be a text or a whole number, written without decimals")
    if not 1 <= len(str(value)) <= MAX_CHARACTERS:
        raise InvalidName(f"must have 1 to {MAX_CHARACTERS} characters")
