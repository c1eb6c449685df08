"""What the launcher needs from the operating system to leave no process behind.

On Linux the launcher becomes the *subreaper* of everything below it: a grandchild whose parent was
killed becomes our child, so it can be found and reaped. A child is also told to stop when the
launcher dies without having said goodbye. Elsewhere only process groups are used.
"""

import contextlib
import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
"""Source: prctl(2), <linux/prctl.h>."""

_LINUX = sys.platform.startswith("linux")
_PROC = Path("/proc")


@functools.cache
def _prctl() -> Callable[[int, int], int]:
    call = ctypes.CDLL(None, use_errno=True).prctl
    call.argtypes = [ctypes.c_int, ctypes.c_ulong]
    return call


def become_subreaper() -> None:
    """Adopt the orphans among our descendants, so that none of them escapes a stop."""
    if _LINUX:
        _prctl()(PR_SET_CHILD_SUBREAPER, 1)


def dying_with(launcher: int, farewell: signal.Signals) -> Callable[[], None] | None:
    """Return what a child runs before exec so that `farewell` reaches it if `launcher` is killed.

    The caller forks from its only thread: the kernel ties the wish to the forking *thread*, and
    Python between fork and exec is safe only there. The setting survives exec and, because it is
    made after the change of account, that too.
    """
    if not _LINUX:
        return None
    prctl = _prctl()  # loaded here: after the fork nothing may be imported

    def before_exec() -> None:
        prctl(PR_SET_PDEATHSIG, farewell)
        if os.getppid() != launcher:  # it died between fork and prctl
            os._exit(1)

    return before_exec


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One line of the process table; `started` counts clock ticks since boot."""

    pid: int
    state: str
    parent: int
    session: int
    started: int

    @property
    def is_alive(self) -> bool:
        """A zombie holds its number and nothing else."""
        return self.state not in "ZX"


def look_up(pid: int) -> ProcessRow | None:
    """Read one process, or None when there is none (or no /proc to ask)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    # The program's name stands in parentheses and may hold spaces; what follows it does not.
    fields = text.rpartition(")")[2].split()
    return ProcessRow(pid, fields[0], int(fields[1]), int(fields[3]), int(fields[19]))


def process_table() -> Iterator[ProcessRow]:
    """Read every process of this machine that we may see."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(_PROC):
            if entry.name.isdigit() and (row := look_up(int(entry.name))):
                yield row


def boot_id() -> str:
    """Name this boot: process numbers and start times mean nothing after the next one."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def descendants(ancestor: int) -> list[int]:
    """List the living processes below `ancestor`."""
    rows = list(process_table())
    family = {ancestor}
    size = 0
    while size < len(family):
        size = len(family)
        family |= {row.pid for row in rows if row.parent in family}
    return [row.pid for row in rows if row.pid in family - {ancestor} and row.is_alive]


def working_in(folder: Path) -> list[int]:
    """List the living processes whose working directory is `folder`."""
    found = []
    for row in process_table():
        with contextlib.suppress(OSError):
            if row.is_alive and (_PROC / str(row.pid) / "cwd").readlink() == folder:
                found.append(row.pid)
    return found


def carrying(mark: str) -> list[int]:
    """List the living processes that were started with `mark` in their environment."""
    found = []
    for row in process_table():
        with contextlib.suppress(OSError):
            if mark.encode() in (_PROC / str(row.pid) / "environ").read_bytes() and row.is_alive:
                found.append(row.pid)
    return found


def send(pid: int, what: signal.Signals) -> None:
    """Signal one process; one that has gone needs none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, what)


def kill_session(session: int) -> None:
    """End at once whatever still lives in a session we started, its leader included.

    Celery's pool children and granian's workers outlive a killed leader; beside a restarted one
    they would be a second worker nobody watches.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)
    for row in process_table():
        if row.session == session and row.is_alive:
            send(row.pid, signal.SIGKILL)
