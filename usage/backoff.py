"""How long to wait before a repetition. Pure: the chance is an argument."""

from __future__ import annotations

from datetime import timedelta

FIRST_SECONDS = 2
LONGEST_SECONDS = 300
"""An outage of hours costs a call every five minutes, and its end is noticed as soon."""


def delay(*, attempt_count: int, chance: float) -> timedelta:
    """Return the wait after attempt number `attempt_count`, counted from 1.

    It doubles from `FIRST_SECONDS` to `LONGEST_SECONDS`; `chance` in [0, 1) takes up to half of it
    away, so that rows which failed together do not come back together.
    """
    seconds = min(FIRST_SECONDS * 2 ** min(attempt_count - 1, 16), LONGEST_SECONDS)
    return timedelta(seconds=seconds * (1 - chance / 2))
