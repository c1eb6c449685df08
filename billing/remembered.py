"""Copies of reference data a process trusts for a little while: API keys and the catalogue."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from django.conf import settings

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
MAX_ENTRIES = 10_000
"""Beyond this the copies are dropped and read again: memory stays bounded whoever calls."""


class Remembered(Generic[Key, Value]):
    """Answers of `load`, kept for BILLING_REFERENCE_CACHE_SECONDS; 0 keeps none.

    None is never kept, so what was just created is found at once, and guesses fill no memory.
    """

    def __init__(self, load: Callable[[Key], Value | None]) -> None:
        self._load = load
        self._entries: dict[Key, tuple[float, Value]] = {}

    def get(self, key: Key) -> Value | None:
        """Return the value of `key`, read again when its copy is too old."""
        kept = self._entries.get(key)
        if kept is not None and time.monotonic() < kept[0]:
            return kept[1]
        value = self._load(key)
        if value is None:
            self._entries.pop(key, None)
        elif settings.BILLING_REFERENCE_CACHE_SECONDS > 0:
            if len(self._entries) >= MAX_ENTRIES:
                self._entries.clear()
            expires_at = time.monotonic() + settings.BILLING_REFERENCE_CACHE_SECONDS
            self._entries[key] = (expires_at, value)
        return value

    def forget(self) -> None:
        """Drop all copies of this process."""
        self._entries.clear()
