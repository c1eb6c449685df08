"""The embedded Valkey: Celery's broker, reached by unix socket only."""

import json
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from billing_project.local_stack import binaries
from billing_project.local_stack.service import Service, Wave
from billing_project.local_stack.state import StateFolder, write_private


@dataclass(frozen=True, slots=True)
class Valkey:
    """One server: program, data folder and socket."""

    program: Path
    data: Path
    socket_path: Path
    durable: bool

    @property
    def url(self) -> str:
        """Return the CELERY_BROKER_URL."""
        return f"redis+socket://{self.socket_path}?virtual_host=0"

    def is_ready(self) -> bool:
        """Tell whether the server has loaded its data and answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self.socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False

    def service(self) -> Service:
        """Describe the server to the supervisor."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.data),
            # A queued wake-up survives a crash of the server, up to a second's worth.
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "everysec",
            "save": "",
            # A broker that forgets keys when full would lose queues in silence.
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return Service(
            name="valkey",
            command=(str(self.program), *words),
            wave=Wave.BROKER,
            is_ready=self.is_ready,
            folder=self.data,
        )


def prepare(state: StateFolder, *, durable: bool = True) -> Valkey:
    """Choose program and places; data another server wrote is thrown away.

    The queues carry wake-ups and never facts, so nothing is lost but a few seconds.
    """
    program = binaries.valkey_server()
    maker = {"program": program.name, "major": binaries.major_version(program)}
    data = state.folder("valkey")
    marker = data / "maker.json"
    if not marker.exists() or json.loads(marker.read_text()) != maker:
        shutil.rmtree(data)
        data = state.folder("valkey")
        write_private(marker, json.dumps(maker))
    return Valkey(program, data, state.sockets() / "valkey.sock", durable)
