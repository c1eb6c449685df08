"""Making the call for what was claimed, with nothing open, and saying how it ended.

Whatever is not known to be an end is a doubt. Nothing is written here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from billing import steps
from billing.gateway import adjustments, errors, meter_event_stream, meter_events
from billing.gateway.transport import NotSent
from usage import wire
from usage.claiming import Claim
from usage.enums import Outcome, Wire
from usage.lifecycle import State

MISCONFIGURED = "misconfigured"
"""Our own code for an attempt Stripe refused for what we are, not for what was sent."""
NO_METER = "no_meter"
"""Our own code for an attempt Stripe refused because the meter is not active."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended and where its submission goes."""

    outcome: Outcome
    state: State
    reason: str = ""
    http_status: int | None = None
    code: str = ""
    request_id: str = ""
    next_wire: Wire | None = None
    """What a repetition uses of what is known not to have been taken; None leaves it open."""

    @property
    def is_misconfigured(self) -> bool:
        """Whether Stripe refuses our key or our set-up, so that no other call would fare better."""
        return self.code == MISCONFIGURED

    @property
    def is_silence(self) -> bool:
        """Whether it says that Stripe is unwell, rather than something about the submission."""
        return is_silence(self.outcome, self.http_status)


Ended = tuple[Claim, Verdict]


def is_silence(outcome: str | None, http_status: int | None) -> bool:
    """Return whether an attempt that ended so met silence."""
    # No connection is no doubt, but no sign of health either.
    return outcome == Outcome.UNKNOWN or (outcome == Outcome.NOT_ACCEPTED and http_status is None)


def call(claims: Sequence[Claim]) -> list[Ended]:
    """Make one call for `claims`, which go over one wire: on v1 there is one of them.

    Runs in any thread. A claim whose payload is not the one frozen is refused without a call.
    """
    changed = [each for each in claims if wire.fingerprint(each.payload) != each.payload_hash]
    ended = [
        (each, Verdict(Outcome.REJECTED, _refused(each), "its payload is not the one frozen"))
        for each in changed
    ]
    sound = [each for each in claims if each not in changed] if changed else list(claims)
    if not sound:
        return ended
    if sound[0].wire == Wire.STREAM:
        return [*ended, *_over_stream(sound)]
    alone = _over_v1 if sound[0].wire == Wire.V1 else _by_cancelling
    return [*ended, *((each, alone(each)) for each in sound)]


def _over_v1(claim: Claim) -> Verdict:
    try:
        with steps.call("usage.delivery.send"):
            receipt = meter_events.send(
                json.loads(claim.payload),
                check=_lease_of(claim),
                idempotency_key=meter_events.new_idempotency_key(claim.identifier),
            )
    except errors.NoMeter as error:
        return _failed(error, Outcome.NOT_ACCEPTED, State.RETRY, code=NO_METER)
    except errors.Rejected as error:
        return _failed(error, Outcome.REJECTED, _refused(claim))
    except errors.GatewayError as error:
        return _put_off(error)
    outcome = Outcome.DUPLICATE if receipt.is_duplicate else Outcome.ACCEPTED
    return Verdict(outcome, State.ACCEPTED, request_id=receipt.request_id)


def _by_cancelling(claim: Claim) -> Verdict:
    try:
        with steps.call("usage.delivery.cancel"):
            receipt = adjustments.cancel(
                event_name=json.loads(claim.payload)["event_name"],
                identifier=claim.cancels,
                check=_lease_of(claim),
                idempotency_key=meter_events.new_idempotency_key(claim.identifier),
            )
    except errors.Rejected as error:
        if claim.doubt_since is not None:
            # It says nothing of an earlier attempt, which may have been done.
            return _failed(error, Outcome.REJECTED, State.UNPROVEN)
        # It cannot be had, so a negative meter event does the same.
        return _failed(error, Outcome.NOT_ACCEPTED, State.RETRY)
    except errors.GatewayError as error:
        return _put_off(error, next_wire=Wire.CANCEL)
    outcome = Outcome.DUPLICATE if receipt.is_duplicate else Outcome.ACCEPTED
    return Verdict(outcome, State.ACCEPTED, request_id=receipt.request_id)


def _over_stream(claims: Sequence[Claim]) -> list[Ended]:
    try:
        with steps.call("usage.delivery.stream"):
            meter_event_stream.send(
                [wire.as_streamed(each.payload) for each in claims], check=_lease_of(claims[0])
            )
    except errors.Rejected as error:
        if len(claims) == 1:
            return [(claims[0], _refused_by_stream(claims[0], error))]
        # One event is enough to have a request refused whole: halves find it in seven rounds, and
        # the other ninety-nine go (F53).
        middle = len(claims) // 2
        return [*_over_stream(claims[:middle]), *_over_stream(claims[middle:])]
    except errors.GatewayError as error:
        verdict = _put_off(error)
    else:
        verdict = Verdict(Outcome.ACCEPTED, State.ACCEPTED, http_status=200)
    return [(each, verdict) for each in claims]


def _put_off(error: errors.GatewayError, *, next_wire: Wire | None = None) -> Verdict:
    """Return the verdict of a call that decided nothing: retry, or a doubt."""
    if isinstance(error, errors.NotAccepted | errors.Misconfigured):
        code = MISCONFIGURED if isinstance(error, errors.Misconfigured) else ""
        return _failed(error, Outcome.NOT_ACCEPTED, State.RETRY, code=code, next_wire=next_wire)
    return _failed(error, Outcome.UNKNOWN, State.IN_DOUBT)


def _refused_by_stream(claim: Claim, error: errors.Rejected) -> Verdict:
    """Return where an event goes that the stream takes in no request.

    Why, only v1 says, for an event that cannot have been taken before.
    """
    if claim.doubt_since is not None:
        return _failed(error, Outcome.REJECTED, State.UNPROVEN)
    return _failed(error, Outcome.NOT_ACCEPTED, State.RETRY, next_wire=Wire.V1)


def _lease_of(claim: Claim) -> Callable[[], None]:
    def lease_holds() -> None:
        if time.monotonic() >= claim.lease_ends:
            raise NotSent("the lease was over before the first byte")

    return lease_holds


def _refused(claim: Claim) -> State:
    """Return where a final refusal leads: it says nothing of an earlier attempt in doubt."""
    return State.REJECTED if claim.doubt_since is None else State.UNPROVEN


def _failed(
    error: errors.GatewayError,
    outcome: Outcome,
    state: State,
    *,
    code: str = "",
    next_wire: Wire | None = None,
) -> Verdict:
    return Verdict(
        outcome,
        state,
        reason=error.message,
        http_status=error.http_status,
        code=code or error.code,
        request_id=error.request_id,
        next_wire=next_wire,
    )
