"""Asking a local HTTP server whether it answers."""

import http.client
from collections.abc import Callable

from billing_project.local_stack.ports import LOOPBACK

_TIMEOUT_SECONDS = 2.0


def answers(port: int, path: str = "/", *, status: int | None = None) -> Callable[[], bool]:
    """Return a probe that is true once the port answers `path`, with `status` if one is given.

    Without one any answer will do: a login page or a redirect comes from a server that is up.
    """

    def probe() -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("GET", path)
            return status in {None, connection.getresponse().status}
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return probe
