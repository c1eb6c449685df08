"""What an endpoint takes, declared once, and the refusals for everything else.

A parameter that Stripe knows and the emulator has no use for is declared `anything()`: it is
accepted and forgotten. A parameter Stripe does not know is refused, as Stripe refuses it.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from stripe_emulator.core.errors import malformed

_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
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
                f"You passed an empty string for '{name}'. Empty values unset a parameter, and "
                f"'{name}' cannot be unset.",
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
        if not _INTEGER.fullmatch(raw):
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


class Hash(Kind):
    def __init__(
        self, fields: Mapping[str, Kind], *required: str, unsettable: bool = False
    ) -> None:
        self.fields = fields
        self.required = required
        self.unsettable = unsettable

    def parse(self, raw: Any, name: str) -> dict[str, Any] | None:
        if raw == "" and self.unsettable:
            return None
        if not isinstance(raw, dict):
            raise malformed("Invalid object", param=name)
        return parse(self, raw, name)


class Texts(Kind):
    """A map of strings, such as metadata or a payload; an empty value removes its key."""

    def __init__(
        self,
        keys: int,
        key_limit: int,
        value_limit: int,
        *,
        unsettable: bool = False,
    ) -> None:
        self.keys, self.key_limit, self.value_limit = keys, key_limit, value_limit
        self.unsettable = unsettable

    def parse(self, raw: Any, name: str) -> dict[str, str] | None:
        if raw == "" and self.unsettable:
            return None
        if not isinstance(raw, dict):
            raise malformed("Invalid object", param=name)
        if len(raw) > self.keys:
            raise malformed(f"You can have at most {self.keys} keys in {name}.", param=name)
        for key, value in raw.items():
            if not isinstance(value, str):
                raise malformed(f"Values in {name} must be strings.", param=f"{name}[{key}]")
            if len(key) > self.key_limit:
                raise malformed(
                    f"Keys in {name} must be at most {self.key_limit} characters.", param=name
                )
            if len(value) > self.value_limit:
                raise malformed(
                    f"Values in {name} must be at most {self.value_limit} characters.",
                    param=f"{name}[{key}]",
                )
        return raw


class Array(Kind):
    def __init__(self, item: Kind, limit: int = 1000, *, unsettable: bool = False) -> None:
        self.item = item
        self.limit = limit
        self.unsettable = unsettable

    def parse(self, raw: Any, name: str) -> list[Any] | None:
        if raw == "" and self.unsettable:
            return None
        if isinstance(raw, list):
            raw = {str(index): each for index, each in enumerate(raw)}
        if not isinstance(raw, dict) or not all(_INTEGER.fullmatch(key) for key in raw):
            raise malformed("Invalid array", param=name)
        if len(raw) > self.limit:
            raise malformed(f"Array {name} may hold at most {self.limit} items.", param=name)
        return [self.item.parse(raw[key], f"{name}[{key}]") for key in sorted(raw, key=int)]


class _Anything(Kind):
    def parse(self, raw: Any, name: str) -> Any:  # noqa: ARG002  every name will do
        return raw


def anything() -> Kind:
    """Return a kind for what Stripe takes and the emulator does not use."""
    return _Anything()


METADATA = Texts(50, 40, 500, unsettable=True)
CREATED = _Anything()
EXPAND = Array(String(500), 20)
NO_PARAMETERS = Hash({})


def listing(**fields: Kind) -> Hash:
    """Return the parameters of a list call: its own filters and Stripe's paging."""
    return Hash(
        {
            "limit": Integer(1, 100),
            "starting_after": String(),
            "ending_before": String(),
            **fields,
        }
    )


def parse(spec: Hash, raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Check `raw` against `spec` and return the values that were given, unset ones as None."""
    values: dict[str, Any] = {}
    for key, value in raw.items():
        name = f"{prefix}[{key}]" if prefix else key
        kind = spec.fields.get(key)
        if kind is None:
            raise malformed(
                f"Received unknown parameter: {name}", param=name, code="parameter_unknown"
            )
        values[key] = kind.parse(value, name)
    for key in spec.required:
        if key not in values:
            name = f"{prefix}[{key}]" if prefix else key
            raise malformed(
                f"Missing required param: {name}.", param=name, code="parameter_missing"
            )
    return values


def _spoken(values: tuple[str, ...]) -> str:
    if len(values) == 1:
        return values[0]
    return ", ".join(values[:-1]) + f", or {values[-1]}"
