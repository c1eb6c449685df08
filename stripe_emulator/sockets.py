"""Closing a client's connection under the server's hands, which no ASGI message can ask for."""

import os
import socket
import stat
import struct
from pathlib import Path

_DESCRIPTORS = Path("/dev/fd")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def cut(host: str, port: int, *, at_port: int) -> bool:
    """Shut the connection of our `at_port` whose other end is host:port, without another byte.

    False when there is none. Two of our ports can have peers of the same address. The descriptor is
    found by both ends' addresses and shut through a duplicate, so the server's own handle stays
    valid and simply sees the end of the stream.
    """
    wanted = (host, port, at_port)
    for entry in _DESCRIPTORS.iterdir():
        try:
            if not stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                if connection.family not in {socket.AF_INET, socket.AF_INET6}:
                    continue
                if (*connection.getpeername()[:2], connection.getsockname()[1]) == wanted:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                    connection.shutdown(socket.SHUT_RDWR)
                    return True
        except OSError:
            # Descriptors come and go while we look, and listening sockets have no peer.
            continue
    return False
