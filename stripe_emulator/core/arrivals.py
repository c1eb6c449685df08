"""The log of everything that reached the emulator, in order, with what became of it."""

from collections.abc import Iterator
from typing import Any, Protocol

import msgspec


class EventVerdict(msgspec.Struct):
    """One meter event in a request, and the emulator's private ruling on it.

    The stream answers 200 whatever it holds; here stands what really happens to each event.
    """

    event_name: str
    identifier: str
    timestamp: int | None
    customer: str | None
    value: str | None
    verdict: str
    """accepted, duplicate, or refused:<reason>."""


class Arrival(msgspec.Struct, omit_defaults=True):
    """One request and its fate."""

    number: int
    at: float
    method: str
    path: str
    key: str
    """The API key's kind and last four characters."""
    livemode: bool
    status: int
    """What the answer said, or would have said; 0 when nothing was answered by design."""
    verdict: str
    """done, replayed, refused, accepted, duplicate, dropped, limited."""
    request_id: str
    idempotency_key: str | None = None
    stripe_version: str | None = None
    params: Any = None
    error: str | None = None
    fault: str | None = None
    events: list[EventVerdict] = msgspec.field(default_factory=list)
    cancelled: EventVerdict | None = None
    """The event an accepted adjustment took back."""


class ArrivalLog(Protocol):
    """An append-only sequence of arrivals, numbered from 1."""

    def append(self, arrival: Arrival) -> None: ...

    def read(self, *, after: int, limit: int) -> list[Arrival]: ...

    def __iter__(self) -> Iterator[Arrival]: ...

    def __len__(self) -> int: ...

    def truncate(self, length: int) -> None: ...


class MemoryArrivals(ArrivalLog):
    """Keep the log in a list."""

    def __init__(self) -> None:
        self._arrivals: list[Arrival] = []

    def append(self, arrival: Arrival) -> None:
        self._arrivals.append(arrival)

    def read(self, *, after: int, limit: int) -> list[Arrival]:
        """Return up to `limit` arrivals with a number above `after`."""
        return self._arrivals[max(0, after) : max(0, after) + limit]

    def __iter__(self) -> Iterator[Arrival]:
        return iter(self._arrivals)

    def __len__(self) -> int:
        return len(self._arrivals)

    def truncate(self, length: int) -> None:
        """Forget what came after the first `length`; only a restore does so."""
        del self._arrivals[length:]
