"""The emulator as an ASGI application: bytes in, bytes out, and connections broken on request."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from typing import Any

from stripe_emulator.control import Control
from stripe_emulator.core.emulator import Emulator
from stripe_emulator.core.routing import STREAM_HOST
from stripe_emulator.core.wire import Fate, Reply, Request
from stripe_emulator.delivering import Deliverer
from stripe_emulator.hosted.pages import HostedPages
from stripe_emulator.sockets import cut

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BROKEN = Reply(
    500,
    {"Content-Type": "application/json"},
    b'{"error":{"type":"api_error","message":"The emulator itself failed; its log says where."}}',
)
Background = Callable[[], Coroutine[Any, Any, None]]

log = logging.getLogger(__name__)

BEFORE_CUT_SECONDS = 0.05
"""Time for half an answer to leave before its connection is cut."""


class Application:
    """Serve one emulator; its webhooks are delivered while the lifespan lasts.

    `host` is the one of Stripe's hosts this address stands for: it serves what that host serves,
    and refuses the rest. An empty one stands for all of them.
    """

    def __init__(
        self, emulator: Emulator, background: Sequence[Background] = (), *, host: str = ""
    ) -> None:
        self.emulator = emulator
        self.host = host
        self.control = Control(emulator)
        self.pages = HostedPages(emulator)
        self._background = [Deliverer(emulator).run, *background]

    def stream_door(self) -> "Application":
        """Return the same emulator at the stream's address; the work behind it stays with us."""
        door = Application(self.emulator, host=STREAM_HOST)
        door._background = []
        return door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        tasks = [asyncio.create_task(run()) for run in self._background]
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                for task in tasks:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "lifespan.startup.complete"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            headers={
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in scope["headers"]
            },
            body=await _body(receive),
            host=self.host,
        )
        if self.host != STREAM_HOST and self.control.owns(request.path):
            await _answer(send, self.control.handle(request))
            return
        if self.host != STREAM_HOST and self.pages.owns(request.path):
            await _answer(send, self.pages.handle(request))
            return
        try:
            reply = self.emulator.begin(request)
        except Exception:
            log.exception("the emulator failed at %s %s", request.method, request.path)
            await _answer(send, BROKEN)
            return
        try:
            await _travel(scope, send, reply)
        finally:
            self.emulator.finish(reply)


async def _body(receive: Receive) -> bytes:
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


async def _travel(scope: Scope, send: Send, reply: Reply) -> None:
    if reply.fate is Fate.TRICKLED:
        await _trickle(send, reply)
        return
    if reply.delay_seconds:
        await asyncio.sleep(reply.delay_seconds)
    if reply.fate is Fate.DROPPED:
        _cut(scope)
    elif reply.fate is Fate.TRUNCATED:
        await _start(send, reply)
        half = reply.body[: len(reply.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        await asyncio.sleep(BEFORE_CUT_SECONDS)
        _cut(scope)
    else:
        await _answer(send, reply)


async def _trickle(send: Send, reply: Reply) -> None:
    await _start(send, reply)
    for index in range(len(reply.body)):
        piece = reply.body[index : index + 1]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(reply.delay_seconds / len(reply.body))
    await send({"type": "http.response.body", "body": b""})


async def _answer(send: Send, reply: Reply) -> None:
    await _start(send, reply)
    await send({"type": "http.response.body", "body": reply.body})


async def _start(send: Send, reply: Reply) -> None:
    headers = [
        (name.lower().encode(), value.encode("latin-1", "replace"))
        for name, value in reply.headers.items()
    ]
    headers.append((b"content-length", str(len(reply.body)).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})


def _cut(scope: Scope) -> None:
    host, port = scope["client"]
    cut(host, int(port), at_port=int(scope["server"][1]))
