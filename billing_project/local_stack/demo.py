"""`demo`: what a person would do by hand with a running stack, and the checks at the end.

Runs as the launcher's foreground command, so the usage it sends is flushed and delivered by the
stack's own workers. It speaks to the product over HTTP and through `manage.py` only.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from billing_project.local_stack import admin_account
from billing_project.local_stack.ports import LOOPBACK

DELIVERY_PATIENCE_SECONDS = 150.0
"""A first tick of beat, a flush and a delivery pass, at the slowest intervals the stack uses."""

POLL_SECONDS = 2.0

IN_FLIGHT = frozenset({"ready", "sending", "retry", "in_doubt"})
"""States of a submission that the delivery pass still works on; DESIGN section 5."""


DEFAULT_METERS = {
    "ai_tokens": ("context_tokens", "cached_tokens", "generated_tokens"),
    "input_tokens": ("context_tokens",),
    "cached_input_tokens": ("cached_tokens",),
    "output_tokens": ("generated_tokens",),
    "llm_calls": ("events",),
}
"""Which of the replay's sums each meter of the default catalogue must show."""

EVENT_NAME_PREFIX = "meterkeeper_"
"""What the default catalogue's event names have before the meter's slug."""


class DemoFailedError(Exception):
    """A step of the demo went wrong, and the message says which."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What `replay` says it sent over HTTP, and what the API made of it."""

    events: int
    context_tokens: int
    cached_tokens: int
    generated_tokens: int
    accepted: int
    duplicates: int

    def of(self, fields: tuple[str, ...]) -> int:
        """Add up some of the sums."""
        return sum(int(getattr(self, name)) for name in fields)


@dataclass(frozen=True, slots=True)
class Books:
    """What `books --json` says: stored events, and per meter the recorded and the moving units."""

    events: int
    recorded: dict[str, Decimal]
    waiting: Decimal


