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
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from billing_project.local_stack.ports import LOOPBACK
from billing_project.local_stack.state import StateFolder

ADMIN = "admin"

DELIVERY_PATIENCE_SECONDS = 150.0
"""A first tick of beat, a flush and a delivery pass, at the slowest intervals the stack uses."""

POLL_SECONDS = 2.0

IN_FLIGHT = frozenset({"ready", "sending", "retry", "in_doubt"})
"""States of a submission that the delivery pass still works on; DESIGN section 5."""


class DemoFailedError(Exception):
    """A step of the demo went wrong, and the message says which."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What `replay` says it sent over HTTP, and what the API made of it."""

    events: int
    context_tokens: int
    generated_tokens: int
    accepted: int
    duplicates: int

    @property
    def tokens(self) -> int:
        """Return the tokens of all calls, those sent before included."""
        return self.context_tokens + self.generated_tokens


def main() -> int:
    """Play the demo and return 0 only if every check held."""
    options = _parser().parse_args()
    try:
        _play(options)
    except DemoFailedError as failure:
        print(f"\nThe demo failed: {failure}", flush=True)
        print(f"The logs are in {os.environ['STATE_DIR']}/log/.", flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _play(options: argparse.Namespace) -> None:
    password = StateFolder(Path(os.environ["STATE_DIR"])).secrets()["ADMIN_PASSWORD"]
    _make_admin(password)
    key = _issue_key()
    before = _books()

    _tell("Replaying LLM calls through the HTTP API")
    sent = _replay(options, key)
    print(
        f"  {_count(sent.events, 'call')}, {sent.context_tokens:,} context and "
        f"{sent.generated_tokens:,} generated tokens: {sent.accepted:,} stored, "
        f"{_count(sent.duplicates, 'duplicate')}",
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
    _close(password, stays_up=options.stays_up)


# -- steps


def _make_admin(password: str) -> None:
    account = {
        "DJANGO_SUPERUSER_USERNAME": ADMIN,
        "DJANGO_SUPERUSER_EMAIL": "admin@example.com",
        "DJANGO_SUPERUSER_PASSWORD": password,
    }
    made = _run("createsuperuser", "--noinput", environment=account)
    if made.returncode and "already taken" not in made.stderr:
        raise DemoFailedError(f"the admin account could not be made: {_last_line(made.stderr)}")


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
    return Sent(
        events=int(said["events"]),
        context_tokens=int(said["context_tokens"]),
        generated_tokens=int(said["generated_tokens"]),
        accepted=int(said["accepted"]),
        duplicates=int(said["duplicates"]),
    )


def _wait_for_delivery() -> dict[str, Any]:
    deadline = time.monotonic() + DELIVERY_PATIENCE_SECONDS
    while True:
        books = _books()
        waiting = sum(_waiting(meter) for meter in books["meters"])
        if not waiting:
            return books
        if time.monotonic() > deadline:
            raise DemoFailedError(
                f"{waiting:,} units were still on their way after "
                f"{DELIVERY_PATIENCE_SECONDS:.0f} s; look at worker.log"
            )
        print(f"  {waiting:,} units on their way", flush=True)
        time.sleep(POLL_SECONDS)


def _waiting(meter: Mapping[str, Any]) -> Decimal:
    states: Mapping[str, str] = meter["states"]
    in_flight = sum((Decimal(states.get(state, "0")) for state in IN_FLIGHT), Decimal(0))
    return Decimal(meter["unflushed"]) + in_flight


def _check(sent: Sent, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Hold what was sent, our books and the emulator's own count against each other.

    Raises:
        DemoFailedError: they differ.
    """
    if sent.accepted + sent.duplicates != sent.events:
        raise DemoFailedError(
            f"of {sent.events:,} calls {sent.accepted:,} were stored and {sent.duplicates:,} known"
        )
    added = int(after["events"]) - int(before["events"])
    if added != sent.accepted:
        raise DemoFailedError(
            f"{sent.accepted:,} calls were stored but the books grew by {added:,}"
        )
    emulator = os.environ.get("STRIPE_EMULATOR_URL")
    if emulator:
        _check_against_emulator(emulator, sent, before, after)


def _check_against_emulator(
    emulator: str, sent: Sent, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    with urllib.request.urlopen(f"{emulator}/_emulator/truth", timeout=30) as answer:  # noqa: S310  # our own address
        truth = json.load(answer)["event_names"]
    counted = {name: Decimal(tally["sum"]) for name, tally in truth.items()}
    recorded = _recorded(after)
    if sum(counted.values()) != sum(recorded.values()):
        raise DemoFailedError(
            f"the emulator itself counted {sum(counted.values()):,} units, the books say "
            f"{sum(recorded.values()):,}"
        )
    grown = sum(recorded.values()) - sum(_recorded(before).values())
    expected = {sent.events: sent.tokens, 0: 0}.get(sent.accepted)
    if expected is not None and grown != expected:
        raise DemoFailedError(f"{expected:,} tokens were sent but {grown:,} recorded")
    print(
        f"  The emulator's own arrival log adds up to the same {sum(counted.values()):,} units.",
        flush=True,
    )


def _recorded(books: Mapping[str, Any]) -> dict[str, Decimal]:
    return {meter["meter"]: Decimal(meter["recorded"]) for meter in books["meters"]}


def _close(password: str, *, stays_up: bool) -> None:
    _tell("Every unit of usage is at Stripe, once.")
    if not stays_up:
        return
    ours = f"http://{LOOPBACK}:{os.environ['PORT']}"
    user, _, flower_password = os.environ["FLOWER_BASIC_AUTH"].partition(":")
    rows = [
        ("Admin", f"{ours}/admin/", f"{ADMIN} / {password}"),
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
    print("\n  Try, in another terminal:")
    for command, purpose in (
        ("make books", "the books again, beside Stripe's totals"),
        ("make demo", "after Ctrl-C here: the same calls again, and nothing is billed twice"),
        ("make help", "everything else"),
    ):
        print(f"    {command:<14} {purpose}")
    print("\n  Stop with Ctrl-C; `make clean` forgets everything.", flush=True)


# -- manage.py


def _books() -> dict[str, Any]:
    made = _run("books", "--json")
    try:
        books: dict[str, Any] = json.loads(made.stdout)
    except ValueError:
        raise DemoFailedError(f"the books cannot be read: {_last_line(made.stderr)}") from None
    return books


def _manage(*arguments: str) -> None:
    if subprocess.run(_command(*arguments), check=False).returncode:
        raise DemoFailedError(f"`manage.py {' '.join(arguments)}` says no, see above")


def _run(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "manage.py", *arguments]


# -- words


def _tell(text: str) -> None:
    print(f"\n{text}", flush=True)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
