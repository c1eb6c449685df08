"""Running the emulator under granian, in one process, until a signal ends it."""

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from stripe_emulator.asgi import Application

BACKLOG = 2048
GRACE_SECONDS = 0.25
"""Granian waits for every request under way; we wait so long."""
Door = tuple[Application, int]
"""What answers, and on which port."""


class PortTakenError(Exception):
    """Another program listens there already."""


async def serve(doors: Mapping[str, Door], *, host: str, end: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then call `end`, which ends the process.

    The doors stand under the option that chooses their port. Quick answers still leave; a slow one,
    or a webhook nobody answers, is given up.
    """
    for option, (_, port) in doors.items():
        _check_free(host, port, option)
    servers = [_server(application, host, port) for application, port in doors.values()]
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for server in servers:
            server.stop()
        loop.call_later(GRACE_SECONDS, end)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await asyncio.gather(*(server.serve() for server in servers))
    end()


def _server(application: Application, host: str, port: int) -> Any:
    return Server(
        application,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        log_enabled=False,
    )


def _check_free(host: str, port: int, option: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTakenError(
                f"Cannot listen on {host}:{port} ({error.strerror}). Choose another with {option}."
            ) from error
