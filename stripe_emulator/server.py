"""Running the emulator under granian, in one process, until a signal ends it."""

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from stripe_emulator.asgi import Application

BACKLOG = 2048
GRACE_SECONDS = 0.25
"""Granian waits for every request under way; we wait so long."""


class PortTakenError(Exception):
    """Another program listens there already."""


async def serve(application: Application, *, host: str, port: int, end: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then call `end`, which ends the process.

    Quick answers still leave; a slow one, or a webhook nobody answers, is given up.
    """
    _check_free(host, port)
    server: Any = Server(
        application,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        log_enabled=False,
    )
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.stop()
        loop.call_later(GRACE_SECONDS, end)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.serve()
    end()


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTakenError(
                f"Cannot listen on {host}:{port} ({error.strerror}). Choose another with --port."
            ) from error
