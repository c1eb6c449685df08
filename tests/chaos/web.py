"""`python -m tests.chaos.web [--kills 40] [--drop-replies 0.2]`: web killed while usage flows in.

The real web server, workers and all, on a database of its own. Nobody chooses the moments.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time

from tests.chaos.callers import KNOWN, Callers
from tests.chaos.ledger import Ledger
from tests.support.own_database import OwnDatabase, own_database
from tests.support.web import Web

LIVELY_REQUESTS = 8
"""So many acknowledgements since the last kill show that there is somebody to be killed."""
LIVELY_SECONDS = 60
TELL_EVERY = 10
TERMINATING = 0.4
"""The chance that connections of the database end between two kills."""
WAYS = ("one worker", "one worker", "all workers", "everything", "everything")


class Stuck(Exception):
    """Nothing was acknowledged for a minute: the server did not come back."""


def main() -> int:
    """Run, print the figures and return 1 when anything acknowledged is lost, or counted twice."""
    options = _parser().parse_args()
    server_url = os.environ.get("DATABASE_URL")
    if not server_url:
        sys.stderr.write("DATABASE_URL is not set: `make chaos` sets it.\n")
        return 2
    # Asked to end, take down the web server and the database first, as for Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    with own_database(server_url, "chaos") as database:
        from django.db import connections  # noqa: PLC0415

        from tests.chaos import audit, shop  # noqa: PLC0415 - need Django set up

        key = shop.open_shop(KNOWN)
        # So that only connections of the web server are there to be ended.
        connections.close_all()
        ledger = Ledger()
        with Web() as web:
            callers = Callers(
                port=web.port,
                key=key,
                ledger=ledger,
                seed=seed,
                count=options.callers,
                drop_replies=options.drop_replies,
            )
            callers.start()
            try:
                _kill(web, database, ledger, random.Random(seed), kills=options.kills)
            finally:
                callers.stop()
        _wait_for_silence(database)
        verdict = audit.audit(ledger)
    for name, count in sorted(ledger.counts.items()):
        print(f"  {name:32} {count:>10,}")
    for name in ("acknowledged", "stored", "unacknowledged", "units", "lost", "double"):
        print(f"  {TITLES.get(name, name):32} {getattr(verdict, name):>10,}")
    print(f"  {'seconds':32} {time.monotonic() - began:>10,.0f}")
    for finding in verdict.findings:
        print(f"FOUND {finding}")
    return 1 if verdict.findings else 0


TITLES = {
    "acknowledged": "acknowledged events",
    "stored": "stored events",
    "unacknowledged": "stored, not acknowledged",
    "units": "units counted",
}


def _kill(
    web: Web, database: OwnDatabase, ledger: Ledger, draw: random.Random, *, kills: int
) -> None:
    """Kill one worker, all of them or the whole server, each time while answers come."""
    for number in range(1, kills + 1):
        _wait_until_lively(ledger, web)
        time.sleep(draw.uniform(0, 0.5))
        if draw.random() < TERMINATING:
            pids = database.connections()
            for pid in draw.sample(pids, min(2, len(pids))):
                database.terminate(pid)
                ledger.count("connections terminated")
            time.sleep(draw.uniform(0, 0.2))
        way = draw.choice(WAYS)
        ledger.count(f"killed {way}")
        ledger.count("kills")
        if way == "everything":
            web.kill_all()
            web.start()
        else:
            workers = web.workers()
            for pid in workers if way == "all workers" else draw.sample(workers, 1):
                web.kill(pid)
        if number % TELL_EVERY == 0:
            sys.stderr.write(f"{number} of {kills} kills\n")
    _wait_until_lively(ledger, web)


def _wait_until_lively(ledger: Ledger, web: Web) -> None:
    wanted = ledger.counts["acknowledged requests"] + LIVELY_REQUESTS
    deadline = time.monotonic() + LIVELY_SECONDS
    while ledger.counts["acknowledged requests"] < wanted:
        if web.has_ended():
            # Where a worker dies twice at once granian gives up; what runs the Procfile starts it.
            ledger.count("servers that gave up")
            web.start()
        if time.monotonic() > deadline:
            raise Stuck(web.log())
        time.sleep(0.02)


def _wait_for_silence(database: OwnDatabase) -> None:
    """Wait until the server processes of dead clients have come to an end, too."""
    deadline = time.monotonic() + LIVELY_SECONDS
    while database.connections():
        if time.monotonic() > deadline:
            raise Stuck("a connection of a dead web server stays open")
        time.sleep(0.05)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.web")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--drop-replies", type=float, default=0.2, help="share of requests")
    parser.add_argument("--callers", type=int, default=6, help="threads that send")
    parser.add_argument("--seed", type=int, help="of what is drawn; the moments are not")
    return parser


if __name__ == "__main__":
    sys.exit(main())
