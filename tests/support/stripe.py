"""The emulator behind the real SDK, in process. `tests.settings.STRIPE_TRANSPORT` names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import stripe
from django.db import connection

from billing.gateway import meter_event_stream
from billing.gateway.transport import Guarded
from stripe_emulator import Emulator
from stripe_emulator.transport import InProcessTransport


class Switchboard(stripe.HTTPClient):
    """Routes the one SDK client of the process to the emulator of the running test.

    It objects to a call made inside a transaction deeper than the test's own: the network sits
    between two transactions, everywhere.
    """

    name = "switchboard"

    def __init__(self) -> None:
        super().__init__()
        self._transport: InProcessTransport | None = None
        self._depth = 0

    def connect(self, emulator: Emulator, *, sleep: Callable[[float], None] | None = None) -> None:
        """Route calls to `emulator`; with `sleep` its delays take that long."""
        # A session opened with another account is none of this one's.
        meter_event_stream._current = None
        self._transport = InProcessTransport(emulator, sleep=sleep)
        self._depth = len(connection.atomic_blocks)

    def disconnect(self) -> None:
        self._transport = None

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> Any:
        assert self._transport is not None, "Stripe was called by a test without the emulator"
        assert len(connection.atomic_blocks) <= self._depth, (
            "Stripe was called with a transaction open"
        )
        return self._transport.request(method, url, headers, post_data)

    def close(self) -> None:
        """Nothing is kept open."""


switchboard = Switchboard()


def in_process() -> stripe.HTTPClient:
    """Make the gateway's client: the switchboard behind the product's own last check."""
    return Guarded(switchboard)
