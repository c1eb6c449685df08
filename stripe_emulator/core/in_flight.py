"""Calls whose answer has not left yet: who they are for, and which idempotency keys they hold."""

from collections import Counter
from typing import Any

from stripe_emulator.core.errors import ApiError
from stripe_emulator.core.usage_rules import customer_of
from stripe_emulator.core.violations import Violation
from stripe_emulator.core.world import World

Pair = tuple[str, str, bool]


class InFlight:
    """What is under way, by ticket."""

    def __init__(self) -> None:
        self._tickets: dict[int, tuple[Pair | None, list[str]]] = {}
        self._pairs: Counter[Pair] = Counter()
        self._last = 0

    def begin(self, keys: list[str], pair: Pair | None = None) -> int:
        """Return a ticket for a call that holds these idempotency keys."""
        self._last += 1
        self._tickets[self._last] = (pair, keys)
        if pair is not None:
            self._pairs[pair] += 1
        return self._last

    def enter_pair(
        self, world: World, params: dict[str, Any], *, livemode: bool, keys: list[str]
    ) -> int:
        """Return a ticket for a meter event call.

        A second one for the same customer and meter is a violation, and perhaps refused.
        """
        event_name = params["event_name"]
        meter = world.meter_names.get((event_name, livemode))
        customer = customer_of(meter, params["payload"])
        if customer is None:
            return self.begin(keys)
        pair = (customer, event_name, livemode)
        if self._pairs[pair]:
            detail = {"customer": customer, "event_name": event_name}
            world.violations.add(
                Violation("two_calls_in_flight", world.clock.now(), world.cause.arrival, detail)
            )
            if world.settings.one_call_per_pair:
                raise ApiError(
                    429,
                    "Only one meter event call at a time is allowed for a customer and meter.",
                    code="too_many_concurrent_requests",
                    headers={"Stripe-Rate-Limited-Reason": "resource-specific"},
                    started=False,
                )
        return self.begin(keys, pair)

    def end(self, ticket: int) -> list[str]:
        """Return the idempotency keys the finished call held."""
        pair, keys = self._tickets.pop(ticket, (None, []))
        if pair is not None:
            self._pairs[pair] -= 1
            if not self._pairs[pair]:
                del self._pairs[pair]
        return keys
