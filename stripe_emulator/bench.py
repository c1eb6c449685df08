"""`python -m stripe_emulator.bench`: the emulator's speed over HTTP, and that its memory is flat.

The program runs in a process of its own with its log on disk; this process is the load. Both share
the machine, so a figure is what a client on the same machine gets.
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from stripe_emulator.bench_load import (
    Target,
    drive,
    prepared,
    session_token,
    stream_requests,
    v1_requests,
)

V1_GOAL = 1_000
STREAM_GOAL = 10_000
GROWTH_MEBIBYTES = 16
REPEATS = 3
MEBIBYTE = 1024 * 1024
START_SECONDS = 20


async def measured(
    target: Target, make: Callable[[str], list[tuple[bytes, int]]], name: str
) -> dict[str, Any]:
    """Repeat one load and return the median rate and the emulator's own time per event."""
    rates, costs = [], []
    for repeat in range(REPEATS):
        requests = make(f"{name}{repeat}")
        events = sum(count for _, count in requests)
        cpu = target.cpu_seconds()
        seconds = await drive(target.port, requests)
        rates.append(events / seconds)
        costs.append((target.cpu_seconds() - cpu) / events * 1e6)
    return {
        "case": name,
        "events_per_second": round(statistics.median(rates)),
        "lowest": round(min(rates)),
        "emulator_microseconds_per_event": round(statistics.median(costs), 1),
    }


async def flatness(target: Target, events: int) -> dict[str, Any]:
    """Send many events in tenths and return how memory moved after the first tenth."""
    sizes = []
    started = time.perf_counter()
    for part in range(10):
        token = await session_token(target.port)
        await drive(target.port, list(stream_requests(target, token, f"flat{part}", events // 10)))
        sizes.append(target.resident_bytes() / MEBIBYTE)
    return {
        "case": "memory",
        "events": events,
        "seconds": round(time.perf_counter() - started, 1),
        "mebibytes_after_each_tenth": [round(size, 1) for size in sizes],
        "growth_after_first_tenth": round(sizes[-1] - sizes[0], 1),
    }


async def run(port: int, process_id: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every case."""
    target = await prepared(port, process_id)
    token = await session_token(port)
    results = [
        await measured(target, lambda run: list(v1_requests(target, run, options.v1)), "v1"),
        await measured(
            target, lambda run: list(stream_requests(target, token, run, options.stream)), "stream"
        ),
    ]
    if options.memory:
        results.append(await flatness(target, options.memory))
    truth = await asyncio.to_thread(_accepted, port)
    sent = REPEATS * (options.v1 + options.stream) + options.memory // 10 * 10
    results.append({"case": "books", "sent": sent, "accepted": truth, "equal": sent == truth})
    return results


def _accepted(port: int) -> int:
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/_emulator/truth?customer=nobody")
    truth = json.loads(connection.getresponse().read())
    connection.close()
    return int(truth["event_names"]["bench"]["count"])


def started(folder: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start the program on a free port and wait until it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "stripe_emulator", "--port", str(port), "--state", folder]
    process = subprocess.Popen(command)  # noqa: S603  our own program
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return process, port
    process.kill()
    raise RuntimeError("the emulator did not start")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table, and fail when a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m stripe_emulator.bench", description=__doc__)
    parser.add_argument("--v1", type=int, default=5_000, help="v1 events in each repeat")
    parser.add_argument("--stream", type=int, default=50_000, help="stream events in each repeat")
    parser.add_argument(
        "--memory", type=int, default=1_000_000, help="events of the memory run; 0 leaves it out"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        process, port = started(folder)
        try:
            results = asyncio.run(run(port, process.pid, options))
            log_bytes = Path(folder, "arrivals.jsonl").stat().st_size
        finally:
            process.terminate()
            process.wait()
    results[-1]["log_mebibytes"] = round(log_bytes / MEBIBYTE, 1)
    _show(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    return 0 if reached(results) else 1


def _show(results: list[dict[str, Any]]) -> None:
    for result in results:
        figures = ", ".join(
            f"{name.replace('_', ' ')} {_figure(value)}"
            for name, value in result.items()
            if name != "case"
        )
        print(f"{result['case']:<8}{figures}")  # noqa: T201  a program that reports


def _figure(value: Any) -> str:
    return f"{value:,}" if type(value) is int else str(value)


def reached(results: list[dict[str, Any]]) -> bool:
    """Tell whether both speeds and the memory are what they must be, and the books are right."""
    by_case = {result["case"]: result for result in results}
    memory = by_case.get("memory", {"growth_after_first_tenth": 0})
    return (
        by_case["v1"]["events_per_second"] >= V1_GOAL
        and by_case["stream"]["events_per_second"] >= STREAM_GOAL
        and memory["growth_after_first_tenth"] <= GROWTH_MEBIBYTES
        and by_case["books"]["equal"] is True
    )


if __name__ == "__main__":
    sys.exit(main())
