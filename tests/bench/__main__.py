"""The command line: `python -m tests.bench [case ...] [--repeats 5] [--json PATH]`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import connections

from tests.bench import harness, machine, report, stack
from tests.bench.cases import CASES
from tests.bench.variants import Sample


def main() -> int:
    """Run the cases named, or all; print their tables and keep the figures as JSON."""
    options = _parser().parse_args()
    # Asked to end, take down the web server and the database first, as for Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    server_url = os.environ.get("DATABASE_URL")
    if not server_url:
        sys.stderr.write("DATABASE_URL is not set: `make bench` sets it, to a throwaway server.\n")
        return 2
    facts = machine.facts(database_url=server_url)
    results: dict[str, Any] = {}
    try:
        with stack.bench_environment(server_url):
            for name in options.cases or list(CASES):
                results[name] = _run(name, server_url, options)
    except stack.BenchFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    facts["load_after"] = machine.load()
    print(f"\n{machine.as_text(facts)}")
    path = _result_path(options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": facts, "cases": results}, indent=1) + "\n")
    print(f"All samples: {path}")
    return 0


def _run(name: str, server_url: str, options: argparse.Namespace) -> dict[str, Any]:
    case = importlib.import_module(CASES[name])
    samples: list[Sample] = []

    def tell(sample: Sample) -> None:
        sys.stderr.write(
            f"{name} {sample.repeat}/{options.repeats} {sample.variant}:"
            f" {sample.events_per_second:,.0f} events/s in {sample.seconds:.1f} s\n"
        )

    with stack.bench_database(server_url) as backends:
        try:
            call_command("migrate", verbosity=0)
            with case.variants(scale=options.scale, backends=backends) as variants:
                samples = harness.measure(variants, repeats=options.repeats, on_sample=tell)
                rows = report.summarise(variants, samples)
        finally:
            connections.close_all()
        print(f"\n## {name}: median (lowest-highest) of {options.repeats}\n")
        print(report.table(rows))
        print(
            "\nµs: CPU per event, of our processes (app), the database's backends and what stands around."
        )
        if not backends.can_be_read:
            print("The database's CPU is left out: its processes are not on this machine.")
    return report.as_json(rows, samples)


def _result_path(options: argparse.Namespace) -> Path:
    if options.json:
        return Path(options.json)
    names = "-".join(options.cases or CASES)
    return stack.ROOT / "bench-results" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{names}.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; all")
    parser.add_argument("--repeats", type=_positive, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the events per run")
    parser.add_argument("--json", help="where to keep the figures (bench-results/)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
