"""The command line: `python -m tests.hostile [--bodies 5000] [--over-socket 1000] [--places 1000]`."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import replace

from hypothesis import HealthCheck, given, seed, settings

from tests.hostile.callers import Caller, InProcess, OverSocket
from tests.support.own_database import own_database
from tests.support.web import Web

WARM_UP = 0.2
"""The share of the bodies after which memory is first read: by then every path was taken once."""
GROWTH_BYTES = 48 * 1024 * 1024
"""How much the workers together may have grown by the end: one body's worth for each thread."""


def main() -> int:
    """Throw bodies at the API and print what came back; 1 when anything was not as it must be."""
    options = _parser().parse_args()
    server_url = os.environ.get("DATABASE_URL")
    if not server_url:
        sys.stderr.write("DATABASE_URL is not set: `make hostile` sets it.\n")
        return 2
    # Asked to end, drop the database first, as for Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    drawn = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {drawn}", flush=True)
    with own_database(server_url, "hostile"):
        from tests.hostile import shop  # noqa: PLC0415 - needs Django set up

        shop.make_catalogue()
        _in_process(options.bodies, drawn)
        _places(options.places)
        if options.over_socket:
            _over_socket(options.over_socket, drawn)
    print("every answer is true, and what is stored is what was told")
    return 0


def _in_process(count: int, drawn: int) -> None:
    if count:
        _tell(f"{count:,} bodies in process", *_run(InProcess(), count, drawn))


def _places(count: int) -> None:
    from tests.hostile import positions, shop  # noqa: PLC0415

    caller = InProcess()
    began = time.monotonic()
    for position in range(count):
        positions.check(caller, position)
        if position % 50 == 49:
            shop.empty()
    if count:
        print(
            f"a bad event at each of {count:,} places of a batch of 1,000: every neighbour stored,"
            f" {time.monotonic() - began:.0f} s",
            flush=True,
        )


def _over_socket(count: int, drawn: int) -> None:
    from tests.hostile import framing  # noqa: PLC0415

    with Web() as web:
        caller = OverSocket(web.port)
        workers = web.workers()
        warm = max(1, int(count * WARM_UP))
        _run(caller, warm, drawn + 1)
        before = web.resident_bytes()
        _tell(f"{count:,} bodies over a socket", *_run(caller, count, drawn + 2))
        told = framing.check_all(caller, told=lambda line: print(f"    {line}"))
        framing.check_slow_and_pipelined(web.port)
        grown = web.resident_bytes() - before
        print(f"{told} broken framings; workers {before >> 20} MiB, then {grown / 2**20:+.1f} MiB")
        if web.workers() != workers:
            raise SystemExit(f"a worker died: {workers}, then {web.workers()}\n{web.log()}")
        if grown > GROWTH_BYTES:
            raise SystemExit(f"the workers grew by {grown:,} bytes")


def _run(caller: Caller, count: int, drawn: int) -> tuple[Counter[str], float]:
    from tests.hostile import bodies, shop  # noqa: PLC0415

    requests = bodies.requests()
    if isinstance(caller, OverSocket):
        requests = requests.map(lambda request: replace(request, length=None))
    statuses: Counter[str] = Counter()
    began = time.monotonic()

    @seed(drawn)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(request=requests)
    def every(request):
        answer = shop.examine(caller, request)
        statuses[str(answer.status) if answer else "refused by the server"] += 1

    every()
    return statuses, time.monotonic() - began


def _tell(what: str, statuses: Counter[str], seconds: float) -> None:
    answers = ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))
    print(f"{what}, each sent twice: {answers}; {seconds:.0f} s", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile")
    parser.add_argument("--bodies", type=int, default=5_000, help="to draw, in process")
    parser.add_argument("--over-socket", type=int, default=1_000, help="to draw, to a web server")
    parser.add_argument("--places", type=int, default=1_000, help="of a bad event in a batch")
    parser.add_argument("--seed", type=int, help="of the draws")
    return parser


if __name__ == "__main__":
    sys.exit(main())
