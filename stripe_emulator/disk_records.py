"""Identifiers and stored answers on disk, so that a million events leave the memory as it was."""

import sqlite3
from pathlib import Path
from typing import TypeVar

import msgspec

from stripe_emulator.core.records import Records

T = TypeVar("T")

CACHE_KIBIBYTES = 16_384
COMMIT_EVERY = 2_000
"""Writes to gather in one transaction; a crash of the machine may lose so many."""


class DiskRecords(Records[T]):
    """One table of key and record in a file of its own."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self._path = path
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._uncommitted = 0
        self._open()

    def get(self, key: str) -> T | None:
        row = self._connection.execute(
            "SELECT record FROM records WHERE key = ?", (key,)
        ).fetchone()
        return None if row is None else self._decoder.decode(row[0])

    def put(self, key: str, record: T) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO records (key, record) VALUES (?, ?)",
            (key, self._encoder.encode(record)),
        )
        self._uncommitted += 1
        if self._uncommitted >= COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Let the writes so far survive the process."""
        self._connection.commit()
        self._uncommitted = 0

    def clear(self) -> None:
        self._connection.execute("DELETE FROM records")
        self.commit()

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM records").fetchone()[0])

    def snapshot(self) -> bytes:
        self.commit()
        return self._connection.serialize()

    def restore(self, data: bytes) -> None:
        self._connection.close()
        self._path.write_bytes(data)
        self._open()

    def close(self) -> None:
        self.commit()
        self._connection.close()

    def _open(self) -> None:
        self._connection = sqlite3.connect(self._path, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, record BLOB NOT NULL) "
            "WITHOUT ROWID"
        )
        self._connection.commit()
