"""One emulated account: a request goes in, a reply comes out, and everything is written down.

Not thread-safe; a transport that is used by several threads holds a lock around it.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from stripe_emulator.core import fault_answers, webhook_endpoints, webhooks
from stripe_emulator.core.arrivals import Arrival, ArrivalLog, MemoryArrivals
from stripe_emulator.core.call import Call
from stripe_emulator.core.clock import Clock
from stripe_emulator.core.collection import Object, Page
from stripe_emulator.core.deliveries import Delivery
from stripe_emulator.core.due import catch_up
from stripe_emulator.core.errors import ApiError, malformed, unknown_url
from stripe_emulator.core.expansion import render, render_page
from stripe_emulator.core.faults import FaultRule, Faults
from stripe_emulator.core.forms import decode
from stripe_emulator.core.idempotency import Idempotency, fingerprint
from stripe_emulator.core.ids import Ids
from stripe_emulator.core.in_flight import InFlight
from stripe_emulator.core.keys import caller_of, token_of
from stripe_emulator.core.params import parse
from stripe_emulator.core.rate_limits import RateLimits
from stripe_emulator.core.records import IdempotencyRecord, IdentifierRecord, MemoryRecords, Records
from stripe_emulator.core.routing import STREAM_PATH, Route, find_route
from stripe_emulator.core.sessions import caller_of_token
from stripe_emulator.core.settings import Settings
from stripe_emulator.core.snapshots import Snapshot, packed, unpacked
from stripe_emulator.core.truth import Truth
from stripe_emulator.core.wire import Fate, Reply, Request
from stripe_emulator.core.world import Cause, World
from stripe_emulator.version import API_VERSION

_OK = 200
_TOO_MANY = 429


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
        self.clock = Clock(now)
        self.arrivals: ArrivalLog = MemoryArrivals() if arrivals is None else arrivals
        self.faults = Faults()
        self.truth = Truth()
        self._seed = seed
        self._settings = settings or Settings()
        self._identifiers = MemoryRecords(IdentifierRecord) if identifiers is None else identifiers
        self._idempotency = Idempotency(
            MemoryRecords(IdempotencyRecord) if answers is None else answers
        )
        self._in_flight = InFlight()
        self.rate_limits = RateLimits()
        self._forwards: list[tuple[str, str, bool]] = []
        self.world = self._new_world()

    @property
    def settings(self) -> Settings:
        return self.world.settings

    def handle(self, request: Request) -> Reply:
        """Answer a request as if nobody else were calling meanwhile."""
        reply = self.begin(request)
        self.finish(reply)
        return reply

    def begin(self, request: Request) -> Reply:
        """Answer a request that stays in flight until `finish` is given its reply."""
        catch_up(self.world)
        exchange = _Exchange(self, request)
        return exchange.run()

    def finish(self, reply: Reply) -> None:
        """Note that a reply has left, or that its connection is gone."""
        for key in self._in_flight.end(reply.ticket):
            self._idempotency.end(key)

    def forward(self, url: str, secret: str, *, thin: bool = False) -> None:
        """Send every event of the kind to `url`, in both modes, also after a reset.

        A second call for the same URL changes its secret.
        """
        known = [each for each in self._forwards if (each[0], each[2]) != (url, thin)]
        if len(known) < len(self._forwards):
            for endpoint in self.world.webhook_endpoints:
                if (endpoint["url"], endpoint["_thin"]) == (url, thin):
                    endpoint["_secret"] = secret
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

    def snapshot(self, *, with_records: bool = True) -> Snapshot:
        """Return everything as it is now. Without records the disk keeps them, for a restart."""
        return Snapshot(
            state=packed(
                self.world,
                self.truth,
                self.faults,
                self.rate_limits,
                self.clock.state(),
                self._forwards,
            ),
            identifiers=self._identifiers.snapshot() if with_records else None,
            answers=self._idempotency.records.snapshot() if with_records else None,
            arrivals=len(self.arrivals),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot; later arrivals are forgotten, and calls in flight too."""
        world, truth, faults, limits, clock, forwards = unpacked(
            snapshot.state, self.clock, self._identifiers
        )
        self.world, self.truth, self.faults, self.rate_limits = world, truth, faults, limits
        self._forwards = forwards
        self.clock.restore(clock)
        if snapshot.identifiers is not None:
            self._identifiers.restore(snapshot.identifiers)
        if snapshot.answers is not None:
            self._idempotency.records.restore(snapshot.answers)
        self.arrivals.truncate(snapshot.arrivals)
        self._in_flight = InFlight()
        self._idempotency.forget_running()

    def reset(self) -> None:
        """Forget everything except the settings the emulator was made with and its forwards."""
        self.arrivals.truncate(0)
        self.faults = Faults()
        self.truth = Truth()
        self.clock.run()
        self._identifiers.clear()
        self._idempotency.clear()
        self._in_flight = InFlight()
        self.rate_limits = RateLimits()
        self.world = self._new_world()

    def _new_world(self) -> World:
        world = World(
            clock=self.clock,
            ids=Ids(self._seed),
            identifiers=self._identifiers,
            settings=Settings(**self._settings.as_dict()),
        )
        for url, secret, thin in self._forwards:
            self._register_forward(world, url, secret, thin=thin)
        return world

    @staticmethod
    def _register_forward(world: World, url: str, secret: str, *, thin: bool) -> None:
        for livemode in (False, True):
            webhook_endpoints.register(world, url, livemode=livemode, secret=secret, thin=thin)


