"""The web server as the Procfile starts it, whose processes a test may count, weigh and kill."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from billing_project.local_stack.procfile import read_procfile

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60


class WebFailed(Exception):
    """The web server does not come up. The message says what it wrote."""


class Web:
    """One web server on one port: the same again after it was killed."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - as long as the server
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A worker that is just starting ignores being asked to stop, for 25 seconds.
        self.kill_all()

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            WebFailed: it does not.
        """
        line = read_procfile(ROOT / "Procfile")["web"]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {line}"],
            cwd=ROOT,
            env={
                **os.environ,
                "PORT": str(self.port),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + READY_SECONDS
        while not self.answers():
            if self.has_ended() or time.monotonic() > deadline:
                raise WebFailed(self.log())
            time.sleep(0.05)

    def has_ended(self) -> bool:
        """Return whether the server itself is gone, as when its workers died too often."""
        return self._process is None or self._process.poll() is not None

    def answers(self) -> bool:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(client):
            client.request("GET", "/healthz")
            return client.getresponse().status == 200
        return False

    def workers(self) -> list[int]:
        """Return the processes that answer requests, oldest first."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with contextlib.suppress(OSError):
            return [int(pid) for pid in children.read_text().split() if _answers_requests(pid)]
        return []

    def kill(self, pid: int) -> None:
        """Kill one process as the kernel does when memory runs out."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill every process at once, as when the machine goes."""
        if self._process is None or self.has_ended():
            return
        # Its session is its own, so nobody else is in the group.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def resident_bytes(self) -> int:
        """Return the memory of all its workers."""
        page = os.sysconf("SC_PAGE_SIZE")
        return sum(
            int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in self.workers()
        )

    def log(self) -> str:
        """Return the end of what it wrote."""
        self._log.flush()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 5_000))
        return self._log.read().decode(errors="replace")


def _answers_requests(pid: str) -> bool:
    # Python's own helper, which only looks after semaphores, is a child of the server, too.
    return b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
