"""Two ways to the API: the WSGI application in this process, and a socket to a web server."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from django.core.signals import got_request_exception, request_finished, request_started
from django.db import close_old_connections

from tests.hostile.judge import Answer
from tests.hostile.oracle import BODY_BYTES, Request

PATH = "/api/v1/events"
ANSWER_SECONDS = 10


class Unanswered(Exception):
    """The connection ended without an answer."""


class RefusedByServer(Exception):
    """The web server refused what no HTTP request may hold, or hung up on too large a body."""


class Caller(Protocol):
    def send(self, request: Request, *, key: str, reader: str) -> Answer: ...


def headers_of(request: Request, *, key: str, reader: str) -> list[tuple[str, str]]:
    """Return all headers but the length."""
    basic = base64.b64encode(f"{key}:".encode()).decode()
    authorization = request.authorization.format(key=key, reader=reader, basic=basic)
    named = [
        ("Authorization", authorization),
        ("Content-Type", request.content_type),
        ("Content-Encoding", request.encoding),
        ("Prefer", request.prefer),
        *request.more,
    ]
    return [(name, value) for name, value in named if value is not None]


@contextlib.contextmanager
def connection_kept() -> Iterator[None]:
    """Leave the database's connection open after a request, as Django's test client does.

    It may be inside a test's transaction.
    """
    request_started.disconnect(close_old_connections)
    request_finished.disconnect(close_old_connections)
    try:
        yield
    finally:
        request_started.connect(close_old_connections)
        request_finished.connect(close_old_connections)


class InProcess:
    """Calls the WSGI application the web server serves, as a server would."""

    def __init__(self) -> None:
        from billing_project.wsgi import application  # noqa: PLC0415 - needs Django's settings

        self._application = application

    def send(self, request: Request, *, key: str, reader: str) -> Answer:
        """Return the answer.

        Raises:
            Exception: what a view raised, which a caller would see as a 500.
        """
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": PATH,
            "QUERY_STRING": "",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "127.0.0.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(request.body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        for name, value in headers_of(request, key=key, reader=reader):
            field = name.upper().replace("-", "_")
            # As latin-1, which is how WSGI hands on bytes.
            environ[field if field == "CONTENT_TYPE" else f"HTTP_{field}"] = value.encode().decode(
                "latin-1"
            )
        if request.is_chunked:
            environ["HTTP_TRANSFER_ENCODING"] = "chunked"
        else:
            environ["CONTENT_LENGTH"] = (
                str(len(request.body)) if request.length is None else request.length
            )
        raised: list[BaseException] = []
        told: list[Any] = []

        def start_response(status: str, headers: Iterable[tuple[str, str]], *_: Any) -> None:
            told.extend([int(status[:3]), {name.lower(): value for name, value in headers}])

        def note(**_: Any) -> None:
            error = sys.exc_info()[1]
            if error is not None:
                raised.append(error)

        got_request_exception.connect(note)
        try:
            with connection_kept():
                answer = self._application(environ, start_response)
                body = b"".join(answer)
                answer.close()  # type: ignore[attr-defined]
        finally:
            got_request_exception.disconnect(note)
        if raised:
            raise raised[0]
        return Answer(told[0], told[1], body)


LARGE_HEADERS = 16 * 1024
"""From here on a server may refuse a request for its headers alone."""


def _may_be_refused_by_server(request: Request) -> bool:
    values = [value for _, value in headers_of(request, key="", reader="")]
    text = "".join(values)
    return len(text) > LARGE_HEADERS or len(values) > MANY_HEADERS or not text.isprintable()


MANY_HEADERS = 60


class OverSocket:
    """Writes each request to a connection of its own, byte by byte as it was made."""

    def __init__(self, port: int) -> None:
        self._port = port

    def send(self, request: Request, *, key: str, reader: str) -> Answer:
        """Return the answer. A length that lies is left to `framing`.

        Raises:
            Unanswered: there is none.
            RefusedByServer: the answer is the web server's own.
        """
        lines = [f"POST {PATH} HTTP/1.1", f"Host: 127.0.0.1:{self._port}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers_of(request, key=key, reader=reader)]
        if request.is_chunked:
            lines.append("Transfer-Encoding: chunked")
            body = b"".join(
                b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _pieces(request.body)
            )
            body += b"0\r\n\r\n"
        else:
            body = request.body
            lines.append(f"Content-Length: {len(body)}")
        try:
            answer = self.write("\r\n".join([*lines, "", ""]).encode() + body)
        except Unanswered as error:
            if len(body) > BODY_BYTES:
                # It closed before it had read all, and its answer may be lost with the rest.
                raise RefusedByServer from error
            raise
        if answer.status in {400, 431} and not answer.body and _may_be_refused_by_server(request):
            raise RefusedByServer(answer.status)
        return answer

    def write(self, request: bytes, *, then_end: bool = False) -> Answer:
        """Write bytes and read one answer; `then_end` tells the server that no more will come.

        Raises:
            Unanswered: there is none.
        """
        with socket.create_connection(("127.0.0.1", self._port), ANSWER_SECONDS) as connection:
            # A server that has refused may close before it has read all.
            with contextlib.suppress(OSError):
                connection.sendall(request)
                if then_end:
                    connection.shutdown(socket.SHUT_WR)
            return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer:
    """Read one answer and no more.

    Raises:
        Unanswered: there is none.
    """
    text = b""
    try:
        while b"\r\n\r\n" not in text:
            piece = connection.recv(65_536)
            if not piece:
                raise Unanswered("closed")
            text += piece
        head, _, body = text.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        missing = int(headers.get("content-length", "0")) - len(body)
        while missing > 0:
            piece = connection.recv(missing)
            if not piece:
                raise Unanswered("cut short")
            body += piece
            missing -= len(piece)
    except OSError as error:
        raise Unanswered(str(error)) from error
    return Answer(int(first.split()[1]), headers, body)


def _pieces(body: bytes) -> list[bytes]:
    """Cut at odd places, in the middle of characters too."""
    return [body[at : at + 997] for at in range(0, min(len(body), 99_700), 997)] + (
        [body[99_700:]] if len(body) > 99_700 else []
    )
