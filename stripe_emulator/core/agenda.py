"""What falls due when, in order of time and then of entry."""

import heapq


class Agenda:
    """A queue of (moment, kind, subject).

    The owner of the kind decides whether it still matters.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str, str]] = []
        self._sequence = 0

    def add(self, due_at: float, kind: str, subject: str) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (due_at, self._sequence, kind, subject))

    def pop_due(self, now: float) -> tuple[float, str, str] | None:
        """Return the earliest entry due by `now` as (due_at, kind, subject), or None."""
        if not self._heap or self._heap[0][0] > now:
            return None
        due_at, _, kind, subject = heapq.heappop(self._heap)
        return due_at, kind, subject
