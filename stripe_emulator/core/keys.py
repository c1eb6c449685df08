"""Who is calling: any key of Stripe's form is let in; only its mode matters."""

import base64
import binascii
from dataclasses import dataclass

from stripe_emulator.core.errors import ApiError
from stripe_emulator.core.wire import Request

SHOWN = 4


@dataclass(frozen=True, slots=True)
class Caller:
    """The key behind a request."""

    livemode: bool
    masked: str


def token_of(request: Request) -> str:
    """Return the bearer token, or the user name of basic authentication.

    It is empty when there is neither.
    """
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def caller_of(token: str) -> Caller:
    """Return whose key this is, or refuse with a 401."""
    if not token:
        raise ApiError(
            401,
            "No API key was sent: it travels in the Authorization header, as a bearer token or as "
            "the user name of basic authentication.",
            started=False,
        )
    if not token.startswith(("sk_", "rk_")):
        raise ApiError(401, f"Invalid API Key provided: {masked(token)}", started=False)
    return Caller(livemode="_test_" not in token, masked=masked(token))


def masked(token: str) -> str:
    """Return enough of a key to tell keys apart, and not more."""
    kind = "_".join(token.split("_")[:2])[:8]
    return f"{kind}_…{token[-SHOWN:]}" if len(token) > 2 * SHOWN else "…"
