"""Event ids: UUIDs of version 7, which begin with the time and so keep the server's index local."""

from __future__ import annotations

import itertools
import os
import threading

COUNTED_BITS = 74
"""What RFC 9562 leaves free after the milliseconds, the version and the variant."""
SPARE_BITS = 1
"""Left zero at the start of a millisecond, so that counting on never runs over."""


class Ids:
    """Makes ids that rise within one process, also while the clock stands still or goes back.

    The first id of a millisecond is random and those after it count on from there (RFC 9562,
    section 6.2, method 2). A forked child needs an object of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current = (0, _random_tail(), itertools.count())

    def make(self, millis: int) -> str:
        """Return a new id for the Unix time `millis`, in milliseconds.

        Nobody is waited for: while another thread begins the new millisecond, or this very one
        was interrupted by a signal while doing so, the old one is counted on.
        """
        then, first, counter = self._current
        if millis > then and self._lock.acquire(blocking=False):
            try:
                if millis > self._current[0]:
                    self._current = (millis, _random_tail(), itertools.count())
                then, first, counter = self._current
            finally:
                self._lock.release()
        return _text(then, first + next(counter))


def _random_tail() -> int:
    return int.from_bytes(os.urandom(10), "big") >> (80 - COUNTED_BITS + SPARE_BITS)


def _text(millis: int, tail: int) -> str:
    value = millis << 80 | 7 << 76 | tail >> 62 << 64 | 2 << 62 | tail & ((1 << 62) - 1)
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
