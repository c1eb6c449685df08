"""What callers sent and what they were told, kept apart from everything the product stores."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One event as it is sent; without a time it is used when it is stored."""

    event_id: str
    type: str
    subject: str
    time: str | None
    data: dict[str, Any]
    is_good: bool = True

    def as_json(self) -> dict[str, Any]:
        whole = {
            "id": self.event_id,
            "type": self.type,
            "subject": self.subject,
            "time": self.time,
            "data": self.data,
        }
        return {name: value for name, value in whole.items() if value is not None}


@dataclass
class Ledger:
    """All callers' common memory. An id in `whole` may have arrived; one in `acknowledged` must."""

    events: dict[str, Event] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def make(self, events: Iterable[Event]) -> None:
        with self._lock:
            self.events |= {event.event_id: event for event in events}

    def send_whole(self, events: Iterable[Event]) -> None:
        """Note, before the first byte leaves, that all of a request is about to."""
        with self._lock:
            self.whole |= {event.event_id for event in events}
            self.counts["requests"] += 1

    def acknowledge(self, events: Iterable[Event]) -> None:
        with self._lock:
            self.acknowledged |= {event.event_id for event in events if event.is_good}
            self.counts["acknowledged requests"] += 1

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def surprise(self, what: str) -> None:
        """Note an answer that no caller should ever get."""
        with self._lock:
            self.surprises.append(what)
