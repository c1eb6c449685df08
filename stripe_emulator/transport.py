"""The emulator behind the official SDK without a socket.

Pass `InProcessTransport(emulator)` as `http_client`. The only module here that knows the SDK.
"""

import threading
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, NoReturn
from urllib.parse import urlsplit

import stripe

from stripe_emulator.core.emulator import Emulator
from stripe_emulator.core.wire import Fate, Reply, Request


class Headers(dict[str, str]):
    """Answer headers, found in any case of letters, as the SDK's own clients give them."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in headers.items()})

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class InProcessTransport(stripe.HTTPClient):
    """An HTTP client whose other end is an `Emulator` in this process.

    Threads may share it: one lock guards the emulator, and delays pass outside of it, so calls can
    overlap. A lost or broken answer raises `stripe.APIConnectionError`, with `should_retry` as a
    real client sets it. Delays take no real time unless `sleep` is given.
    """

    name = "stripe_emulator"

    def __init__(self, emulator: Emulator, *, sleep: Callable[[float], None] | None = None) -> None:
        super().__init__()
        self.emulator = emulator
        self.lock = threading.RLock()
        self._sleep = sleep

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        *,
        _usage: list[str] | None = None,
    ) -> tuple[str, int, Mapping[str, str]]:
        """Answer one request, or raise where the network would have failed."""
        request = _request(method, url, headers, post_data)
        with self.lock:
            reply = self.emulator.begin(request)
        try:
            if reply.delay_seconds and self._sleep is not None:
                self._sleep(reply.delay_seconds)
        finally:
            with self.lock:
                self.emulator.finish(reply)
        if reply.fate in {Fate.DROPPED, Fate.TRUNCATED}:
            _fail(reply)
        return reply.body.decode(), reply.status, Headers(reply.headers)

    def request_stream(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        *,
        _usage: list[str] | None = None,
    ) -> tuple[Any, int, Mapping[str, str]]:
        """Answer with a file to read the body from."""
        body, status, answer_headers = self.request(method, url, headers, post_data)
        return BytesIO(body.encode()), status, answer_headers

    def close(self) -> None:
        """Do nothing: there is no connection."""


def _request(method: str, url: str, headers: Mapping[str, str] | None, post_data: Any) -> Request:
    parts = urlsplit(url)
    body = post_data if isinstance(post_data, bytes) else (post_data or "").encode()
    return Request(
        method=method.upper(),
        path=parts.path,
        query=parts.query,
        headers={name.lower(): str(value) for name, value in (headers or {}).items()},
        body=body,
        host=parts.hostname or "",
    )


def _fail(reply: Reply) -> NoReturn:
    what = (
        "closed without an answer"
        if reply.fate is Fate.DROPPED
        else "reset in the middle of the answer"
    )
    raise stripe.APIConnectionError(  # type: ignore[no-untyped-call]  # the SDK leaves it untyped
        f"Unexpected error communicating with Stripe: the emulator's connection was {what}.",
        should_retry=True,
    )


__all__ = ["InProcessTransport", "real_sleep"]
real_sleep = time.sleep
"""Pass it as `sleep` to let delays pass in real time."""
