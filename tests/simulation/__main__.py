"""The command line: `python -m tests.simulation [--seeds 2000 | --seed 7] [--steps 60]`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import django

from tests.simulation.worker import Result, one, settle_in

TELL_EVERY = 50


def main() -> int:
    """Run seeded examples on databases of their own; print totals, and what replays a failure."""
    options = _parser().parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    if not os.environ.get("DATABASE_URL"):
        sys.stderr.write("DATABASE_URL is not set: `make simulate` sets it.\n")
        return 2
    seeds = (
        [options.seed]
        if options.seed is not None
        else list(range(options.first, options.first + options.seeds))
    )
    processes = min(options.processes, len(seeds))
    # Asked to end, drop the databases first, as for Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    django.setup()
    names = _make_databases(processes)
    began = time.monotonic()
    try:
        results = _run(seeds, names, options)
    finally:
        _drop_databases(names)
    return _tell(results, wanted=len(seeds), steps=options.steps, seconds=time.monotonic() - began)


def _run(seeds: Sequence[int], names: Sequence[str], options: argparse.Namespace) -> list[Result]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    for name in names:
        queue.put(name)
    results: list[Result] = []
    with ProcessPoolExecutor(
        len(names), mp_context=context, initializer=settle_in, initargs=(queue,)
    ) as pool:
        pending = [pool.submit(one, seed, options.steps, options.shrink) for seed in seeds]
        began = time.monotonic()
        for done in as_completed(pending):
            result = done.result()
            results.append(result)
            if result.failure:
                print(result.failure, flush=True)
                if not options.go_on:
                    pool.shutdown(cancel_futures=True)
                    break
            if len(results) % TELL_EVERY == 0:
                failed = sum(bool(each.failure) for each in results)
                print(
                    f"{len(results)} of {len(seeds)} seeds, {failed} failed,"
                    f" {time.monotonic() - began:.0f} s",
                    flush=True,
                )
    return results


def _make_databases(count: int) -> list[str]:
    from django.db import connection  # noqa: PLC0415

    base = f"{connection.settings_dict['NAME']}_simulation_{os.getpid()}"
    connection.settings_dict["TEST"]["NAME"] = f"{base}_0"
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    connection.close()
    names = [f"{base}_{number}" for number in range(count)]
    with connection.creation._nodb_cursor() as cursor:
        for name in names[1:]:
            cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE "{names[0]}"')
    return names


def _drop_databases(names: Sequence[str]) -> None:
    from django.db import connection  # noqa: PLC0415

    connection.close()
    with connection.creation._nodb_cursor() as cursor:
        for name in names:
            cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _tell(results: Sequence[Result], *, wanted: int, steps: int, seconds: float) -> int:
    totals: Counter[str] = Counter()
    for result in results:
        totals.update(result.counts)
    failed = [result.seed for result in results if result.failure]
    print(f"\n{len(results)} of {wanted} seeds, {steps} steps each, {seconds:.0f} s")
    for name, count in sorted(totals.items()):
        print(f"  {name:32} {count:>10,}")
    if failed:
        print(f"  failed: {', '.join(map(str, sorted(failed)))}")
        return 1
    print(f"  {'over-billed':32} {0:>10}\n  {'lost unflagged':32} {0:>10}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=50, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this seed alone")
    parser.add_argument("--steps", type=int, default=60, help="steps of each, before it is at rest")
    parser.add_argument("--processes", type=int, default=2, help="how many run at once")
    parser.add_argument("--go-on", action="store_true", help="run all, even when one fails")
    parser.add_argument("--shrink", action=argparse.BooleanOptionalAction, default=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
