"""Sending submissions to Stripe: claim and commit, call with nothing open, record the outcome.

The state machine is `lifecycle`'s; what goes over the wire was frozen by `flush`. A crash at any
point leaves a row that says what was tried, and the sweep finds it by its lease.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

import structlog
from django.conf import settings

from billing import cases, meter_checks, rate_limits, steps
from billing.enums import CaseKind, Endpoint
from billing.gateway import errors, meter_event_stream
from billing.gateway.meter_event_stream import EVENTS_PER_REQUEST
from usage import cancelling, fence, health
from usage.claiming import claim, waiting
from usage.clock import Clock
from usage.enums import Wire
from usage.health import SILENCES_IN_A_ROW
from usage.in_flight import Calls
from usage.outcomes import record
from usage.sweeping import sweep

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 0.05
"""How long to let the shared limit refill once it gave less than was asked for."""
STREAM_REFUSED = "stream"
"""Reference of the case that says the account may not use the stream."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one pass did: attempts by outcome, and rows the sweep moved by what befell them."""

    counts: Counter[str]
    ran_out_of_time: bool


@dataclass(frozen=True, slots=True)
class Lane:
    """Rows of one kind and what they go over: `stored_wire` is "" for those never sent."""

    stored_wire: str
    wire: Wire


class End(Enum):
    """Why a lane was left."""

    EMPTY = auto()
    OUT_OF_TIME = auto()
    STOPPED = auto()


def deliver_due(*, clock: Clock, seconds: float | None = None) -> PassResult:
    """Send what is due, oldest first, several calls at once; make no new claim after `seconds`.

    Any number of workers may run it at once; a repetition finds only what is still due. It sends
    nothing while the dispatch fence is closed, ends early when Stripe is unwell, and for every row
    when our set-up is refused. As long as the last calls of any worker met silence, a pass begins
    with a harmless read and ends if that fails, so that hours of outage put no more into doubt
    than what was in flight at their first moments.
    """
    ends = time.monotonic() + (seconds or settings.USAGE_DELIVERY_PASS_SECONDS)
    now = clock()
    counts = sweep(now=now) + cancelling.sweep(now=now)
    if not fence.inspect(now):
        log.warning("usage.delivery.fence_closed")
        return PassResult(counts, ran_out_of_time=False)
    meter_checks.check_due(now)
    if health.met_silence() and not health.answers():
        log.warning("usage.delivery.stripe_unwell")
        return PassResult(counts, ran_out_of_time=False)
    ran_out_of_time = False
    with Calls(settings.USAGE_CALLS_IN_FLIGHT) as calls:
        a_pass = _Pass(clock, calls, counts)
        lanes = _lanes(now=now)
        for position, lane in enumerate(lanes):
            left = ends - time.monotonic()
            # Each may take its share of what is left, so that a long one starves no other.
            end = a_pass.drain(lane, until=time.monotonic() + left / (len(lanes) - position))
            if end is End.STOPPED:
                return PassResult(counts, ran_out_of_time=False)
            ran_out_of_time = ran_out_of_time or end is End.OUT_OF_TIME
    return PassResult(counts, ran_out_of_time)


def _lanes(*, now: datetime) -> Sequence[Lane]:
    """Return the lanes of a pass: repetitions by the wire of their first attempt, then the rest."""
    threshold = settings.USAGE_STREAM_FROM
    use_stream = (
        settings.USAGE_STREAM
        and waiting(now=now, at_most=threshold) >= threshold
        and _stream_is_open(now=now)
    )
    return (
        # Stripe takes these for a day only.
        Lane(Wire.CANCEL, Wire.CANCEL),
        Lane(Wire.V1, Wire.V1),
        Lane(Wire.STREAM, Wire.STREAM),
        Lane("", Wire.STREAM if use_stream else Wire.V1),
    )


def _stream_is_open(*, now: datetime) -> bool:
    """Return whether Stripe gives us a session; where it refuses, v1 does the work."""
    try:
        meter_event_stream.ensure_session()
    except meter_event_stream.StreamRefused as refusal:
        log.warning("usage.delivery.stream_refused", reason=refusal.message)
        with steps.commit("usage.delivery.stream_refused"):
            cases.open_case(
                kind=CaseKind.MISCONFIGURED,
                reference=STREAM_REFUSED,
                reason=f"Stripe refuses the meter event stream, v1 is used: {refusal.message}",
                deadline_at=now + timedelta(days=7),
            )
        return False
    except errors.GatewayError as error:
        log.warning("usage.delivery.no_stream_session", reason=error.message)
        return False
    return True


