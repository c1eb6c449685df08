"""How fast something arrived, from the times and sizes of its arrivals. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

Moment = tuple[float, int]
"""When, in seconds, and how many events; in the order of time."""


def busiest(moments: Iterable[Moment], *, seconds: float = 1.0) -> int:
    """Return the most events that arrived within any half-open span of so many seconds."""
    inside: deque[Moment] = deque()
    events = most = 0
    for at, count in moments:
        inside.append((at, count))
        events += count
        while inside[0][0] <= at - seconds:
            events -= inside.popleft()[1]
        most = max(most, events)
    return most


def average(moments: Sequence[Moment]) -> float:
    """Return events per second from the first arrival to the last, the first not counted.

    It is what a clock at the receiving end shows; nothing arrived before the first.
    """
    if len(moments) < 2:
        return 0.0
    events = sum(count for _, count in moments[1:])
    return events / max(moments[-1][0] - moments[0][0], 1e-6)


def overdrawn(moments: Iterable[Moment], *, rate: float, burst: float) -> float:
    """Return by how many events the arrivals ever exceeded a token bucket; 0 if they never did.

    The bucket is full at first, holds `burst` events and refills at `rate` a second.
    """
    tokens, last_at, worst = burst, None, 0.0
    for at, count in moments:
        if last_at is not None:
            tokens = min(burst, tokens + (at - last_at) * rate)
        last_at = at
        tokens -= count
        worst = max(worst, -tokens)
    return worst
