"""The processes' lines: prefixed on the terminal, plain in one log file each."""

import contextlib
import os
import sys
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import BinaryIO

SPEAKER = "stack"
"""The launcher's own name among the processes."""

LOG_BYTES = 20 * 1024 * 1024
"""With each run, and when it is this large, a log file becomes NAME.log.1."""

_COLOURS = ("36", "32", "33", "35", "34", "92", "96", "93", "95", "94")


class Shown(Enum):
    """What of it all reaches the terminal; the log files get everything."""

    ALL = "all"
    LAUNCHER = "the launcher's own lines"
    TROUBLE = "nothing, unless something fails"


class Output:
    """Where lines go."""

    def __init__(self, folder: Path, names: Iterable[str], *, shown: Shown = Shown.ALL) -> None:
        self._folder = folder
        self._shown = shown
        self._files: dict[str, BinaryIO] = {}
        known = [SPEAKER, *names]
        self._width = max(len(name) for name in known)
        self._is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._colour = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(known[1:])} | {
            SPEAKER: "1"
        }

    def log_path(self, name: str) -> Path:
        """Return the log file of a process."""
        return self._folder / f"{name}.log"

    def say(self, text: str) -> None:
        """Say something as the launcher."""
        self._record(SPEAKER, text.encode())
        if self._shown is not Shown.TROUBLE:
            self._show(SPEAKER, text)

    def complain(self, text: str) -> None:
        """Say why the stack fails, whatever else is kept quiet."""
        self._record(SPEAKER, text.encode())
        self._show(SPEAKER, text)

    def line(self, name: str, line: bytes) -> None:
        """Pass on one line of a process, given without its end."""
        self._record(name, line)
        if self._shown is Shown.ALL:
            self._show(name, line.decode(errors="replace"))

    def tail(self, name: str, count: int = 20) -> list[str]:
        """Return the last lines a process wrote."""
        path = self.log_path(name)
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
            return file.read().decode(errors="replace").splitlines()[-count:]

    def close(self) -> None:
        """Close the log files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _record(self, name: str, line: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk must not take the processes down with it
            file = self._files.get(name)
            if file is None or file.tell() > LOG_BYTES:
                file = self._files[name] = self._open(name)
            file.write(line + b"\n")

    def _open(self, name: str) -> BinaryIO:
        if name in self._files:
            self._files.pop(name).close()
        path = self.log_path(name)
        if path.exists():
            path.replace(path.with_name(path.name + ".1"))
        return path.open("ab", buffering=0)

    def _show(self, name: str, text: str) -> None:
        prefix = f"{name:<{self._width}} |"
        if self._is_coloured:
            prefix = f"\x1b[{self._colour.get(name, '0')}m{prefix}\x1b[0m"
        try:
            print(prefix, text, flush=True)
        except OSError:
            # The terminal is gone; everything is in the files, and a second error at exit would
            # hide the real exit code.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
