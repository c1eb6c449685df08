"""A progress bar of a few lines; where nobody watches, one line at the end."""

from __future__ import annotations

import threading
import time
from typing import TextIO

BAR_CHARACTERS = 30
REDRAW_SECONDS = 0.1


class Progress:
    """Counts towards a total. Several threads may advance it."""

    def __init__(self, *, label: str, total: int, stream: TextIO) -> None:
        """Start at zero; `label` names what is counted."""
        self._label = label
        self._total = total
        self._stream = stream
        self._watched = stream.isatty()
        self._lock = threading.Lock()
        self._done = 0
        self._drawn_at = self._started_at = time.monotonic()

    def advance(self, count: int) -> None:
        """Add to what is done and redraw, at most every tenth of a second."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if self._watched and now - self._drawn_at >= REDRAW_SECONDS:
                self._drawn_at = now
                self._draw()

    def close(self) -> None:
        """Write the last state and leave the line."""
        with self._lock:
            if self._watched:
                self._draw()
                self._stream.write("\n")
            else:
                self._stream.write(f"{self._label}: {self._done:,} of {self._total:,}\n")
            self._stream.flush()

    def _draw(self) -> None:
        filled = BAR_CHARACTERS * self._done // max(1, self._total)
        rate = self._done / max(1e-9, time.monotonic() - self._started_at)
        bar = "█" * filled + "·" * (BAR_CHARACTERS - filled)
        line = f"{self._label} {bar} {self._done:,} of {self._total:,}, {rate:,.0f}/s"
        self._stream.write(f"\r\x1b[K{line}")
        self._stream.flush()
