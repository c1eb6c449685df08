"""A small server that keeps the ingestion API's contract, or answers as a test has written down."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Reply:
    """One answer. `stores` says whether the events are kept, `is_lost` that no byte of it arrives."""

    status: int = 204
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stores: bool = False
    is_lost: bool = False


def problem(status: int, **members: Any) -> Reply:
    return Reply(status, json.dumps(members).encode(), {"Content-Type": PROBLEM})


STORED_BUT_LOST = Reply(stores=True, is_lost=True)
LOST = Reply(is_lost=True)


class Server:
    """Serves from threads of its own; what it saw may be read at any time."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.script: deque[Reply] = deque()
        self.otherwise: Reply | None = None
        """Answers when the script is used up; None keeps the contract."""
        self.refuses: dict[str, str] = {}
        """Ids to refuse, with the reason."""
        self.most_bytes = 1024 * 1024
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.arrivals: Counter[str] = Counter()
        self.stored: dict[str, dict[str, Any]] = {}
        self.connections = 0
        self.gate = threading.Event()
        """Answers wait for it."""
        self.gate.set()
        self._lock = threading.Lock()
        self._http = _Listener(("127.0.0.1", port), _handler(self))
        if tls:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self._scheme = "https" if tls else "http"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._http.server_port

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def answer(self, raw: bytes, headers: dict[str, str]) -> Reply:
        self.gate.wait(20)
        body = gzip.decompress(raw) if headers.get("Content-Encoding") == "gzip" else raw
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            reply = self.script.popleft() if self.script else self.otherwise
            if reply is None and len(body) > self.most_bytes:
                return problem(413, title="The request cannot be read")
            events = json.loads(body)
            self.arrivals.update(event["id"] for event in events)
            if reply is None:
                return self._keep(events)
            if reply.stores:
                self._keep(events)
            return reply

    def _keep(self, events: list[dict[str, Any]]) -> Reply:
        errors = []
        for index, event in enumerate(events):
            if event["id"] in self.refuses:
                reason = self.refuses[event["id"]]
                errors.append({"index": index, "field": "data", "reason": reason})
            else:
                self.stored.setdefault(event["id"], event)
        return problem(400, errors=errors) if errors else Reply()

    def close(self) -> None:
        self.gate.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that is killed in the middle of a request."""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            server.connections += 1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            reply = server.answer(body, dict(self.headers))
            if reply.is_lost:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.status != 204:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: Any) -> None:
            """Keep the tests' output clean."""

    return Handler


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
