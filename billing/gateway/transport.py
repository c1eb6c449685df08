"""The SDK's HTTP client, ours: a whole-call deadline, and a last check before the first byte.

`OverHttp` speaks HTTP/1.1 on one kept connection per thread. `Guarded` puts the same last check
before any other client of the SDK's, so that the in-process emulator is called by the same rules.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead
from typing import Any
from urllib.parse import urlsplit

import stripe
from django.conf import settings

Answer = tuple[bytes, int, Mapping[str, str]]
MAX_IDLE_SECONDS = 20.0
"""A kept connection idle for longer is made anew: a server may be about to close it."""
WATCH_SECONDS = 0.1
"""How often it is looked whether some call's deadline is over."""


class NotSent(stripe.APIConnectionError):
    """No byte of the request left, so Stripe cannot have taken it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]  # the SDK's


class OutcomeUnknown(stripe.APIConnectionError):
    """The request may have arrived; no whole answer came."""

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]  # the SDK's


_last_check: ContextVar[Callable[[], None] | None] = ContextVar("last_check", default=None)


@contextmanager
def checked_before_write(check: Callable[[], None]) -> Iterator[None]:
    """Run `check` after connecting and right before the first byte of each call in the block.

    `check` raises `NotSent` when the call must no longer be made, such as a lease that is over.
    """
    token = _last_check.set(check)
    try:
        yield
    finally:
        _last_check.reset(token)


def _check() -> None:
    check = _last_check.get()
    if check is not None:
        check()


class Guarded(stripe.HTTPClient):
    """Another client of the SDK's with our last check in front."""

    name = "guarded"

    def __init__(self, inner: stripe.HTTPClient) -> None:
        super().__init__()
        self._inner = inner

    def request(  # type: ignore[override]  # the SDK's own subclasses leave `_usage` out, too
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
    ) -> Any:
        _check()
        return self._inner.request(method, url, headers, post_data)

    def close(self) -> None:
        self._inner.close()  # type: ignore[no-untyped-call]  # the SDK's


class OverHttp(stripe.HTTPClient):
    """HTTP/1.1 over the standard library, one kept connection per thread and host.

    The SDK's own clients bound each socket operation, so a server that sends a byte now and then
    holds a worker for ever. Here a watchdog closes the socket when the whole call's deadline is
    over, and a failure says whether a byte may have left: `NotSent` or `OutcomeUnknown`.
    """

    name = "meterkeeper"

    def __init__(self, *, connect_seconds: float, deadline_seconds: float) -> None:
        super().__init__()
        self._connect_seconds = connect_seconds
        self._deadline_seconds = deadline_seconds
        self._tls = ssl.create_default_context(cafile=stripe.ca_bundle_path)
        self._kept = threading.local()
        self._watchdog = _Watchdog()

    def request(  # type: ignore[override]  # the SDK's own subclasses leave `_usage` out, too
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
    ) -> Answer:
        parts = urlsplit(url)
        connection = self._connected(parts.scheme, parts.netloc)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        body = post_data.encode() if isinstance(post_data, str) else post_data
        _check()
        sock = connection.sock
        self._watchdog.watch(sock, self._deadline_seconds)
        try:
            connection.request(method.upper(), target, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            if response.length is None and not response.chunked:
                # The standard library takes headers that end early for whole ones, and would
                # read until the connection closes.
                response.close()
                raise IncompleteRead(b"")
            content = response.read()
        except (OSError, HTTPException) as error:
            connection.close()
            self._forget(parts.scheme, parts.netloc)
            raise OutcomeUnknown(f"no whole answer: {error!r}") from error
        finally:
            self._watchdog.forget(sock)
        # An `HTTPMessage` is looked up whatever the case, as the SDK does.
        return content, response.status, response.headers  # type: ignore[return-value]

    def _connected(self, scheme: str, netloc: str) -> HTTPConnection:
        kept: dict[tuple[str, str], tuple[HTTPConnection, float]] = self._kept.__dict__.setdefault(
            "connections", {}
        )
        connection, used_at = kept.get((scheme, netloc), (None, 0.0))
        now = time.monotonic()
        if connection is not None and (now - used_at > MAX_IDLE_SECONDS or _is_stale(connection)):
            connection.close()
            connection = None
        if connection is None:
            connection = (
                HTTPSConnection(netloc, timeout=self._connect_seconds, context=self._tls)
                if scheme == "https"
                else HTTPConnection(netloc, timeout=self._connect_seconds)
            )
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                raise NotSent(f"no connection: {error!r}") from error
            connection.sock.settimeout(self._deadline_seconds)
        kept[scheme, netloc] = (connection, now)
        return connection

    def _forget(self, scheme: str, netloc: str) -> None:
        self._kept.connections.pop((scheme, netloc), None)

    def close(self) -> None:
        for connection, _ in getattr(self._kept, "connections", {}).values():
            connection.close()


def _is_stale(connection: HTTPConnection) -> bool:
    """Return whether the server has hung up, or spoken unasked, in the meantime."""
    if connection.sock is None:
        return True
    readable, _, _ = select.select([connection.sock], [], [], 0)
    return bool(readable)


class _Watchdog:
    """One thread that hangs up on calls whose deadline is over, for as long as there are calls.

    A timer a call would be a thread a call, dearer than the call's own work.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}
        self._thread: threading.Thread | None = None

    def watch(self, sock: socket.socket, seconds: float) -> None:
        """Hang up on `sock` in `seconds`, or up to `WATCH_SECONDS` later."""
        with self._lock:
            self._deadlines[sock] = time.monotonic() + seconds
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def forget(self, sock: socket.socket) -> None:
        """Leave `sock` alone: its call has ended."""
        with self._lock:
            self._deadlines.pop(sock, None)

    def _run(self) -> None:
        idle_since = time.monotonic()
        while True:
            time.sleep(WATCH_SECONDS)
            now = time.monotonic()
            with self._lock:
                for sock in [each for each, ends in self._deadlines.items() if ends <= now]:
                    del self._deadlines[sock]
                    _hang_up(sock)
                if self._deadlines:
                    idle_since = now
                elif now - idle_since > MAX_IDLE_SECONDS:
                    self._thread = None
                    return


def _hang_up(sock: socket.socket) -> None:
    # The thread that waits on the socket is woken with an error and closes it.
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def over_http() -> stripe.HTTPClient:
    """Make the client that talks to Stripe, or to an emulator, over the network."""
    return OverHttp(
        connect_seconds=settings.STRIPE_CONNECT_TIMEOUT_SECONDS,
        deadline_seconds=settings.STRIPE_CALL_DEADLINE_SECONDS,
    )
