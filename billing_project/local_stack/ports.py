"""The three TCP ports of the stack, all on the loopback address."""

import errno
import socket
from collections.abc import Mapping

from billing_project.local_stack.problems import CannotStartError

LOOPBACK = "127.0.0.1"
LARGEST_PORT = 65_535


def read_port(environment: Mapping[str, str], variable: str, default: int) -> int:
    """Read a port number.

    Raises:
        CannotStartError: the variable holds something else.
    """
    text = environment.get(variable, "") or str(default)
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= LARGEST_PORT):
        raise CannotStartError(f"{variable}={text} is not a port: give a number from 1 to 65535.")
    return int(text)


def require_free(wanted: Mapping[str, int]) -> None:
    """Make sure the port of each variable in `wanted` can be opened.

    Raises:
        CannotStartError: two variables name one port, or somebody else has it.
    """
    seen: dict[int, str] = {}
    for variable, port in wanted.items():
        if port in seen:
            raise CannotStartError(
                f"{seen[port]} and {variable} both name port {port}: set one of them to another."
            )
        seen[port] = variable
    for variable, port in wanted.items():
        _require_free(variable, port)


def _require_free(variable: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier run that are still winding down do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = "is taken by another program"
            elif error.errno == errno.EACCES:
                reason = "is reserved for the system"
            else:
                reason = f"cannot be opened ({error.strerror})"
            raise CannotStartError(
                f"Port {port} on {LOOPBACK} {reason}: set {variable} to a free one, "
                f"for example {variable}={port + 1 if port < LARGEST_PORT else port - 1}."
            ) from None
