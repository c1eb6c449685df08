"""The meter event stream: many events a request, under a session of a quarter of an hour.

A 200 says that the request was taken and nothing about its events: those are validated later, and
refusals come as error reports. A session is a fence, too: Stripe refuses what a worker that slept
past its end would still send.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import stripe
from django.conf import settings

from billing import steps
from billing.gateway import errors
from billing.gateway.client import connection, session_client
from billing.gateway.transport import checked_before_write

EVENTS_PER_REQUEST = 100
"""Most events a request may hold. Source: Stripe's reference of the meter event stream."""
RENEW_AFTER_SECONDS = 12 * 60
"""A session lasts 15 minutes; one this old is left, so that no request meets its end.

Source: Stripe's reference of meter event sessions for the 15 minutes.
"""


class StreamRefused(errors.NotAccepted):
    """Stripe lets this account have no session: nothing was sent, and v1 must do."""


@dataclass(frozen=True, slots=True)
class _Session:
    client: stripe.StripeClient
    key: tuple[int, str]
    opened: float
    """On the monotonic clock, before Stripe was asked."""


_lock = threading.Lock()
_current: _Session | None = None


def ensure_session() -> None:
    """Have a session to send under, opening one where there is none young enough.

    Raises:
        StreamRefused: the account may not use the stream.
        GatewayError: of the four families; nothing was sent in any case.
    """
    _session()


def send(events: Sequence[Mapping[str, Any]], *, check: Callable[[], None]) -> None:
    """Send up to `EVENTS_PER_REQUEST` events; a repetition of their identifiers counts nothing.

    `check` runs right before the first byte of each request. An expired session is renewed once,
    because its refusal says that nothing was taken.

    Raises:
        Unavailable: the outcome is unknown.
        NotAccepted: Stripe did not take the request; retry later.
        Rejected: the request is refused for good as it is.
        Misconfigured: our key is refused.
    """
    session = _session()
    try:
        _post(session, events, check)
    except _Expired:
        _forget(session)
        try:
            _post(_session(), events, check)
        except _Expired as again:
            raise errors.NotAccepted("a session just opened is refused on the stream") from again


class _Events(list[Mapping[str, Any]]):
    """Events the SDK need not form-encode.

    For each v2 request it makes a form of the whole body, only to send JSON instead: nine tenths of
    a request's time. Of a value with an `id` it would take no more than that into the form.
    """

    id = ""


class _Expired(Exception):
    """The session's time is over; the request was not taken."""


def _post(
    session: _Session, events: Sequence[Mapping[str, Any]], check: Callable[[], None]
) -> None:
    with errors.sorted_errors(), checked_before_write(check):
        try:
            session.client.v2.billing.meter_event_stream.create(
                {"events": _Events(events)}  # type: ignore[typeddict-item]  # rendered by `usage.wire`
            )
        except (stripe.TemporarySessionExpiredError, stripe.AuthenticationError) as error:
            # The bearer here is the session's token and not our key: another one may be taken.
            raise _Expired from error


def _session() -> _Session:
    """Return a session of this process and key that is young enough, opening one if need be."""
    global _current  # noqa: PLW0603 - one session per process is the point
    key = (os.getpid(), settings.STRIPE_SECRET_KEY)
    with _lock:
        session = _current
        if (
            session is None
            or session.key != key
            or time.monotonic() - session.opened >= RENEW_AFTER_SECONDS
        ):
            session = _current = _opened(key)
        return session


def _opened(key: tuple[int, str]) -> _Session:
    opened = time.monotonic()
    with steps.call("billing.stream.open_session"):
        try:
            with errors.sorted_errors():
                answer = connection().v2.billing.meter_event_session.create()
        except (errors.Rejected, errors.Misconfigured) as refusal:
            raise errors.told_as(StreamRefused, refusal) from refusal
        except errors.Unavailable as silence:
            # Whether there is a session nobody knows; that no event was sent is certain.
            raise errors.told_as(errors.NotAccepted, silence) from silence
    return _Session(session_client(answer.authentication_token), key, opened)


def _forget(session: _Session) -> None:
    global _current  # noqa: PLW0603 - see `_session`
    with _lock:
        if _current is session:
            _current = None
