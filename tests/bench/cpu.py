"""CPU time of processes, from /proc: our own, a process tree's, and that of database backends."""

from __future__ import annotations

import os
import time
from pathlib import Path

Reading = dict[int, float]
"""CPU seconds used so far, by process id."""

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def spent(before: Reading | None, after: Reading | None) -> float | None:
    """Return the seconds spent between two readings, or None when they do not tell.

    A process that came in between counts whole. One that went took its figure with it.
    """
    if before is None or after is None or before.keys() - after.keys():
        return None
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def own_process() -> Reading:
    """Read the time of this process, all its threads included."""
    return {os.getpid(): time.process_time()}


def process_tree(root: int) -> Reading:
    """Read the time of a process and its living descendants, and of children these have reaped."""
    parents: dict[int, int] = {}
    seconds: Reading = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            fields = _stat(int(entry.name))
            if fields is not None:
                parents[int(entry.name)] = int(fields[1])
                # user, system, and the same of reaped children
                seconds[int(entry.name)] = sum(map(int, fields[11:15])) / TICKS_PER_SECOND
    return {pid: used for pid, used in seconds.items() if _descends(pid, root, parents)}


def processes(pids: list[int]) -> Reading:
    """Read the time of these processes, without their children. Those that are gone are left out."""
    seconds: Reading = {}
    for pid in pids:
        fields = _stat(pid)
        if fields is not None:
            seconds[pid] = sum(map(int, fields[11:13])) / TICKS_PER_SECOND
    return seconds


def program(pid: int) -> str | None:
    """Return the program's short name, or None when there is no such process to be seen."""
    try:
        return (PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return None


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/<pid>/stat from the state on, which stands after the name."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _descends(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != root:
        pid = parents[pid]
    return pid == root
