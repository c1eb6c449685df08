"""`python -m tests.client.endurance`: our web server killed again and again under the client's load.

A client with a spool records all the time. The web server of the Procfile, on a database of its own,
is ended with SIGKILL together with its workers while it is answering, and started again on the same
port. In the end each recorded id must be in the database, and nothing else.

`make client-endurance` runs it beside a throwaway PostgreSQL; otherwise DATABASE_URL names a server.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from meterkeeper_client import Meterkeeper, Stats

from tests.bench import stack

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUP = 25
GROUP_SECONDS = 0.005
"""A group in so many seconds is the pace, at most 5,000 a second."""
RESUME_SECONDS = 60
FLUSH_SECONDS = 300


class Recorder:
    """Records under numbers and keeps every id it was given, and how long it took."""

    def __init__(self, client: Meterkeeper, count: int) -> None:
        self._client = client
        self.left = count
        self.ids: list[str] = []
        self.nanoseconds: list[int] = []

    def record(self, count: int) -> None:
        """Record so many, or as many as are left."""
        for _ in range(min(count, self.left)):
            began = time.perf_counter_ns()
            event_id = self._client.record("llm.call", "acme", {"input_tokens": len(self.ids)})
            self.nanoseconds.append(time.perf_counter_ns() - began)
            self.ids.append(event_id)
            self.left -= 1


def main() -> int:
    """Run it; print the figures; return 1 unless every id is stored once."""
    options = _parser().parse_args()
    server_url = os.environ.get("DATABASE_URL")
    if not server_url:
        sys.stderr.write("DATABASE_URL is not set: `make client-endurance` sets it.\n")
        return 2
    chance = random.Random(options.seed)  # noqa: S311 - moments, no secrets
    with (
        stack.bench_environment(server_url),
        stack.bench_database(server_url),
        tempfile.TemporaryDirectory(prefix="meterkeeper-spool-") as spool,
    ):
        key = _prepare()
        began = time.monotonic()
        port = stack.free_port()
        client = Meterkeeper(f"http://127.0.0.1:{port}", key, spool=spool)
        recorder = Recorder(client, options.records)
        most_spooled = 0
        for kill in range(options.kills):
            _kill_under_load(port, client, recorder, options.kills - kill, chance)
            most_spooled = max(most_spooled, client.stats().spooled_bytes)
            sys.stderr.write(f"kill {kill + 1}: {client.stats()}\n")
        with stack.web_server(port):
            recorder.record(recorder.left)
            is_settled = client.flush(FLUSH_SECONDS)
            stats = client.stats()
            client.close()
        left = [path.name for path in Path(spool).iterdir()]
        seconds = time.monotonic() - began
        is_right = _judge(recorder.ids, stats, is_settled=is_settled, left=left)
    cuts = statistics.quantiles(recorder.nanoseconds, n=100)
    print(
        f"{len(recorder.ids):,} records, {options.kills} kills in {seconds:.0f} s (seed"
        f" {options.seed}): {stats.retries} retries, at most {most_spooled / 1e6:.1f} MB spooled;"
        f" record() took {statistics.fmean(recorder.nanoseconds) / 1e3:.1f} µs on average,"
        f" p50 {cuts[49] / 1e3:.1f}, p99 {cuts[98] / 1e3:.1f}"
    )
    return 0 if is_right else 1


def _prepare() -> str:
    """Make the tables, a meter and a key; return the key."""
    # Django is set up by now, and not before.
    from django.core.management import call_command  # noqa: PLC0415

    from billing import authentication  # noqa: PLC0415
    from billing.enums import Scope  # noqa: PLC0415
    from tests.usage.conftest import make_meter  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    make_meter("input_tokens", "input_tokens")
    return authentication.issue("endurance", [Scope.INGEST])[1]


def _kill_under_load(
    port: int, client: Meterkeeper, recorder: Recorder, shares: int, chance: random.Random
) -> None:
    """Start the server, and kill it and its workers soon after it has begun to store again."""
    stored, quota = client.stats().stored, recorder.left // shares
    with stack.web_server(port) as (_, group):
        deadline = time.monotonic() + RESUME_SECONDS
        while client.stats().stored == stored:
            if time.monotonic() > deadline:
                raise stack.BenchFailed(f"Nothing was stored for {RESUME_SECONDS} s.")
            quota -= _record_group(recorder, quota)
        killer = threading.Timer(chance.uniform(0, 0.5), os.killpg, [group, signal.SIGKILL])
        killer.start()
        while killer.is_alive():
            quota -= _record_group(recorder, quota)
    recorder.record(quota)


def _record_group(recorder: Recorder, quota: int) -> int:
    count = min(GROUP, quota)
    recorder.record(count)
    time.sleep(GROUP_SECONDS)
    return count


def _judge(ids: Sequence[str], stats: Stats, *, is_settled: bool, left: Sequence[str]) -> bool:
    """Compare what was recorded with what the database holds, and print what differs."""
    from django.db import connection  # noqa: PLC0415

    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT event_id, (data->>'input_tokens')::int FROM usage_usageevent")
        rows = cursor.fetchall()
    stored = dict(rows)
    expected = {event_id: number for number, event_id in enumerate(ids)}
    faults = {
        "ids recorded twice": len(ids) - len(expected),
        "ids stored twice": len(rows) - len(stored),
        "ids lost": len(expected.keys() - stored.keys()),
        "ids nobody recorded": len(stored.keys() - expected.keys()),
        "payloads changed": sum(stored.get(event_id, n) != n for event_id, n in expected.items()),
        "not settled": int(not is_settled),
        "dropped or refused": stats.dropped + stats.refused,
        "folders left in the spool": len(left),
        "not counted as stored": len(ids) - stats.stored,
    }
    found = {name: count for name, count in faults.items() if count}
    print(f"WRONG: {found}" if found else f"Each of {len(ids):,} ids is stored exactly once.")
    return not found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.client.endurance")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    return parser


if __name__ == "__main__":
    sys.exit(main())
