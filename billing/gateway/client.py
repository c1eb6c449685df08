"""One SDK client per process: which key, which address, which API version."""

from __future__ import annotations

import os
from functools import lru_cache

import stripe
from django.conf import settings
from django.utils.module_loading import import_string

# Its latency reports and update notices are nobody's business here.
stripe.enable_telemetry = False
os.environ.setdefault("STRIPE_SUPPRESS_NOTICES", "true")


def connection() -> stripe.StripeClient:
    """Return this process's client. A fork makes its own, since sockets cannot be shared."""
    return _connection(os.getpid())


def session_client(token: str) -> stripe.StripeClient:
    """Return a client that speaks under a session's token, over this process's connections."""
    return _client(token, _transport(os.getpid()))


@lru_cache(maxsize=1)
def _connection(process_id: int) -> stripe.StripeClient:
    return _client(settings.STRIPE_SECRET_KEY, _transport(process_id))


@lru_cache(maxsize=1)
def _transport(_process_id: int) -> stripe.HTTPClient:
    transport: stripe.HTTPClient = import_string(settings.STRIPE_TRANSPORT)()
    return transport


def _client(key: str, transport: stripe.HTTPClient) -> stripe.StripeClient:
    emulator = settings.STRIPE_EMULATOR_URL
    return stripe.StripeClient(
        key,
        stripe_version=settings.STRIPE_API_VERSION,
        base_addresses=(
            {"api": emulator, "files": emulator, "connect": emulator, "meter_events": emulator}
            if emulator
            else {}
        ),
        http_client=transport,
        # A repetition is ours to decide: each one is an attempt of its own in the books.
        max_network_retries=0,
    )
