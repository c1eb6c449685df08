"""One request on its way through the emulator: it ends as one entry in the arrival log."""

from typing import Any

import msgspec

from stripe_emulator.core import expandable, fault_answers
from stripe_emulator.core.arrivals import Arrival
from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object, Page
from stripe_emulator.core.errors import ApiError, malformed, unknown_url
from stripe_emulator.core.expansion import render, render_page
from stripe_emulator.core.faults import FaultRule
from stripe_emulator.core.idempotency import fingerprint
from stripe_emulator.core.keys import caller_of, masked, token_of
from stripe_emulator.core.params import parse
from stripe_emulator.core.parts import Parts
from stripe_emulator.core.reading import base_url, cost_of, raw_params
from stripe_emulator.core.records import IdempotencyRecord
from stripe_emulator.core.route import Route
from stripe_emulator.core.routing import STREAM_PATH, find_route
from stripe_emulator.core.sessions import caller_of_token
from stripe_emulator.core.wire import Fate, Reply, Request
from stripe_emulator.core.world import Cause, World
from stripe_emulator.version import API_VERSION

_OK = 200
_TOO_MANY = 429


class Exchange:
    """Authenticate, limit, parse, replay or execute, and write down what happened."""

    def __init__(self, parts: Parts, request: Request) -> None:
        self.parts = parts
        self.world = parts.world
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
        """Return the reply; its call is in flight until its ticket is handed back.

        A mistake of the emulator's own goes up, and leaves nothing in flight.
        """
        try:
            return self._run()
        except Exception:
            self.parts.leave(self.ticket)
            raise

    def _run(self) -> Reply:
        self.world.arrivals = len(self.parts.arrivals) + 1
        self.world.cause = Cause(self.request_id, self.idempotency_key, self.world.arrivals)
        fault = self.parts.faults.for_request(self.request.method, self.request.path)
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
        if found is None:
            # Before the key, so that a call to the wrong one of Stripe's hosts says what is wrong.
            self.livemode, self.key = "_test_" not in token, masked(token)
            raise unknown_url(request.method, request.path)
        route, path = found
        streams = route.path == STREAM_PATH
        caller = caller_of_token(self.world, token) if streams else caller_of(token)
        self.livemode, self.key = caller.livemode, caller.masked
        self.params = raw = raw_params(request)
        self._check_rate(route)
        if self.v2 and "stripe-version" not in request.headers:
            raise malformed("The Stripe-Version header is required.", code="missing_version")
        params = parse(route.takes, raw)
        if params.get("expand"):
            expandable.check(route.path, listed=route.listed, expand=params["expand"])
        known = self._known_answer()
        if known is not None:
            self.verdict = "replayed"
            self.headers |= known.headers | {"Idempotent-Replayed": "true"}
            return known.status, known.body
        try:
            return self._executed(route, path, params, fault)
        finally:
            if self.ticket == 0 and self.store_as is not None:
                self.ticket = self.parts.in_flight.begin([self.store_as])

    def _check_rate(self, route: Route) -> None:
        """Refuse what is too fast, ahead of the idempotency layer: replays are limited too."""
        regime = self.world.settings.rate_limits
        if regime == "off":
            return
        self.parts.rate_limits.check(
            regime,
            livemode=self.livemode,
            endpoint=f"{route.method} {route.path}",
            now=self.world.clock.now(),
            cost=cost_of(self.params),
            connected="stripe-account" in self.request.headers,
        )

    def _known_answer(self) -> IdempotencyRecord | None:
        key = self.idempotency_key
        if key is None:
            return None
        settings = self.world.settings
        name = f"{'live' if self.livemode else 'test'}{'2' if self.v2 else '1'}:{key}"
        canonical = msgspec.json.encode(self.params, order="sorted").decode()
        self.asked = fingerprint(self.request.method, self.request.path, canonical)
        known = self.parts.idempotency.begin(
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
            self.world,
            params,
            path,
            self.livemode,
            self.request.path,
            self.parts.faults,
            base_url=base_url(self.request, self.world.settings),
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
            self.parts.idempotency.store(self.store_as, record)
        return status, body

    def _enter_pair(self, params: dict[str, Any]) -> None:
        """Put the customer and meter of this call in flight.

        Two at once are noticed and perhaps refused.
        """
        keys = [self.store_as] if self.store_as else []
        self.ticket = self.parts.in_flight.enter_pair(
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
        self.parts.arrivals.append(arrival)
        self.parts.truth.observe(arrival)
        self.world.cause = Cause()


def _shown(world: World, answer: Object | Page, expand: list[str]) -> Object:
    if isinstance(answer, Page):
        return render_page(world, answer, expand)
    return render(world, answer, expand)


def _encoded(body: Object) -> bytes:
    return msgspec.json.encode(body)
