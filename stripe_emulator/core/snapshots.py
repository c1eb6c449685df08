"""The whole account as bytes, to go back to.

Pickle keeps shared references and cycles as they are; only our own bytes are ever read back.
"""

import io
import pickle  # snapshots are written and read by this program alone
from dataclasses import dataclass
from typing import Any

from stripe_emulator.core.clock import Clock
from stripe_emulator.core.records import IdentifierRecord, Records
from stripe_emulator.core.world import World


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment of an emulator."""

    state: bytes
    """Account, judge, faults and clock."""
    identifiers: bytes | None
    """None where they are kept on disk and stay there."""
    answers: bytes | None
    arrivals: int


class _Pickler(pickle.Pickler):
    """Leave out what comes from outside: the clock's source, and records that may be on a disk."""

    def __init__(self, file: io.BytesIO, world: World) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._outside = {id(world.clock): "clock", id(world.identifiers): "identifiers"}

    def persistent_id(self, obj: Any) -> str | None:
        return self._outside.get(id(obj))


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, file: io.BytesIO, clock: Clock, identifiers: Records[IdentifierRecord]
    ) -> None:
        super().__init__(file)
        self._outside = {"clock": clock, "identifiers": identifiers}

    def persistent_load(self, pid: Any) -> Any:
        return self._outside[pid]


def packed(world: World, *others: Any) -> bytes:
    """Return the account, and what else is given, as bytes."""
    file = io.BytesIO()
    _Pickler(file, world).dump((world, *others))
    return file.getvalue()


def unpacked(state: bytes, clock: Clock, identifiers: Records[IdentifierRecord]) -> tuple[Any, ...]:
    """Return what was packed, joined to this clock and these records."""
    found: tuple[Any, ...] = _Unpickler(io.BytesIO(state), clock, identifiers).load()
    return found
