"""Stripe's errors, sorted once by what the caller does next. Whatever is not known stays loud."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import stripe

from billing.gateway.transport import NotSent


class GatewayError(Exception):
    """A call that did not succeed. `http_status` is None when no answer came."""

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        code: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.http_status = http_status
        self.code = code
        self.request_id = request_id


class Unavailable(GatewayError):
    """The outcome is unknown. Repeat with the same identifier; never assume either way."""


class NotAccepted(GatewayError):
    """Stripe did not take it, that is known. Retry later."""


class NoMeter(NotAccepted):
    """The event's meter is not active. Usage waits until somebody mends that."""


class Rejected(GatewayError):
    """Refused for good: a repetition would be refused again."""


class Misconfigured(GatewayError):
    """Our key or our set-up is wrong. Stop and page; say nothing of the money."""


class AlreadyExists(Rejected):
    """Stripe knows the identifier: an earlier attempt was taken."""


DUPLICATE_MESSAGE = "An event already exists with identifier"
"""How v1 refuses a known identifier. It has no code of its own. Source: public clients."""


def sort(error: stripe.StripeError) -> GatewayError:
    """Return the family `error` belongs to.

    A refused meter event counts as refused only where `meter_events` knows the refusal; this
    table speaks for every other call.
    """
    family = _family(error)
    structured = error.error
    code = error.code or (structured.code if structured is not None else None) or ""
    return family(
        error.user_message or str(error),
        http_status=error.http_status,
        code=str(code),
        request_id=error.request_id or "",
    )


def _family(error: stripe.StripeError) -> type[GatewayError]:
    status = error.http_status
    if isinstance(error, NotSent) or status in {409, 429}:
        return NotAccepted
    if status in {401, 403}:
        return Misconfigured
    if DUPLICATE_MESSAGE in (error.user_message or ""):
        return AlreadyExists
    if isinstance(error, stripe.InvalidRequestError | stripe.CardError) and status is not None:
        return Rejected
    # Timeouts, resets, 5xx, a mismatched idempotency key, and whatever Stripe invents next.
    return Unavailable


def told_as(family: type[GatewayError], error: GatewayError) -> GatewayError:
    """Return what `error` says as an error of another family."""
    return family(
        error.message,
        http_status=error.http_status,
        code=error.code,
        request_id=error.request_id,
    )


@contextmanager
def sorted_errors() -> Iterator[None]:
    """Turn the SDK's errors inside the block into ours."""
    try:
        yield
    except stripe.StripeError as error:
        raise sort(error) from error
