"""One emulated account: a request goes in, a reply comes out, and everything is written down.

Not thread-safe; a transport that is used by several threads holds a lock around it. What happens
to a request on its way stands in `exchange`.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

from stripe_emulator.core import billed, webhook_endpoints, webhooks
from stripe_emulator.core.arrivals import Arrival, ArrivalLog, MemoryArrivals
from stripe_emulator.core.billing.checkout_completion import CannotCompleteError, complete
from stripe_emulator.core.billing.confirmations import confirm
from stripe_emulator.core.billing.declines import told
from stripe_emulator.core.clock import Clock
from stripe_emulator.core.collection import Object
from stripe_emulator.core.deliveries import Delivery
from stripe_emulator.core.due import catch_up
from stripe_emulator.core.exchange import Exchange
from stripe_emulator.core.faults import Faults
from stripe_emulator.core.idempotency import Idempotency
from stripe_emulator.core.ids import Ids
from stripe_emulator.core.in_flight import InFlight
from stripe_emulator.core.parts import Parts
from stripe_emulator.core.records import IdempotencyRecord, IdentifierRecord, MemoryRecords, Records
from stripe_emulator.core.settings import Settings
from stripe_emulator.core.settling import count_again
from stripe_emulator.core.snapshots import Snapshot, packed, unpacked
from stripe_emulator.core.truth import Truth
from stripe_emulator.core.wire import Reply, Request
from stripe_emulator.core.world import World


class Emulator:
    """The core behind every transport.

    The same seed, clock and requests give the same answers. `arrivals`, `identifiers` and
    `answers` are what grows with traffic; they stay in memory unless something that keeps them on
    a disk is given.
    """

    def __init__(  # noqa: PLR0913  everything from outside comes in here
        self,
        *,
        now: Callable[[], float] = time.time,
        seed: int = 0,
        settings: Settings | None = None,
        arrivals: ArrivalLog | None = None,
        identifiers: Records[IdentifierRecord] | None = None,
        answers: Records[IdempotencyRecord] | None = None,
    ) -> None:
        clock = Clock(now)
        self._seed = seed
        self._settings = settings or Settings()
        self._forwards: list[tuple[str, str, bool]] = []
        known = MemoryRecords(IdentifierRecord) if identifiers is None else identifiers
        given = MemoryRecords(IdempotencyRecord) if answers is None else answers
        self._parts = Parts(
            clock=clock,
            world=self._new_world(clock, known),
            arrivals=MemoryArrivals() if arrivals is None else arrivals,
            identifiers=known,
            idempotency=Idempotency(given),
        )

    @property
    def clock(self) -> Clock:
        """Move it, freeze it: `emulator.clock.advance(3600)`."""
        return self._parts.clock

    @property
    def settings(self) -> Settings:
        """Change them: `emulator.settings.change(settle_lag_seconds=60)`."""
        return self._parts.world.settings

    @property
    def faults(self) -> Faults:
        """Break things: `emulator.faults.switch_on("answer_lost", count=1)`."""
        return self._parts.faults

    @property
    def arrivals(self) -> ArrivalLog:
        """Every request so far."""
        return self._parts.arrivals

    @property
    def truth(self) -> Truth:
        """What was accepted, from the arrivals alone."""
        return self._parts.truth

    def billed(self, *, customer: str | None = None) -> dict[str, Any]:
        """Return what of the accepted usage is on which invoice, and why the rest is on none."""
        catch_up(self.world)
        return billed.books(self.world, self.arrivals, customer=customer)

    @property
    def world(self) -> World:
        """The account itself, with the violations seen."""
        return self._parts.world

    def handle(self, request: Request) -> Reply:
        """Answer a request as if nobody else were calling meanwhile."""
        reply = self.begin(request)
        self.finish(reply)
        return reply

    def begin(self, request: Request) -> Reply:
        """Answer a request that stays in flight until `finish` is given its reply."""
        catch_up(self.world)
        return Exchange(self._parts, request).run()

    def finish(self, reply: Reply) -> None:
        """Note that a reply has left, or that its connection is gone."""
        self._parts.leave(reply.ticket)

    def forward(self, url: str, secret: str, *, thin: bool = False) -> None:
        """Send every event of the kind to `url`, in both modes, also after a reset.

        A second call for the same URL changes its secret; the setting `rolled_secret_seconds` says
        how long the former one signs too.
        """
        known = [each for each in self._forwards if (each[0], each[2]) != (url, thin)]
        if len(known) < len(self._forwards):
            for endpoint in self.world.webhook_endpoints:
                if (endpoint["url"], endpoint["_thin"]) == (url, thin):
                    webhook_endpoints.roll(self.world, endpoint, secret)
        else:
            self._register_forward(self.world, url, secret, thin=thin)
        self._forwards = [*known, (url, secret, thin)]

    def pop_deliveries(self) -> list[Delivery]:
        """Return the webhook deliveries that are due, each with url, headers and body.

        Tell `report_delivery` how each went; an unreported one is not repeated.
        """
        catch_up(self.world)
        return webhooks.take_due(self.world, self.faults)

    def report_delivery(self, delivery: Delivery, status: int) -> None:
        """Record an endpoint's answer; 0 stands for none. Failures are repeated later."""
        webhooks.report(self.world, delivery, status)

    def confirm(
        self,
        client_secret: str,
        payment_method: str | None = None,
        *,
        authenticated: bool | None = None,
    ) -> Object:
        """Do what a person does in a browser: keep or charge a card; see `confirmations`."""
        catch_up(self.world)
        return confirm(self.world, client_secret, payment_method, authenticated=authenticated)

    def complete_checkout(
        self,
        session: str,
        payment_method: str | None = "pm_card_visa",
        *,
        email: str | None = None,
        authenticated: bool | None = None,
    ) -> Object:
        """Do what a person does on a Checkout page; see `checkout_completion`."""
        catch_up(self.world)
        found = self.world.checkout_sessions.find(session)
        if found is None:
            raise CannotCompleteError(f"There is no Checkout session {session}.")
        outcome = complete(
            self.world, found, payment_method, email=email, authenticated=authenticated
        )
        return told(found, outcome)

    def snapshot(self, *, with_records: bool = True) -> Snapshot:
        """Return everything as it is now. Without records the disk keeps them, for a restart."""
        parts = self._parts
        kept = (parts.world, parts.truth, parts.faults, parts.rate_limits)
        return Snapshot(
            state=packed(*kept, parts.clock.state(), self._forwards),
            identifiers=parts.identifiers.snapshot() if with_records else None,
            answers=parts.idempotency.records.snapshot() if with_records else None,
            arrivals=len(parts.arrivals),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot; later arrivals are forgotten, and calls in flight too."""
        parts = self._parts
        world, truth, faults, limits, clock, forwards = unpacked(
            snapshot.state, parts.clock, parts.identifiers
        )
        parts.world, parts.truth, parts.faults, parts.rate_limits = world, truth, faults, limits
        self._forwards = forwards
        parts.clock.restore(clock)
        if snapshot.identifiers is not None:
            parts.identifiers.restore(snapshot.identifiers)
        if snapshot.answers is not None:
            parts.idempotency.records.restore(snapshot.answers)
        parts.arrivals.truncate(snapshot.arrivals)
        parts.in_flight = InFlight()
        parts.idempotency.forget_running()

    def count_again(self, arrivals: Iterable[Arrival]) -> None:
        """Take the usage of logged arrivals into an account that was saved before them."""
        for arrival in arrivals:
            count_again(self.world, arrival)
            self.world.arrivals = arrival.number
        self._parts.truth = Truth.folded(self.arrivals)

    def reset(self) -> None:
        """Forget everything except the settings the emulator was made with and its forwards."""
        parts = self._parts
        parts.arrivals.truncate(0)
        parts.identifiers.clear()
        parts.idempotency.clear()
        parts.clock.run()
        self._parts = Parts(
            clock=parts.clock,
            world=self._new_world(parts.clock, parts.identifiers),
            arrivals=parts.arrivals,
            identifiers=parts.identifiers,
            idempotency=parts.idempotency,
        )

    def _new_world(self, clock: Clock, identifiers: Records[IdentifierRecord]) -> World:
        settings = Settings(**self._settings.as_dict())
        world = World(clock=clock, ids=Ids(self._seed), identifiers=identifiers, settings=settings)
        for url, secret, thin in self._forwards:
            self._register_forward(world, url, secret, thin=thin)
        return world

    @staticmethod
    def _register_forward(world: World, url: str, secret: str, *, thin: bool) -> None:
        for livemode in (False, True):
            webhook_endpoints.register(
                world, url, livemode=livemode, secret=secret, thin=thin, from_outside=True
            )
