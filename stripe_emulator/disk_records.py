"""Identifiers and stored answers on disk, so that a million events leave the memory as it was."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from stripe_emulator.core.records import Records

T = TypeVar("T")

CACHE_KIBIBYTES = 16_384


class DiskRecords(Records[T]):
    """One table of key and record in a file of its own."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self._path = path
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(kind)
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

    @contextmanager
    def together(self) -> Iterator[None]:
        # Also after a mistake of ours: what the books have counted stays known.
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    def clear(self) -> None:
        self._connection.execute("DELETE FROM records")

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM records").fetchone()[0])

    def snapshot(self) -> bytes:
        rows = self._connection.execute("SELECT key, record FROM records").fetchall()
        return msgspec.msgpack.encode(rows)

    def restore(self, data: bytes) -> None:
        rows = msgspec.msgpack.decode(data, type=list[tuple[str, bytes]])
        self._connection.execute("BEGIN")
        self._connection.execute("DELETE FROM records")
        self._connection.executemany("INSERT INTO records (key, record) VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()

    def _open(self) -> None:
        # Each write is safe from the end of this process; only a crash of the machine loses some.
        self._connection = sqlite3.connect(
            self._path, check_same_thread=False, isolation_level=None
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, record BLOB NOT NULL) "
            "WITHOUT ROWID"
        )