def main() -> int:
    """Play the demo and return 0 only if every check held."""
    options = _parser().parse_args()
    try:
        _play(options)
    except DemoFailedError as failure:
        print(f"\nThe demo failed: {failure}", flush=True)
        print(f"The logs are in {os.environ['STATE_DIR']}/log/.", flush=True)
        if options.stays_up:
            print("The system stays up, to look around in. Stop with Ctrl-C.", flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _play(options: argparse.Namespace) -> None:
    if trouble := admin_account.ensure():
        raise DemoFailedError(f"the admin account could not be made: {trouble}")
    key = _issue_key()
    before = _read_books()

    _tell("Replaying LLM calls through the HTTP API")
    sent = _replay(options, key)
    print(
        f"  {sent.accepted:,} stored, {sent.duplicates:,} known already; "
        f"{sent.context_tokens:,} context, {sent.cached_tokens:,} cached and "
        f"{sent.generated_tokens:,} generated tokens",
        flush=True,
    )

    _tell("Waiting for the workers to flush and deliver")
    after = _wait_for_delivery()

    _tell("Comparing every hour with Stripe")
    since = (datetime.now(UTC) - timedelta(hours=24)).isoformat(timespec="seconds")
    _manage("reconcile", "--since", since)

    _tell("The books")
    _manage("books", "--at-rest")
    _check(sent, before, after)
    _close(stays_up=options.stays_up, has_trace=bool(options.trace))


# -- steps


def _issue_key() -> str:
    made = _run("issue_api_key", "--source", "demo", "--scopes", "ingest,read,manage")
    if made.returncode:
        raise DemoFailedError(f"no API key could be issued: {_last_line(made.stderr)}")
    return made.stdout.strip().splitlines()[-1]


def _replay(options: argparse.Namespace, key: str) -> Sent:
    # stderr passes through: the progress bar is there.
    command = _command("replay")
    if options.trace:
        command.append(options.trace)
    command += ["--api-url", f"http://{LOOPBACK}:{os.environ['PORT']}", "--api-key", key]
    if options.customers:
        command += ["--customers", str(options.customers)]
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if made.returncode:
        raise DemoFailedError("the replay did not get through, see above")
    said = json.loads(made.stdout.strip().splitlines()[-1])
    return Sent(**{field.name: int(said[field.name]) for field in fields(Sent)})


def _wait_for_delivery() -> Books:
    deadline = time.monotonic() + DELIVERY_PATIENCE_SECONDS
    progress = Progress()
    while (books := _read_books()).waiting:
        if time.monotonic() > deadline:
            progress.end()
            raise DemoFailedError(
                f"{books.waiting:,} units were still on their way after "
                f"{DELIVERY_PATIENCE_SECONDS:.0f} s; look at worker.log"
            )
        progress.show(f"  {books.waiting:,} units on their way")
        time.sleep(POLL_SECONDS)
    progress.show("  0 units on their way")
    progress.end()
    return books


def _read_books() -> Books:
    made = _run("books", "--json", "--no-stripe")
    try:
        said = json.loads(made.stdout)
    except ValueError:
        raise DemoFailedError(f"the books cannot be read: {_last_line(made.stderr)}") from None
    meters: list[dict[str, Any]] = said["meters"]
    return Books(
        events=int(said["events"]),
        recorded={meter["meter"]: Decimal(meter["recorded"]) for meter in meters},
        waiting=sum((_waiting(meter) for meter in meters), Decimal(0)),
    )


def _waiting(meter: Mapping[str, Any]) -> Decimal:
    in_flight = sum((Decimal(meter["states"].get(state, "0")) for state in IN_FLIGHT), Decimal(0))
    return Decimal(meter["unflushed"]) + in_flight


def _check(sent: Sent, before: Books, after: Books) -> None:
    """Hold what was sent, our books and the emulator's own count against each other.

    Raises:
        DemoFailedError: they differ.
    """
    if sent.accepted + sent.duplicates != sent.events:
        raise DemoFailedError(
            f"of {sent.events:,} calls {sent.accepted:,} were stored and {sent.duplicates:,} known"
        )
    if after.events - before.events != sent.accepted:
        raise DemoFailedError(
            f"{sent.accepted:,} calls were stored but the books grew by "
            f"{after.events - before.events:,}"
        )
    # Of a trace whose first part was known already, the sums say nothing.
    if sent.accepted in {0, sent.events}:
        _check_sums(sent, before, after)
    if emulator := os.environ.get("STRIPE_EMULATOR_URL"):
        _check_against_emulator(emulator, after)


def _check_sums(sent: Sent, before: Books, after: Books) -> None:
    expected = {slug: sent.of(meter) for slug, meter in DEFAULT_METERS.items()}
    for slug in expected.keys() & after.recorded.keys():
        grown = after.recorded[slug] - before.recorded.get(slug, 0)
        wanted = expected[slug] if sent.accepted else 0
        if grown != wanted:
            raise DemoFailedError(f"meter {slug} grew by {grown:,} where {wanted:,} were sent")
    if not expected.keys() & after.recorded.keys():
        raise DemoFailedError("the books know none of the meters of the default catalogue")
    print("  Every meter grew by exactly what was sent.", flush=True)


def _check_against_emulator(emulator: str, after: Books) -> None:
    with urllib.request.urlopen(f"{emulator}/_emulator/truth", timeout=30) as answer:  # noqa: S310  # our own address
        truth = json.load(answer)["event_names"]
    counted = {name: Decimal(tally["sum"]) for name, tally in truth.items() if tally["count"]}
    for slug in DEFAULT_METERS.keys() & after.recorded.keys():
        theirs = counted.get(EVENT_NAME_PREFIX + slug, Decimal(0))
        if theirs != after.recorded[slug]:
            raise DemoFailedError(
                f"of meter {slug} the emulator itself counted {theirs:,}, the books say "
                f"{after.recorded[slug]:,}"
            )
    if sum(counted.values()) != sum(after.recorded.values()):
        raise DemoFailedError(
            f"the emulator counted {sum(counted.values()):,} units in all, the books "
            f"{sum(after.recorded.values()):,}"
        )
    print("  The emulator's own arrival log adds up to the same.", flush=True)


def _close(*, stays_up: bool, has_trace: bool) -> None:
    _tell("Every unit of usage is at Stripe, once.")
    if not stays_up:
        return
    ours = f"http://{LOOPBACK}:{os.environ['PORT']}"
    password = admin_account.password(Path(os.environ["STATE_DIR"]))
    user, _, flower_password = os.environ["FLOWER_BASIC_AUTH"].partition(":")
    rows = [
        ("Admin", f"{ours}/admin/", f"{admin_account.ADMIN} / {password}"),
        ("API docs", f"{ours}/api/docs", ""),
        (
            "Flower",
            f"http://{LOOPBACK}:{os.environ['FLOWER_PORT']}/",
            f"{user} / {flower_password}",
        ),
    ]
    if emulator := os.environ.get("STRIPE_EMULATOR_URL"):
        rows.append(("Stripe emulator", f"{emulator}/", ""))
    for name, address, login in rows:
        print(f"  {name:<16} {address:<32} {login}".rstrip())
    same = ", with the same TRACE" if has_trace else ""
    print("\n  Try, in another terminal:")
    for command, purpose in (
        ("make books", "the books again, beside Stripe's totals"),
        ("make demo", f"after Ctrl-C here{same}: no call is billed twice"),
        ("make help", "everything else"),
    ):
        print(f"    {command:<14} {purpose}")
    print("\n  Stop with Ctrl-C; `make clean` forgets everything.", flush=True)


# -- manage.py


def _manage(*arguments: str) -> None:
    if subprocess.run(_command(*arguments), check=False).returncode:
        raise DemoFailedError(f"`manage.py {' '.join(arguments)}` says no, see above")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(*arguments), capture_output=True, text=True, check=False)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "manage.py", *arguments]


# -- words


class Progress:
    """One line that is written over on a terminal; elsewhere, a line for each change."""

    def __init__(self) -> None:
        self._shown = ""
        self._overwrites = sys.stdout.isatty()

    def show(self, text: str) -> None:
        """Show where things stand."""
        if text == self._shown:
            return
        if self._overwrites:
            print(f"\r{text:<{len(self._shown)}}", end="", flush=True)
        else:
            print(text, flush=True)
        self._shown = text

    def end(self) -> None:
        """Go on below it."""
        if self._overwrites and self._shown:
            print(flush=True)


def _tell(text: str) -> None:
    print(f"\n{text}", flush=True)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it gave no reason"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m billing_project.local_stack.demo")
    parser.add_argument("--trace", help="CSV of TIMESTAMP, ContextTokens, GeneratedTokens")
    parser.add_argument("--customers", type=int)
    parser.add_argument("--stays-up", action="store_true", help="tell where to look afterwards")
    return parser


if __name__ == "__main__":
    sys.exit(main())
