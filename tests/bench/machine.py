"""What the figures were taken on: without it they cannot be compared with others."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg

PACKAGES = ("django", "psycopg", "granian", "msgspec", "stripe")
DATABASE_SETTINGS = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "shared_buffers",
    "max_wal_size",
    "wal_compression",
)


def facts(*, database_url: str) -> dict[str, Any]:
    """Return the machine, the versions and the database's settings, with the load as of now."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        database = {
            name: connection.execute("SELECT current_setting(%s)", [name]).fetchone()[0]
            for name in DATABASE_SETTINGS
        }
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": load(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "database": database,
    }


def load() -> list[float]:
    """Return the load averages of 1, 5 and 15 minutes."""
    return [round(average, 2) for average in os.getloadavg()]


def as_text(facts: dict[str, Any]) -> str:
    """Return the facts in a few lines."""
    database = facts["database"]
    lines = [
        f"{facts['measured_at']}, commit {facts['commit']}",
        f"{facts['cores']} cores, {facts['processor']}, {facts['system']}",
        f"load {facts['load_before'][0]} before, {facts['load_after'][0]} after",
        f"Python {facts['python']}, "
        + ", ".join(f"{name} {number}" for name, number in facts["packages"].items()),
        f"PostgreSQL {database['server_version']}, "
        + ", ".join(f"{name} {database[name]}" for name in DATABASE_SETTINGS[1:]),
    ]
    if "off" in (database["fsync"], database["synchronous_commit"]):
        lines.append("Commits are not durable on this database: single events look cheap.")
    return "\n".join(lines)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    told = subprocess.run(
        [git, "describe", "--always", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"
