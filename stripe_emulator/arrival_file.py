"""The arrival log on disk: one JSON object per line, appended and never rewritten."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from stripe_emulator.core.arrivals import Arrival, ArrivalLog

STRIDE = 1000
"""Every so many lines an offset is remembered, so that reading from the middle is quick."""


class ArrivalFile(ArrivalLog):
    """Append to a file; an existing one is continued.

    A torn last line, after a crash, is cut off.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Arrival)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._offsets = [0]
        self._count = 0
        self._size = 0
        self._scan()

    def append(self, arrival: Arrival) -> None:
        line = self._encoder.encode(arrival) + b"\n"
        os.write(self._fd, line)
        self._noted(len(line))

    def read(self, *, after: int, limit: int) -> list[Arrival]:
        after = max(0, after)
        found: list[Arrival] = []
        if after >= self._count:
            return found
        with self._path.open("rb") as file:
            file.seek(self._offsets[after // STRIDE])
            for number, line in enumerate(file, start=after // STRIDE * STRIDE):
                if number >= after:
                    found.append(self._decoder.decode(line))
                if len(found) >= limit:
                    break
        return found

    def __iter__(self) -> Iterator[Arrival]:
        with self._path.open("rb") as file:
            for line in file:
                yield self._decoder.decode(line)

    def __len__(self) -> int:
        return self._count

    def truncate(self, length: int) -> None:
        if length >= self._count:
            return
        with self._path.open("rb") as file:
            file.seek(self._offsets[length // STRIDE])
            for _ in range(length % STRIDE):
                file.readline()
            size = file.tell()
        os.ftruncate(self._fd, size)
        self._scan()

    def close(self) -> None:
        os.close(self._fd)

    def _scan(self) -> None:
        self._offsets, self._count, self._size = [0], 0, 0
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._noted(len(line))
        os.ftruncate(self._fd, self._size)

    def _noted(self, length: int) -> None:
        self._count += 1
        self._size += length
        if self._count % STRIDE == 0:
            self._offsets.append(self._size)
