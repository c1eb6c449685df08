"""`python -m stripe_emulator`: the emulator as a program."""

import argparse
import asyncio
import logging
import os
import secrets
import sys
from pathlib import Path
from typing import NoReturn, Protocol

from stripe_emulator import manual
from stripe_emulator.arrival_file import ArrivalFile
from stripe_emulator.asgi import Application
from stripe_emulator.core.emulator import Emulator
from stripe_emulator.core.records import IdempotencyRecord, IdentifierRecord
from stripe_emulator.core.routing import API_HOST
from stripe_emulator.core.settings import Settings
from stripe_emulator.disk_records import DiskRecords
from stripe_emulator.saved_state import SAVE_EVERY_SECONDS, AnotherVersionError, SavedState
from stripe_emulator.server import PortTakenError, serve
from stripe_emulator.version import API_VERSION


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and serve."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.stream_port == options.port:
        parser.error("--stream-port is the port of --port; leave it out to serve both there")
    logging.basicConfig(
        level=options.log_level.upper(), format="%(levelname)s %(name)s %(message)s"
    )
    try:
        emulator, kept = _emulator(options)
    except AnotherVersionError as error:
        print(error, file=sys.stderr)  # noqa: T201  a sentence for the person who started it
        return 1
    for url, thin in ((options.forward_to, False), (options.forward_thin_to, True)):
        if url:
            emulator.forward(url, options.webhook_secret, thin=thin)

    def end() -> NoReturn:
        for store in kept:
            store.close()
        # Webhook threads that wait for an endpoint must not hold the process up.
        os._exit(0)

    saving = [store.run for store in kept if isinstance(store, SavedState)]
    apart = options.stream_port is not None
    application = Application(emulator, saving, host=API_HOST if apart else "")
    doors = {"--port": (application, options.port)}
    if apart:
        doors["--stream-port"] = (application.stream_door(), options.stream_port)
    try:
        asyncio.run(serve(doors, host=options.host, end=end))
    except PortTakenError as error:
        print(error, file=sys.stderr)  # noqa: T201  a sentence for the person who started it
        return 1
    return 0


class Store(Protocol):
    """Something on disk that wants to be closed."""

    def close(self) -> None: ...


def _emulator(options: argparse.Namespace) -> tuple[Emulator, list[Store]]:
    settings = Settings()
    seed = secrets.randbits(63) if options.seed is None else options.seed
    if options.state is None:
        return Emulator(seed=seed, settings=settings), []
    folder: Path = options.state
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    arrivals = ArrivalFile(folder / "arrivals.jsonl")
    identifiers = DiskRecords(folder / "identifiers.sqlite", IdentifierRecord)
    answers = DiskRecords(folder / "answers.sqlite", IdempotencyRecord)
    emulator = Emulator(
        seed=seed, settings=settings, arrivals=arrivals, identifiers=identifiers, answers=answers
    )
    saved = SavedState(folder / "account.state", emulator, every_seconds=options.save_seconds)
    saved.load()
    return emulator, [saved, arrivals, identifiers, answers]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stripe_emulator",
        description=f"A stateful Stripe for usage billing, API version {API_VERSION}.",
        epilog=manual.text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=12111, help="port to listen on (default %(default)s)"
    )
    parser.add_argument(
        "--stream-port",
        type=int,
        metavar="PORT",
        help="serve the meter event stream on this port and nowhere else, and nothing else there, "
        "as Stripe's two hosts do (default: --port serves everything)",
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="keep the arrival log and the account in this folder, and take them up again",
    )
    parser.add_argument(
        "--save-seconds",
        type=float,
        metavar="N",
        default=SAVE_EVERY_SECONDS,
        help="how often to save the account (default %(default)s): nothing is answered meanwhile, "
        "and a large one takes seconds",
    )
    parser.add_argument("--forward-to", metavar="URL", help="send every snapshot event to this URL")
    parser.add_argument(
        "--forward-thin-to", metavar="URL", help="send every thin event to this URL"
    )
    parser.add_argument(
        "--webhook-secret",
        metavar="whsec_...",
        default="whsec_emulator",
        help="what --forward-to and --forward-thin-to are signed with (default %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, help="make ids from this number (default: different on each start)"
    )
    parser.add_argument(
        "--log-level",
        default="warning",
        choices=("debug", "info", "warning", "error"),
        help="how much to say on standard error (default %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
