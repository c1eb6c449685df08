"""Keeping the account over a restart: one file, replaced whole, beside the logs it belongs to."""

import asyncio
import dataclasses
import hashlib
import logging
import pickle  # we read only what we wrote, in our own folder
from functools import cache
from pathlib import Path

from stripe_emulator import core
from stripe_emulator.core.emulator import Emulator
from stripe_emulator.core.snapshots import Snapshot

log = logging.getLogger(__name__)

SAVE_EVERY_SECONDS = 15


class AnotherVersionError(Exception):
    """The saved account was written by other code, whose objects this code may not fit."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"The account in {path} was saved by another version of the emulator: remove its folder"
            " or name a new one with --state."
        )


@cache
def _version() -> bytes:
    """Return a digest of the core's code: what a saved object is, its class says."""
    digest = hashlib.sha256()
    for source in sorted(Path(core.__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest().encode()


class SavedState:
    """Save an emulator now and then and at the end, and find it again at the next start."""

    def __init__(
        self, path: Path, emulator: Emulator, *, every_seconds: float = SAVE_EVERY_SECONDS
    ) -> None:
        self._path = path
        self._emulator = emulator
        self._every_seconds = every_seconds
        self._saved_at: tuple[int, int] | None = None

    def load(self) -> None:
        """Take up where the last run ended.

        After a crash the log is ahead of the saved account: the usage in between is counted
        again from the log, objects made in between are lost, and that is said.
        """
        if not self._path.exists():
            return
        version, _, saved = self._path.read_bytes().partition(b"\n")
        if version != _version():
            raise AnotherVersionError(self._path)
        snapshot: Snapshot = pickle.loads(saved)  # noqa: S301  our own file
        missed = self._emulator.arrivals.read(after=snapshot.arrivals, limit=1_000_000_000)
        everything = len(self._emulator.arrivals)
        self._emulator.restore(dataclasses.replace(snapshot, arrivals=everything))
        if missed:
            log.warning(
                "the last run ended without saving: usage of %d later requests is counted again "
                "from the log, other changes they made are lost",
                len(missed),
            )
            self._emulator.count_again(missed)

    def save(self) -> None:
        """Write the account beside its logs, if anything came since the last time.

        What people do on pages is no arrival; it shows in events.
        """
        came = (len(self._emulator.arrivals), len(self._emulator.world.events))
        if came == self._saved_at:
            return
        snapshot = self._emulator.snapshot(with_records=False)
        draft = self._path.with_suffix(".new")
        draft.write_bytes(_version() + b"\n" + pickle.dumps(snapshot))
        draft.replace(self._path)
        self._saved_at = came

    async def run(self) -> None:
        """Save every few seconds until cancelled."""
        while True:
            await asyncio.sleep(self._every_seconds)
            self.save()

    def close(self) -> None:
        """Save for the last time."""
        self._saved_at = None
        self.save()
