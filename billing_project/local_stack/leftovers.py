"""What the launcher started, written down, so that the next one can end what a killed one left."""

import json
import secrets
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from billing_project.local_stack import kernel
from billing_project.local_stack.state import StateFolder, write_private

MARK_VARIABLE = "LOCAL_STACK_RUN"
"""Every process of a run carries its mark in the environment, however deep it was forked."""

PATIENCE_SECONDS = 20.0
"""How long leftovers may take to end by themselves; a worker finishes its task meanwhile."""


@dataclass(slots=True)
class ProcessRecord:
    """The list of a run's process leaders on disk, rewritten whenever one is started."""

    state: StateFolder
    mark: str = field(default_factory=lambda: secrets.token_hex(16))
    _entries: list[dict[str, object]] = field(default_factory=list)

    def add(self, name: str, pid: int, farewell: signal.Signals) -> None:
        """Write down a leader that was just started."""
        row = kernel.look_up(pid)
        self._entries = [entry for entry in self._entries if entry["name"] != name]
        self._entries.append(
            {
                "name": name,
                "pid": pid,
                "started": row.started if row else None,
                "farewell": int(farewell),
            }
        )
        self.write()

    def write(self) -> None:
        """Write the list, also when it is still empty: the mark alone finds a first child."""
        content = {"boot": kernel.boot_id(), "mark": self.mark, "processes": self._entries}
        write_private(self.state.process_record, json.dumps(content, indent=1))

    def forget(self) -> None:
        """Remove the list after a complete stop."""
        self.state.process_record.unlink(missing_ok=True)


def end_leftovers(state: StateFolder) -> int:
    """End what the previous launcher of this folder left running, and return how many there were.

    Leaders are recognised by number and start time, everything below them by the run's mark, so a
    number that was given to a stranger since is left alone. Must be called under the folder's lock.
    """
    try:
        content = json.loads(state.process_record.read_text())
    except (OSError, ValueError):
        return 0
    found: set[int] = set()
    if content["boot"] == kernel.boot_id():
        mark = f"{MARK_VARIABLE}={content['mark']}"
        leaders = {
            entry["pid"]: signal.Signals(entry["farewell"])
            for entry in content["processes"]
            if (row := kernel.look_up(entry["pid"])) and row.started == entry["started"]
        }
        found = _alive(leaders) | set(kernel.carrying(mark))
        for pid in _alive(leaders):
            kernel.send(pid, leaders[pid])
        _wait_for(leaders)
        for pid in _alive(leaders) | set(kernel.carrying(mark)):
            kernel.send(pid, signal.SIGKILL)
        _wait_for(found)
    state.process_record.unlink(missing_ok=True)
    return len(found)


def _alive(pids: Iterable[int]) -> set[int]:
    return {pid for pid in pids if (row := kernel.look_up(pid)) and row.is_alive}


def _wait_for(pids: Iterable[int]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
