"""Records that grow with traffic, kept behind one interface so that a disk can hold them."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

import msgspec

T = TypeVar("T")


class IdentifierRecord(msgspec.Struct, frozen=True):
    """What is known of a meter event identifier since it was first accepted."""

    received_at: float
    fingerprint: str
    """Digest of event name, payload and timestamp, to notice one identifier with two payloads."""
    meter: str
    customer: str
    value: str
    timestamp: int
    sequence: int
    cancelled: bool = False


class IdempotencyRecord(msgspec.Struct, frozen=True):
    """The first answer to an Idempotency-Key."""

    at: float
    path: str
    fingerprint: str
    status: int
    headers: dict[str, str]
    body: bytes


class Records(Protocol[T]):
    """A map from text to records. Nothing in it expires by itself."""

    def get(self, key: str) -> T | None: ...

    def put(self, key: str, record: T) -> None: ...

    def together(self) -> AbstractContextManager[object]:
        """Let what the block puts reach a disk at once, at its end."""
        ...

    def clear(self) -> None: ...

    def __len__(self) -> int: ...

    def snapshot(self) -> bytes: ...

    def restore(self, data: bytes) -> None: ...


class MemoryRecords(Records[T]):
    """Keep them in a dict; right for tests, and for runs of some hundred thousand events."""

    def __init__(self, kind: type[T]) -> None:
        self._records: dict[str, T] = {}
        self._decoder = msgspec.msgpack.Decoder(dict[str, kind])  # type: ignore[valid-type]

    def get(self, key: str) -> T | None:
        return self._records.get(key)

    def put(self, key: str, record: T) -> None:
        self._records[key] = record

    def together(self) -> AbstractContextManager[object]:
        return nullcontext()

    def clear(self) -> None:
        self._records.clear()

    def __len__(self) -> int:
        return len(self._records)

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self._records)

    def restore(self, data: bytes) -> None:
        self._records = self._decoder.decode(data)
