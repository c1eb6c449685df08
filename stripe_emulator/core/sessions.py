"""Meter event sessions: the short-lived tokens the stream is entered with."""

from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.errors import ApiError
from stripe_emulator.core.keys import Caller
from stripe_emulator.core.moments import rfc3339
from stripe_emulator.core.world import Session, World

KEPT = 1_000
"""Old sessions beyond this number are forgotten, so that memory stays bounded."""


def create(call: Call) -> Answer:
    world = call.world
    now = world.clock.now()
    session = Session(livemode=call.livemode, expires_at=now + world.settings.session_seconds)
    token = world.ids.new("meter_event_token", 48)
    world.sessions[token] = session
    while len(world.sessions) > KEPT:
        del world.sessions[next(iter(world.sessions))]
    return {
        "id": world.ids.new("mes"),
        "object": "v2.billing.meter_event_session",
        "authentication_token": token,
        "created": rfc3339(now),
        "expires_at": rfc3339(session.expires_at),
        "livemode": call.livemode,
    }


def caller_of_token(world: World, token: str) -> Caller:
    """Return whose session a stream token opens, or refuse.

    A secret key is refused here like any other token that is none.
    """
    session = world.sessions.get(token)
    if session is None:
        raise ApiError(
            401,
            "The stream takes the authentication_token of a meter event session, not an API key.",
            type="invalid_request_error",
            code="invalid_meter_event_session",
            started=False,
        )
    if world.clock.now() >= session.expires_at:
        raise expired()
    return Caller(livemode=session.livemode, masked="session")


def expired() -> ApiError:
    """Return what a stream request hears once its token is over (status inferred)."""
    return ApiError(
        401,
        "The meter event session has expired.",
        type="temporary_session_expired",
        code="billing_meter_event_session_expired",
        started=False,
    )
