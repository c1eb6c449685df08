"""Typed readers of the environment: a missing or nonsensical value is refused at start, by name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

STRIPE_KEY = re.compile(r"(?:sk|rk)_(test|live)_\w+")


def read_defaults(path: Path) -> None:
    """Take `KEY=value` lines of `path` for variables the environment does not set.

    `make run` writes such a file while its stack is up, so that a command in another terminal
    talks to that stack. A file that is not there changes nothing.
    """
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        name, separator, value = line.partition("=")
        if separator and not name.startswith("#"):
            os.environ.setdefault(name.strip(), value.strip())


def text(name: str, default: str | None = None) -> str:
    """Return a string; without a default the variable must be set and not empty."""
    value = os.environ.get(name, "") or default
    if value is None:
        raise ImproperlyConfigured(f"{name} is not set. `make run` sets it for a local stack.")
    return value


def boolean(name: str, *, default: bool) -> bool:
    """Return a boolean written as 1, true, yes, 0, false or no."""
    value = os.environ.get(name, "").strip().lower()
    if value in {"1", "true", "yes"}:
        return True
    if value in {"0", "false", "no"}:
        return False
    if not value:
        return default
    raise ImproperlyConfigured(f"{name} is {value!r}; write 1 or 0.")


def whole(name: str, default: int, *, at_least: int = 0, at_most: int | None = None) -> int:
    """Return a whole number within `at_least` and `at_most`, both included."""
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    if not re.fullmatch(r"\d+", value):
        raise ImproperlyConfigured(f"{name} is {value!r}; write a whole number.")
    number = int(value)
    if number < at_least or (at_most is not None and number > at_most):
        raise ImproperlyConfigured(
            f"{name} is {number}; it must be at least {at_least}"
            + ("." if at_most is None else f" and at most {at_most}.")
        )
    return number


def words(name: str, default: str = "") -> list[str]:
    """Return the comma-separated words of a variable, blanks removed."""
    return [word.strip() for word in os.environ.get(name, default).split(",") if word.strip()]


def stripe_access() -> tuple[str, str, bool]:
    """Return Stripe's key, the emulator's address ("" for Stripe itself) and the live mode.

    Exactly one of STRIPE_SECRET_KEY and STRIPE_EMULATOR_URL is set. Both together could send
    real usage to a fake or fake usage to a real account, so they refuse to start.
    """
    key = os.environ.get("STRIPE_SECRET_KEY", "")
    emulator = os.environ.get("STRIPE_EMULATOR_URL", "").rstrip("/")
    if key and emulator:
        raise ImproperlyConfigured(
            "STRIPE_SECRET_KEY and STRIPE_EMULATOR_URL are both set: unset the one you do not mean."
        )
    if emulator:
        return "sk_test_emulator", emulator, False
    if not key:
        raise ImproperlyConfigured(
            "STRIPE_SECRET_KEY is not set (nor STRIPE_EMULATOR_URL, which `make run` sets)."
        )
    match = STRIPE_KEY.fullmatch(key)
    if match is None:
        raise ImproperlyConfigured(
            "STRIPE_SECRET_KEY is no secret key: it starts with sk_test_, sk_live_, rk_test_ or"
            " rk_live_."
        )
    if key == "sk_test_emulator":
        raise ImproperlyConfigured(
            "STRIPE_SECRET_KEY is the emulator's key but STRIPE_EMULATOR_URL is not set."
        )
    return key, "", match[1] == "live"
