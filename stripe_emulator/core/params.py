"""What an endpoint takes, declared once, and the refusals for everything else.

A parameter that Stripe knows and the emulator has no use for is declared `anything()`: it is
accepted and forgotten. A parameter Stripe does not know is refused, as Stripe refuses it.
"""

from collections.abc import Mapping
from typing import Any

from stripe_emulator.core.errors import malformed
from stripe_emulator.core.kinds import INTEGER, Integer, Kind, String


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
        if not isinstance(raw, dict) or not all(INTEGER.fullmatch(key) for key in raw):
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
