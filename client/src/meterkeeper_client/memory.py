"""Events that wait in memory, up to a number and a size."""

from __future__ import annotations

import threading
from collections import deque
from itertools import islice


class Memory:
    """A bounded queue. What is being sent stays in it until the server has answered.

    `put` is called with `lock` held; the sender's thread calls the rest without it.
    """

    recovered = torn = disk_bytes = backlog = 0

    def __init__(self, *, lock: threading.Lock, most_events: int, most_bytes: int) -> None:
        self._lock = lock
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self.kept = 0
        self.settled = 0

    @property
    def waiting(self) -> int:
        """How many events are not settled."""
        return len(self._lines)

    def put(self, line: bytes) -> tuple[str, str]:
        """Keep a line; return a problem's kind and detail, or empty text, when it is kept."""
        if len(self._lines) >= self._most_events or self._bytes + len(line) > self._most_bytes:
            return "full", "the queue is full; new events are dropped"
        self._lines.append(line)
        self._bytes += len(line)
        self.kept += 1
        return "", ""

    def peek(self, most: int, most_bytes: int) -> list[bytes]:
        """Return the oldest lines, at least one if there is any; they stay."""
        with self._lock:
            oldest = list(islice(self._lines, most))
        size = 0
        for index, line in enumerate(oldest):
            size += len(line) + 1
            if size > most_bytes and index:
                return oldest[:index]
        return oldest

    def done(self, count: int) -> None:
        """Let go of the oldest `count` lines. Called with the lock held."""
        for _ in range(count):
            self._bytes -= len(self._lines.popleft())
        self.settled += count

    def tend(self) -> list[tuple[str, str]]:
        """Do what is due from time to time: nothing here."""
        return []

    def close(self) -> int:
        """Return how many events are lost by ending now. Called with the lock held."""
        lost = len(self._lines)
        self._lines.clear()
        self._bytes = 0
        return lost

    def abandon(self) -> None:
        """Forget everything, in a forked child: the parent sends it."""
        self._lines.clear()
