"""How far a replayed trace was moved in time, remembered so that a repetition is the same usage.

One small file per trace, number of customers and seed in the state folder.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from usage.traffic import Spread, Trace


class ShiftUnreadable(Exception):
    """The remembered shift cannot be read."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is damaged: --shift-again replaces it and sends the traffic as new usage."
        )


@dataclass(frozen=True, slots=True)
class Shift:
    """How far a trace is moved, and the salt of its ids ("" for its first replay)."""

    by: timedelta
    salt: str


def settle_shift(
    *, folder: Path, trace: Trace, spread: Spread, now: datetime, again: bool
) -> Shift:
    """Return the shift of this trace: the remembered one, or one by which it ends at `now`.

    It is on disk before this returns, so before the first event is sent, and an interrupted
    replay goes on with the same events. `again` replaces what is remembered, under a new salt.
    Of two first replays at once, both go by the shift of the one that was first on disk.

    Raises:
        ShiftUnreadable: the file is damaged.
    """
    name = f"{trace.digest[:32]}-{spread.customers}-{spread.seed}.json"
    path = folder / name
    if not again and path.exists():
        return _read(path)
    fresh = Shift(by=now - trace.last_at, salt=now.isoformat() if again else "")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=name, delete=False) as draft:
        json.dump(
            {"shift_microseconds": fresh.by // timedelta(microseconds=1), "salt": fresh.salt},
            draft,
        )
        draft.flush()
        os.fsync(draft.fileno())
    try:
        if again:
            Path(draft.name).replace(path)
        else:
            path.hardlink_to(draft.name)
    except FileExistsError:
        return _read(path)
    finally:
        Path(draft.name).unlink(missing_ok=True)
    return fresh


def _read(path: Path) -> Shift:
    try:
        kept = json.loads(path.read_text())
        return Shift(
            by=timedelta(microseconds=int(kept["shift_microseconds"])), salt=str(kept["salt"])
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        raise ShiftUnreadable(path) from None
