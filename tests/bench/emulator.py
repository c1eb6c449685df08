"""The emulator as a program of its own, its log on disk: started, filled, and asked afterwards."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

import msgspec
import stripe

from stripe_emulator.core.arrivals import Arrival
from tests.bench import stack

KEY = "sk_live_emulator"
"""The key of `live_settings`: the two modes do not see each other's objects."""
ARRIVALS_PER_PAGE = 1_000
ASK_SECONDS = 120

Cell = tuple[str, str, int]
"""A customer, an event name and the start of a UTC hour in seconds."""


class _ArrivalPage(msgspec.Struct):
    arrivals: list[Arrival]
    next_after: int


@dataclass(frozen=True, slots=True)
class Emulator:
    """A running emulator with an empty account."""

    port: int
    process_id: int
    pages: msgspec.json.Decoder[_ArrivalPage] = field(
        default_factory=lambda: msgspec.json.Decoder(_ArrivalPage)
    )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def create_customers(self, count: int) -> list[str]:
        """Create so many customers through the SDK and return their ids."""
        v1 = self._sdk().v1
        return [v1.customers.create({"name": f"bench {number}"}).id for number in range(count)]

    def create_meters(self, event_names: Sequence[str]) -> list[str]:
        """Create a summing meter for each name through the SDK and return their ids."""
        v1 = self._sdk().v1
        return [
            v1.billing.meters.create(
                {
                    "display_name": name,
                    "event_name": name,
                    "default_aggregation": {"formula": "sum"},
                }
            ).id
            for name in event_names
        ]

    def set(self, **settings: Any) -> None:
        """Change settings of the emulator."""
        self._ask("POST", "/_emulator/settings", msgspec.json.encode(settings))

    def now_arrived(self) -> int:
        """Return how many requests have arrived so far."""
        return int(msgspec.json.decode(self._ask("GET", "/_emulator/health"))["arrivals"])

    def arrivals(self, *, after: int) -> Iterator[Arrival]:
        """Yield the requests that came after the first `after`, from its log."""
        while True:
            answer = self._ask(
                "GET", f"/_emulator/arrivals?after={after}&limit={ARRIVALS_PER_PAGE}"
            )
            page = self.pages.decode(answer)
            if not page.arrivals:
                return
            yield from page.arrivals
            after = page.next_after

    def violations(self) -> dict[str, int]:
        """Return how often a good client's duties were broken, by kind."""
        counts: dict[str, int] = msgspec.json.decode(self._ask("GET", "/_emulator/violations"))[
            "counts"
        ]
        return counts

    def truth(self) -> dict[Cell, tuple[int, str]]:
        """Return the events counted and their exact sum, by cell, counted again from the log."""
        truth = msgspec.json.decode(self._ask("GET", "/_emulator/truth?recount=1"))
        return {
            (cell["customer"], cell["event_name"], cell["hour"]): (cell["count"], cell["sum"])
            for cell in truth["cells"]
        }

    def _sdk(self) -> stripe.StripeClient:
        bases = ("api", "files", "connect", "meter_events")
        return stripe.StripeClient(KEY, base_addresses=dict.fromkeys(bases, self.url))

    def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        with contextlib.closing(
            HTTPConnection("127.0.0.1", self.port, timeout=ASK_SECONDS)
        ) as connection:
            connection.request(method, path, body)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise stack.BenchFailed(f"The emulator answers {answer.status}: {content[:500]!r}")
            return content


@contextlib.contextmanager
def running() -> Iterator[Emulator]:
    """Start the program on a free port, with an empty state folder; take both down afterwards.

    Raises:
        BenchFailed: it does not come up.
    """
    port = stack.free_port()
    with tempfile.TemporaryDirectory(prefix="meterkeeper-bench-emulator-") as folder:
        program = subprocess.Popen(
            [
                *(sys.executable, "-m", "stripe_emulator", "--port", str(port)),
                # Saving an account of 200,000 cells answers nobody for seconds; the log suffices.
                *("--state", folder, "--save-seconds", "3600"),
            ],
            cwd=stack.ROOT,
            start_new_session=True,
        )
        try:
            _wait_until_listening(program, port)
            yield Emulator(port, program.pid)
        finally:
            stack.stop(program)


def _wait_until_listening(program: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + stack.READY_SECONDS
    while time.monotonic() < deadline:
        if program.poll() is not None:
            raise stack.BenchFailed(f"The emulator ended at once with {program.returncode}.")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    raise stack.BenchFailed(f"The emulator did not listen within {stack.READY_SECONDS} s.")
