"""The command line: `python -m tests.emulator.histories [--histories 5000] [--first 0] [--seed k]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.emulator.histories.judging import differences, report

CHUNK = 100


def main() -> int:
    """Tell seeded histories and print the first that is billed wrongly; 1 when there is one."""
    options = _parser().parse_args()
    seeds = (
        [options.seed]
        if options.seed is not None
        else range(options.first, options.first + options.histories)
    )
    began, told, failed = time.monotonic(), 0, []
    for seed, found in _told(seeds, options.processes):
        told += 1
        if found:
            failed.append(seed)
            if len(failed) <= options.show:
                print(report(seed, found), flush=True)
        if failed and not options.go_on:
            break
    print(f"{told:,} histories in {time.monotonic() - began:.0f} s, {len(failed):,} billed wrongly")
    if failed:
        print(f"seeds {', '.join(map(str, failed[:100]))}")
    return bool(failed)


def _told(seeds: list[int] | range, processes: int) -> Iterator[tuple[int, list[str]]]:
    if min(processes, len(seeds)) == 1:
        yield from ((seed, differences(seed)) for seed in seeds)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from zip(seeds, pool.map(differences, seeds, chunksize=CHUNK), strict=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.emulator.histories")
    parser.add_argument("--histories", type=int, default=5_000, help="how many to tell")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first of them")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--processes", type=int, default=2, help="how many at once")
    parser.add_argument("--go-on", action="store_true", help="tell all, even when one fails")
    parser.add_argument("--show", type=int, default=1, help="how many failures to print in full")
    return parser


if __name__ == "__main__":
    sys.exit(main())
