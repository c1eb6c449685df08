"""What the supervisor must know about a program to start, watch and stop it."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class Wave(IntEnum):
    """The order of stopping: what takes work in stops first, what holds the facts stops last."""

    FRONT = 0
    WORKER = 1
    EMULATOR = 2
    BROKER = 3
    DATABASE = 4


@dataclass(frozen=True, slots=True)
class Service:
    """One program; `account` is the user and group number it runs as, when not ours."""

    name: str
    command: tuple[str, ...]
    wave: Wave = Wave.FRONT
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 30.0
    is_ready: Callable[[], bool] | None = None
    ready_seconds: float = 60.0
    account: tuple[int, int] | None = None
    folder: Path | None = None
