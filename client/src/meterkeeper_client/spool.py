"""Events that wait on disk: written before `record()` returns, so that they outlive the process.

A directory holds one folder per living process (see `folders`); each appends to files of its own.
"""

from __future__ import annotations

import os
import time
from io import FileIO
from pathlib import Path

from meterkeeper_client import folders

MOST_SEGMENT_BYTES = 4 * 1024 * 1024
ADOPT_EVERY_SECONDS = 30.0
SYNC_EVERY_SECONDS = 1.0
AGAIN_AFTER_SECONDS = 1.0


class Spool:
    """A bounded queue in files. Lines are appended with one `write`, and read back to be sent.

    `put` is called with the sender's lock held; its thread calls the rest without it.
    """

    def __init__(self, root: Path, *, most_bytes: int) -> None:
        self._root = root
        self._most_bytes = most_bytes
        self._segment_bytes = max(1, min(MOST_SEGMENT_BYTES, most_bytes // 4))
        self._own: folders.Folder | None = None
        self._writing: FileIO | None = None
        self._written = 0
        self._is_unsynced = False
        self._synced_segment = 1
        self._adopted: list[folders.Folder] = []
        self._reading: folders.Folder | None = None
        self._fails_until = 0.0
        self._adopted_at = self._synced_at = -ADOPT_EVERY_SECONDS
        self._is_closed = False
        self.kept = self.settled = self.recovered = self.torn = 0
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK | os.X_OK):
            raise PermissionError(f"the spool {root} cannot be written")

    @property
    def backlog(self) -> int:
        """How many events of dead processes are not settled; 1 while nobody has looked yet."""
        if self._adopted_at < 0 and not self._is_closed:
            return 1
        return sum(folder.waiting for folder in self._adopted)

    @property
    def waiting(self) -> int:
        """How many events are not settled."""
        return self.kept - self.settled + sum(folder.waiting for folder in self._adopted)

    @property
    def disk_bytes(self) -> int:
        """How large the files are, this process's own and those it has taken over."""
        own = 0 if self._own is None else self._own.size
        if not self._adopted:
            return own
        return own + sum(folder.size for folder in self._adopted)

    def put(self, line: bytes) -> tuple[str, str]:
        """Write a line; return a problem's kind and detail, or empty text, when it is kept."""
        if self.disk_bytes + len(line) >= self._most_bytes:
            return "full", "the spool is full; new events are dropped"
        if time.monotonic() < self._fails_until:
            return "spool", "the spool could not be written; new events are dropped"
        try:
            self._write(line + b"\n")
        except OSError as error:
            self._fails_until = time.monotonic() + AGAIN_AFTER_SECONDS
            return "spool", f"the spool cannot be written: {error}"
        self.kept += 1
        return "", ""

    def _write(self, line: bytes) -> None:
        if self._writing is None or self._written >= self._segment_bytes:
            self._begin_segment()
        assert self._own is not None and self._writing is not None  # noqa: PT018, S101 - just begun
        written = self._writing.write(line)
        self._written += written
        self._own.written += written
        self._is_unsynced = True
        if written != len(line):
            # The disk is full in the middle of a line, and no other may follow it.
            self._written = self._segment_bytes
            raise OSError("only a part of a line could be written")

    def _begin_segment(self) -> None:
        if self._own is None:
            self._own = folders.create(self._root)
        number = self._own.last + 1
        before, self._writing = self._writing, self._own.new_segment(number)
        self._written = 0
        self._own.last = number
        if before is not None:
            before.close()

    def peek(self, most: int, most_bytes: int) -> list[bytes]:
        """Return the oldest lines, at least one if there is any, those of dead processes first."""
        for folder in list(self._adopted):
            lines = folder.read(most, most_bytes)
            if lines:
                self._reading = folder
                return lines
            self._adopted.remove(folder)
            folder.remove()
        self._reading = self._own
        return [] if self._own is None else self._own.read(most, most_bytes)

    def done(self, count: int) -> None:
        """Let go of the first `count` lines last read. Called with the lock held."""
        if self._reading is not None:
            self._reading.done(count)
            if self._reading is self._own:
                self.settled += count

    def tend(self) -> list[tuple[str, str]]:
        """Force what was written to disk, take over what dead processes left; return troubles."""
        now = time.monotonic()
        failures: list[OSError] = []
        try:
            if self._is_unsynced and now - self._synced_at >= SYNC_EVERY_SECONDS:
                self._synced_at = now
                self._sync()
            if now - self._adopted_at >= ADOPT_EVERY_SECONDS:
                for folder in folders.adopt(self._root, failures):
                    self._adopted.append(folder)
                    self.recovered += folder.waiting
                    self.torn += folder.torn
                self._adopted_at = now
        except OSError as error:
            self._adopted_at = now
            failures.append(error)
        return [("spool", f"the spool is in trouble: {error}") for error in failures]

    def _sync(self) -> None:
        own = self._own
        self._is_unsynced = False
        if own is not None:
            last = own.last
            own.sync(self._synced_segment, last)
            self._synced_segment = last

    def close(self) -> int:
        """Leave what is not settled to the next process. Called with the lock held."""
        self._is_closed = True
        if self._writing is not None:
            self._writing.close()
        if self._own is not None:
            if self.kept == self.settled:
                self._own.remove()
            else:
                self._own.close()
        for folder in self._adopted:
            if folder.waiting:
                folder.close()
            else:
                folder.remove()
        self._own = self._writing = self._reading = None
        return 0

    def abandon(self) -> None:
        """Close what a forked child inherited, and touch nothing: it is the parent's."""
        inherited = [*self._adopted, *([self._own] if self._own else [])]
        for folder in inherited:
            folder.close()
        if self._writing is not None:
            self._writing.close()