_CALLS = {
    Wire.V1: (Endpoint.METER_EVENTS, 1),
    Wire.CANCEL: (Endpoint.READS, 1),
    Wire.STREAM: (Endpoint.STREAM, EVENTS_PER_REQUEST),
}
"""The limit that calls of a wire count to, and how many submissions go into one.

Cancellations have no limit of their own at Stripe and count to that of any other endpoint.
"""


@dataclass(frozen=True, slots=True)
class _Share:
    """How many submissions there was room for, the limit allowed, and were claimed."""

    wanted: int
    allowed: int
    claimed: int


class _Pass:
    """One worker's pass: what is in flight, and why it should stop."""

    def __init__(self, clock: Clock, calls: Calls, counts: Counter[str]) -> None:
        self._clock = clock
        self._calls = calls
        self._counts = counts
        self._silences = 0
        self._stop_reason = ""
        self._broken: BaseException | None = None
        self._pause_until = 0.0

    def drain(self, lane: Lane, *, until: float) -> End:
        """Send the lane's due rows until none is left, the time is up or Stripe is unwell.

        Everything in flight is recorded before it returns. Claims are made by the half-dozen, not
        whenever a single call ends: a claim costs the same for one row as for eight.

        Raises:
            BaseException: a call broke down in a way nobody expected; the others are recorded.
        """
        end: End | None = None
        while end is None or self._calls.under_way:
            if end is None and 2 * self._calls.free >= self._calls.size:
                end = self._go_on(lane, until=until)
            if self._calls.under_way:
                self._collect()
            elif end is None:
                time.sleep(max(0.0, self._pause_until - time.monotonic()))
        if self._broken is not None:
            raise self._broken
        return end

    def _go_on(self, lane: Lane, *, until: float) -> End | None:
        """Start more calls, unless there is a reason to leave the lane: then return it."""
        if self._broken is not None or self._stop_reason:
            return End.STOPPED
        if time.monotonic() >= until:
            return End.OUT_OF_TIME
        if time.monotonic() < self._pause_until:
            return None
        share = self._start(lane)
        if share.allowed < share.wanted:
            self._pause_until = time.monotonic() + PAUSE_SECONDS
        nothing_due = share.allowed and not share.claimed
        return End.EMPTY if nothing_due and not self._calls.under_way else None

    def _start(self, lane: Lane) -> _Share:
        """Claim as much as calls are free for and the shared limit allows, and start the calls."""
        endpoint, per_call = _CALLS[lane.wire]
        wanted = self._calls.free * per_call
        cost = rate_limits.request_cost(endpoint, event_count=per_call)
        granted = rate_limits.take(endpoint, want=self._calls.free * cost, now=self._clock())
        allowed = granted * per_call // cost
        if not allowed:
            return _Share(wanted, 0, 0)
        claims = claim(
            clock=self._clock, stored_wire=lane.stored_wire, wire=lane.wire, limit=allowed
        )
        requests = [claims[start : start + per_call] for start in range(0, len(claims), per_call)]
        used = sum(
            rate_limits.request_cost(endpoint, event_count=len(request)) for request in requests
        )
        rate_limits.give_back(endpoint, tokens=granted - used, now=self._clock())
        for request in requests:
            self._calls.start(request)
        return _Share(wanted, allowed, len(claims))

    def _collect(self) -> None:
        """Record what ended, and note when that says to stop."""
        calls, broken = self._calls.collect()
        self._broken = self._broken or broken
        record([ended for call in calls for ended in call], now=self._clock())
        for call in calls:
            self._counts.update(verdict.outcome for _, verdict in call)
            # One call is one sign, however many events were in it.
            _, verdict = call[-1]
            self._silences = self._silences + 1 if verdict.is_silence else 0
            if self._silences >= SILENCES_IN_A_ROW or verdict.is_misconfigured:
                self._stop(verdict.reason)

    def _stop(self, reason: str) -> None:
        if not self._stop_reason:
            log.warning("usage.delivery.pass_ended_early", reason=reason)
        self._stop_reason = reason or "Stripe is silent"
