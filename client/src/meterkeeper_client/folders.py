"""One process's part of the spool: numbered segments of lines, and how far they are settled.

    SPOOL/UUID/position        "segment offset"; locked by the process that sends the folder
    SPOOL/UUID/0000000001      lines of JSON, only ever appended to, and only by the first owner
    SPOOL/UUID/0000000002

The kernel drops the lock with the process, however it ends, and then another one may take over. A
position that is old, or cannot be read, has events sent again, which adds nothing at the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from io import FileIO
from pathlib import Path

POSITION = "position"
LEAST_READ_BYTES = 64 * 1024
"""More than the longest line."""


class Folder:
    """The segments of one process, read in order by one thread."""

    def __init__(self, path: Path, position: FileIO) -> None:
        self.path = path
        self._position = position
        self._segment, self._offset = 1, 0
        self._is_own = True
        self._file: FileIO | None = None
        self._ends: list[int] = []
        self._freed = 0
        self.last = 0
        """The number of the newest segment."""
        self.written = 0
        """Bytes in all its segments so far, also in those that are gone."""
        self.waiting = 0
        """Of a folder taken over: lines that are not settled."""
        self.torn = 0
        """Of such a folder: lines that were being written when its process ended."""

    @property
    def size(self) -> int:
        """How many bytes of segments are on disk."""
        return self.written - self._freed

    def new_segment(self, number: int) -> FileIO:
        """Create a segment to append to."""
        descriptor = os.open(
            self._name(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600
        )
        return FileIO(descriptor, "ab")

    def read(self, most: int, most_bytes: int) -> list[bytes]:
        """Return the first lines that are not settled, at least one if there is any."""
        while True:
            # Looked up before reading: nothing is added to a segment once a newer one is there.
            is_finished = self._segment < self.last
            asked = max(most_bytes, LEAST_READ_BYTES)
            data = self._bytes(asked)
            lines, end = self._cut(data, most, most_bytes)
            if lines:
                return lines
            # Nothing whole in it: torn lines, or more of what is no line than was asked for.
            skipped = end or (len(data) if len(data) == asked else 0)
            if skipped:
                self._offset += skipped
            elif is_finished:
                self._next_segment()
            else:
                return []

    def _bytes(self, most: int) -> bytes:
        if self._file is None:
            try:
                self._file = FileIO(self._name(self._segment))
            except FileNotFoundError:
                return b""
        return os.pread(self._file.fileno(), most, self._offset)

    def _cut(self, data: bytes, most: int, most_bytes: int) -> tuple[list[bytes], int]:
        """Return the whole lines of `data` and where the last ends; keep where each ends."""
        lines: list[bytes] = []
        self._ends = []
        size = end = 0
        for line in data.split(b"\n", most)[:-1]:
            length = len(line) + 1
            if self._is_own or is_whole(line):
                size += length
                if lines and size > most_bytes:
                    break
                lines.append(line)
                self._ends.append(end + length)
            end += length
        return lines, end

    def done(self, count: int) -> None:
        """Settle the first `count` lines of the last `read`."""
        self._offset += self._ends[count - 1]
        self._ends = [end - self._ends[count - 1] for end in self._ends[count:]]
        self.waiting -= count
        self._write_position()

    def _next_segment(self) -> None:
        gone = self._name(self._segment)
        self._segment, self._offset = self._segment + 1, 0
        self._close_file()
        self._write_position()
        with contextlib.suppress(FileNotFoundError):
            size = gone.stat().st_size
            gone.unlink()
            self._freed += size

    def sync(self, first: int, last: int) -> None:
        """Force the segments from `first` to `last` to the disk, and the folder's list of them."""
        for path in [*(self._name(number) for number in range(first, last + 1)), self.path]:
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def take_over(self) -> None:
        """Find out what a dead process left: read its position and count its lines."""
        self._is_own = False
        numbers = sorted(int(path.name) for path in self.path.iterdir() if path.name.isdecimal())
        if not numbers:
            return
        self.last = numbers[-1]
        self._segment, self._offset = self._read_position(numbers)
        for number in numbers:
            path = self._name(number)
            if number < self._segment:
                path.unlink()
                continue
            data = path.read_bytes()
            self.written += len(data)
            *lines, rest = data[self._offset if number == self._segment else 0 :].split(b"\n")
            whole = sum(map(is_whole, lines))
            self.waiting += whole
            self.torn += len(lines) - whole + bool(rest)

    def _read_position(self, numbers: list[int]) -> tuple[int, int]:
        words = os.pread(self._position.fileno(), 64, 0).split()
        with contextlib.suppress(ValueError, OSError):
            segment, offset = map(int, words)
            if segment in numbers and offset == 0:
                return segment, 0
            with FileIO(self._name(segment)) as file:
                # It must be the start of a line, or it was never written whole.
                if os.pread(file.fileno(), 1, offset - 1) == b"\n":
                    return segment, offset
        return numbers[0], 0

    def _write_position(self) -> None:
        # An old position stays right, so a failure here is none.
        with contextlib.suppress(OSError):
            os.pwrite(self._position.fileno(), b"%010d %020d\n" % (self._segment, self._offset), 0)

    def remove(self) -> None:
        """Delete the folder, all of which is settled."""
        self._close_file()
        with contextlib.suppress(OSError):
            for path in self.path.iterdir():
                if path.name != POSITION:
                    path.unlink()
            (self.path / POSITION).unlink()
            self.path.rmdir()
        self._position.close()

    def close(self) -> None:
        """Give the folder up, so that another process may take it over."""
        self._close_file()
        self._position.close()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _name(self, number: int) -> Path:
        return self.path / f"{number:010d}"


def is_whole(line: bytes) -> bool:
    """Return whether a line was written whole. A page lost with the power reads as NUL bytes."""
    return line.startswith(b"{") and line.endswith(b"}") and b"\0" not in line


def create(root: Path) -> Folder:
    """Make a folder of this process's own in the spool `root`, locked from its first moment."""
    name = str(uuid.uuid4())
    unfinished = root / f".{name}"
    unfinished.mkdir(mode=0o700)
    position = FileIO(unfinished / POSITION, "x+")
    fcntl.flock(position, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # Others look at it only under its own name, when it is locked.
    unfinished.rename(root / name)
    return Folder(root / name, position)


def adopt(root: Path, failures: list[OSError]) -> list[Folder]:
    """Return the folders whose processes are gone, locked by us; note which cannot be read."""
    found: list[Folder] = []
    for path in sorted(root.iterdir()):
        if not path.name.startswith("."):
            try:
                folder = _adopted(path)
            except OSError as error:
                failures.append(error)
            else:
                found += [folder] if folder else []
    return found


def _adopted(path: Path) -> Folder | None:
    try:
        position = FileIO(path / POSITION, "r+")
    except (FileNotFoundError, NotADirectoryError):
        return None
    folder = Folder(path, position)
    try:
        fcntl.flock(position, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # No link is left when another process sent and removed it between our two steps.
        if os.fstat(position.fileno()).st_nlink:
            folder.take_over()
            return folder
    except BlockingIOError:
        pass
    except OSError:
        folder.close()
        raise
    folder.close()
    return None