class _Exchange:
    """One request on its way through the emulator; it ends as one entry in the arrival log."""

    def __init__(self, emulator: Emulator, request: Request) -> None:
        self.emulator = emulator
        self.world = emulator.world
        self.request = request
        self.request_id = self.world.ids.new("req", 14)
        self.v2 = request.path.startswith("/v2/")
        self.livemode = False
        self.key = ""
        self.params: Any = None
        self.verdict = "refused"
        self.error: str | None = None
        self.call: Call | None = None
        self.headers: dict[str, str] = {}
        self.store_as: str | None = None
        self.asked = ""
        self.ticket = 0

    @property
    def idempotency_key(self) -> str | None:
        counts = self.request.method == "POST" or (self.v2 and self.request.method == "DELETE")
        return self.request.headers.get("idempotency-key") if counts else None

    def run(self) -> Reply:
        self.world.cause = Cause(
            self.request_id, self.idempotency_key, len(self.emulator.arrivals) + 1
        )
        fault = self.emulator.faults.for_request(self.request.method, self.request.path)
        try:
            fault_answers.before(fault)
            status, body = self._answer(fault)
        except fault_answers.DroppedError:
            self.verdict = "dropped"
            return self._sent(0, b"", fault, Fate.DROPPED)
        except ApiError as error:
            self.error = error.message
            self.headers |= error.headers
            if error.status == _TOO_MANY:
                self.verdict = "limited"
            status, body = error.status, _encoded(error.body(v2=self.v2))
        fate = fault_answers.fate(fault)
        return self._sent(status, body, fault, fate)

    def _answer(self, fault: FaultRule | None) -> tuple[int, bytes]:
        request = self.request
        found = find_route(request.method, request.path, request.host)
        token = token_of(request)
        if request.path == STREAM_PATH and found is not None:
            caller = caller_of_token(self.world, token)
        else:
            caller = caller_of(token)
        self.livemode, self.key = caller.livemode, caller.masked
        if found is None:
            raise unknown_url(request.method, request.path)
        route, path = found
        raw = self._raw_params(route)
        self._check_rate(route)
        if self.v2 and "stripe-version" not in request.headers:
            raise malformed("The Stripe-Version header is required.", code="missing_version")
        params = parse(route.takes, raw)
        known = self._known_answer()
        if known is not None:
            self.verdict = "replayed"
            self.headers |= known.headers | {"Idempotent-Replayed": "true"}
            return known.status, known.body
        try:
            return self._executed(route, path, params, fault)
        finally:
            if self.ticket == 0 and self.store_as is not None:
                self.ticket = self.emulator._in_flight.begin([self.store_as])  # noqa: SLF001  one unit with its class

    def _check_rate(self, route: Route) -> None:
        """Refuse what is too fast, ahead of the idempotency layer: replays are limited too."""
        regime = self.world.settings.rate_limits
        if regime == "off":
            return
        events = self.params.get("events") if isinstance(self.params, dict) else None
        self.emulator.rate_limits.check(
            regime,
            livemode=self.livemode,
            endpoint=f"{route.method} {route.path}",
            now=self.world.clock.now(),
            cost=max(1, len(events)) if isinstance(events, list) else 1,
        )

    def _raw_params(self, route: Route) -> dict[str, Any]:
        query = decode(self.request.query) if self.request.query else {}
        if route.method == "GET":
            self.params = query
            return query
        if self.v2:
            raw = query | _json_object(self.request.body)
        else:
            raw = query | decode(self.request.body.decode("utf-8", "replace"))
        self.params = raw
        return raw

    def _known_answer(self) -> IdempotencyRecord | None:
        key = self.idempotency_key
        if key is None:
            return None
        settings = self.world.settings
        name = f"{'live' if self.livemode else 'test'}{'2' if self.v2 else '1'}:{key}"
        canonical = msgspec.json.encode(self.params, order="sorted").decode()
        self.asked = fingerprint(self.request.method, self.request.path, canonical)
        known = self.emulator._idempotency.begin(  # noqa: SLF001  one unit with its class
            name,
            path=self.request.path,
            asked=self.asked,
            now=self.world.clock.now(),
            window_seconds=settings.idempotency_window_v2_seconds
            if self.v2
            else settings.idempotency_window_seconds,
            v2=self.v2,
        )
        if known is None:
            self.store_as = name
        return known

    def _executed(
        self, route: Route, path: dict[str, str], params: dict[str, Any], fault: FaultRule | None
    ) -> tuple[int, bytes]:
        expand = params.pop("expand", None) or []
        self.call = Call(
            self.world, params, path, self.livemode, self.request.path, self.emulator.faults
        )
        try:
            fault_answers.at_start(fault)
            if route.meter_event:
                self._enter_pair(params)
            answer = route.answer(self.call)
            shown = _shown(self.world, answer, expand)
            fault_answers.at_end(fault)
            status, body = _OK, _encoded(shown)
            self.verdict = "done"
        except ApiError as error:
            status, body = error.status, _encoded(error.body(v2=self.v2))
            self.error = error.message
            self.headers |= error.headers
            if not error.started or (self.v2 and status != _OK):
                return status, body
        if self.store_as is not None:
            record = IdempotencyRecord(
                at=self.world.clock.now(),
                path=self.request.path,
                fingerprint=self.asked,
                status=status,
                headers=dict(self.headers),
                body=body,
            )
            self.emulator._idempotency.store(self.store_as, record)  # noqa: SLF001  one unit with its class
        return status, body

    def _enter_pair(self, params: dict[str, Any]) -> None:
        """Put the customer and meter of this call in flight.

        Two at once are noticed and perhaps refused.
        """
        keys = [self.store_as] if self.store_as else []
        self.ticket = self.emulator._in_flight.enter_pair(  # noqa: SLF001  one unit with its class
            self.world, params, livemode=self.livemode, keys=keys
        )

    def _sent(self, status: int, body: bytes, fault: FaultRule | None, fate: Fate) -> Reply:
        self._log(status, fault)
        version = self.request.headers.get("stripe-version", API_VERSION)
        headers = {
            "Content-Type": "application/json",
            "Request-Id": self.request_id,
            "Stripe-Version": version,
            **self.headers,
        }
        if self.idempotency_key:
            headers["Idempotency-Key"] = self.idempotency_key
        delay = fault.delay_seconds if fault and fault.kind in {"slow", "slow_body"} else 0.0
        return Reply(status, headers, body, fate, delay, self.ticket)

    def _log(self, status: int, fault: FaultRule | None) -> None:
        events = self.call.events if self.call else []
        if len(events) == 1 and self.verdict in {"done", "refused"}:
            self.verdict = events[0].verdict.partition(":")[0]
        arrival = Arrival(
            number=self.world.cause.arrival,
            at=self.world.clock.now(),
            method=self.request.method,
            path=self.request.path,
            key=self.key,
            livemode=self.livemode,
            status=status,
            verdict=self.verdict,
            request_id=self.request_id,
            idempotency_key=self.idempotency_key,
            stripe_version=self.request.headers.get("stripe-version"),
            params=self.params,
            error=self.error,
            fault=fault.kind if fault else None,
            events=events,
            cancelled=self.call.cancelled if self.call else None,
        )
        self.emulator.arrivals.append(arrival)
        self.emulator.truth.observe(arrival)
        self.world.cause = Cause()


def _shown(world: World, answer: Object | Page, expand: list[str]) -> Object:
    if isinstance(answer, Page):
        return render_page(world, answer, expand)
    return render(world, answer, expand)


def _json_object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        decoded = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise malformed(f"Invalid JSON: {error}", code="invalid_json") from None
    if not isinstance(decoded, dict):
        raise malformed("The body must be a JSON object.", code="invalid_json")
    return decoded


def _encoded(body: Object) -> bytes:
    return msgspec.json.encode(body)
