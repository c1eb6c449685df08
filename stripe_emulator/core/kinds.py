"""Kinds of single values a parameter can have, and the refusals for everything else."""

import re
from decimal import Decimal
from typing import Any

from stripe_emulator.core.errors import malformed

INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)
_MAX_DECIMAL_PLACES = 12


class Kind:
    """One kind of value: checks it and returns the Python value."""

    unsettable = False
    """Whether an empty string empties the field instead of being refused."""

    def parse(self, raw: Any, name: str) -> Any:
        raise NotImplementedError


class _Scalar(Kind):
    def parse(self, raw: Any, name: str) -> Any:
        if not isinstance(raw, str):
            raise malformed("Invalid string: a hash or an array was given.", param=name)
        if raw == "":
            if self.unsettable:
                return None
            raise malformed(
                f"'{name}' is empty, which would unset it, and it cannot be unset.",
                param=name,
                code="parameter_invalid_empty",
            )
        return self.read(raw, name)

    def read(self, raw: str, name: str) -> Any:
        raise NotImplementedError


class String(_Scalar):
    def __init__(self, limit: int = 5000, *, unsettable: bool = False) -> None:
        self.limit = limit
        self.unsettable = unsettable

    def read(self, raw: str, name: str) -> str:
        if len(raw) > self.limit:
            raise malformed(
                f"Invalid string: {raw[:10]}...{raw[-10:]}; must be at most {self.limit} "
                f"characters",
                param=name,
            )
        return raw


class Integer(_Scalar):
    def __init__(
        self, low: int | None = None, high: int | None = None, *, unsettable: bool = False
    ) -> None:
        self.low, self.high, self.unsettable = low, high, unsettable

    def read(self, raw: str, name: str) -> int:
        if not INTEGER.fullmatch(raw):
            raise malformed(
                f"Invalid integer: {raw[:80]}", param=name, code="parameter_invalid_integer"
            )
        number = int(raw)
        if self.low is not None and number < self.low:
            raise malformed(f"This value must be greater than or equal to {self.low}.", param=name)
        if self.high is not None and number > self.high:
            raise malformed(f"This value must be less than or equal to {self.high}.", param=name)
        return number


class Amount(_Scalar):
    """A decimal of minor units with at most twelve places."""

    def read(self, raw: str, name: str) -> Decimal:
        if not _DECIMAL.fullmatch(raw) or len(raw) > 40:  # noqa: PLR2004  no sane price is longer
            raise malformed(f"Invalid decimal: {raw[:80]}", param=name)
        if len(raw.partition(".")[2]) > _MAX_DECIMAL_PLACES:
            raise malformed(
                f"Invalid decimal: {raw}; at most {_MAX_DECIMAL_PLACES} decimal places", param=name
            )
        return Decimal(raw)


class Boolean(_Scalar):
    def read(self, raw: str, name: str) -> bool:
        if raw not in {"true", "false"}:
            raise malformed(f"Invalid boolean: {raw[:80]}", param=name)
        return raw == "true"


class Choice(_Scalar):
    def __init__(self, *values: str, unsettable: bool = False) -> None:
        self.values = values
        self.unsettable = unsettable

    def read(self, raw: str, name: str) -> str:
        if raw not in self.values:
            raise malformed(f"Invalid {name}: must be one of {_spoken(self.values)}", param=name)
        return raw


class IntegerOr(_Scalar):
    """An integer, or one of a few words."""

    def __init__(self, *words: str, unsettable: bool = False) -> None:
        self.words = words
        self.unsettable = unsettable

    def read(self, raw: str, name: str) -> int | str:
        return raw if raw in self.words else Integer().read(raw, name)


def _spoken(values: tuple[str, ...]) -> str:
    if len(values) == 1:
        return values[0]
    return ", ".join(values[:-1]) + f", or {values[-1]}"
