"""A launcher under test: started as a person would, watched from outside through /proc."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 20.0
PID_LINE = re.compile(r"^pid \d+$", re.MULTILINE)

# Short waits, so that a test of the fifth crash does not wait for the other four.
IMPATIENT = """
import sys
from billing_project.local_stack import leftovers, supervisor
from billing_project.local_stack.__main__ import main
supervisor.FIRST_BACK_OFF_SECONDS = 0.05
leftovers.PATIENCE_SECONDS = 0.5
sys.exit(main())
"""


@dataclass
class Launcher:
    """One launcher on a folder of its own; every process below it carries this object's mark."""

    root: Path
    environment: dict[str, str]
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> Path:
        return Path(self.environment.get("STATE_DIR", self.root / ".local"))

    @property
    def printed(self) -> str:
        return (self.root / "printed").read_text() if (self.root / "printed").exists() else ""

    def start(self, *words: str) -> "Launcher":
        with (self.root / "printed").open("wb") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-c", IMPATIENT, "--root", self.root, *(words or ("run",))],
                cwd=REPOSITORY,
                env=self.environment | {"STACK_TEST_MARK": self.mark},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def start_ready(self) -> "Launcher":
        self.start().until(lambda: "ready: " in self.printed or self.ended)
        assert not self.ended, self.printed
        return self

    @property
    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE_SECONDS)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.send(how)
        return self.wait()

    def stop_hastily(self) -> int:
        self.send(signal.SIGTERM)
        self.until(lambda: "stopping" in self.printed)
        self.send(signal.SIGTERM)
        return self.wait()

    def send(self, how: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, how)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.02)

    def log(self, name: str) -> list[str]:
        path = self.state / "log" / f"{name}.log"
        return path.read_text().splitlines() if path.exists() else []

    def said(self, name: str, line: str) -> bool:
        return line in self.log(name)

    def until_told(self, *names: str) -> None:
        """Wait until each of these processes has printed its number."""
        self.until(lambda: all(PID_LINE.search("\n".join(self.log(name))) for name in names))

    def number(self, name: str, label: str) -> int:
        """Return the latest number a process printed as `label 123`."""
        found = [line.split()[1] for line in self.log(name) if line.startswith(f"{label} ")]
        return int(found[-1])

    def below(self) -> set[int]:
        """Return the living processes this launcher started, however deep, without itself."""
        pids = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
        alive = {pid for pid in pids if is_alive(pid)}
        own = {self.process.pid} if self.process else set()
        found = own | {pid for pid in alive if self._carries_mark(pid)}
        size = 0
        while size < len(found):
            size = len(found)
            found |= {pid for pid in alive if parent(pid) in found}
        return found - own

    def _carries_mark(self, pid: int) -> bool:
        # The servers overwrite their environment for their process titles, but work in their
        # data folders.
        folder = Path("/proc") / str(pid)
        try:
            marked = self.mark.encode() in (folder / "environ").read_bytes()
            return marked or (folder / "cwd").readlink().is_relative_to(self.root)
        except OSError:
            return False

    def end_all(self) -> None:
        """Leave nothing of a failed test behind."""
        left = self.below()
        if self.process and not self.ended:
            left.add(self.process.pid)
        for pid in left:
            kill(pid)
        if self.process:
            self.process.wait(PATIENCE_SECONDS)


def status(pid: int) -> list[str]:
    """Return what follows the program's name in /proc/PID/stat: state, parent and so on."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["gone", "0"]


def is_alive(pid: int) -> bool:
    return status(pid)[0] not in {"Z", "gone"}


def kill(pid: int) -> None:
    """End a process that may be ending by itself: one falls when its neighbour does."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def parent(pid: int) -> int:
    return int(status(pid)[1])
