"""The SDK's HTTP client of ours: what left, what did not, and when a call is over."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import stripe

from billing.gateway import errors
from billing.gateway.transport import NotSent, OutcomeUnknown, OverHttp, checked_before_write

pytestmark = [pytest.mark.unit, pytest.mark.enable_socket]

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nRequest-Id: req_1\r\n\r\n{}"


class Server:
    """Accepts connections and lets a test say what happens to each request."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1/x"
        self.requests: list[bytes] = []
        self.connections = 0
        self._answer = answer
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(peer)
            try:
                while request := self._whole(peer):
                    self.requests.append(request)
                    self._answer(peer)
            except OSError:
                pass
            peer.close()

    @staticmethod
    def _whole(peer: socket.socket) -> bytes:
        """Read a request to its end: headers and body need not come in one piece."""
        request = peer.recv(65536)
        while request and b"\r\n\r\n" not in request:
            request += peer.recv(65536)
        head, _, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        while length and len(body) < int(length[1]):
            body += peer.recv(65536)
        return request if not length else head + b"\r\n\r\n" + body

    def close(self) -> None:
        # A blocked accept is only woken by shutting the listener down first.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._sockets:
            peer.close()
        self._thread.join(timeout=5)
        assert not self._thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers = []

    def serve(answer: Callable[[socket.socket], None]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


@pytest.fixture
def client() -> Iterator[OverHttp]:
    client = OverHttp(connect_seconds=1, deadline_seconds=0.5)
    yield client
    client.close()


def test_an_answer_comes_with_status_and_headers_whatever_their_case(serve, client):
    server = serve(lambda peer: peer.sendall(ANSWER))

    content, status, headers = client.request("post", server.url + "?a=1", {"X-A": "b"}, "k=v")

    assert (content, status, headers["request-id"]) == (b"{}", 200, "req_1")
    sent = b"".join(server.requests)
    assert sent.startswith(b"POST /v1/x?a=1 HTTP/1.1\r\n")
    assert sent.endswith(b"\r\n\r\nk=v")


def test_one_connection_serves_many_calls(serve, client):
    server = serve(lambda peer: peer.sendall(ANSWER))

    for _ in range(3):
        client.request("get", server.url, {})

    assert server.connections == 1


def test_a_kept_connection_the_server_closed_is_made_anew(serve, client):
    def answer_and_close(peer: socket.socket) -> None:
        peer.sendall(ANSWER)
        peer.shutdown(socket.SHUT_RDWR)

    server = serve(answer_and_close)
    client.request("post", server.url, {}, "1")
    time.sleep(0.05)

    client.request("post", server.url, {}, "2")

    assert (server.connections, b"".join(server.requests).count(b"POST")) == (2, 2)


def test_a_refused_connection_is_known_not_to_be_sent(client):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"

    with pytest.raises(NotSent) as refused:
        client.request("post", url, {}, "x")

    assert isinstance(errors.sort(refused.value), errors.NotAccepted)


@pytest.mark.parametrize(
    "partly", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", ANSWER[:-1]], ids=["none", "head", "body"]
)
def test_an_answer_cut_off_leaves_the_outcome_unknown(serve, client, partly):
    def cut_off(peer: socket.socket) -> None:
        peer.sendall(partly)
        peer.shutdown(socket.SHUT_RDWR)

    server = serve(cut_off)

    with pytest.raises(OutcomeUnknown) as unknown:
        client.request("post", server.url, {}, "x")

    assert isinstance(errors.sort(unknown.value), errors.Unavailable)
    assert b"".join(server.requests).count(b"POST") == 1


def test_a_server_that_drips_is_hung_up_on_at_the_deadline(serve, client):
    def drip(peer: socket.socket) -> None:
        for byte in ANSWER:
            peer.sendall(bytes([byte]))
            time.sleep(0.1)

    server = serve(drip)
    began = time.monotonic()

    with pytest.raises(OutcomeUnknown):
        client.request("post", server.url, {}, "x")

    assert 0.4 < time.monotonic() - began < 2


def test_the_last_check_runs_after_connecting_and_before_the_first_byte(serve, client):
    server = serve(lambda peer: peer.sendall(ANSWER))

    def refuse() -> None:
        deadline = time.monotonic() + 2
        while not server.connections and time.monotonic() < deadline:
            time.sleep(0.01)
        raise NotSent("the lease was over")

    with pytest.raises(NotSent), checked_before_write(refuse):
        client.request("post", server.url, {}, "x")

    assert (server.connections, server.requests) == (1, [])
    client.request("post", server.url, {}, "y")
    assert b"".join(server.requests).count(b"POST") == 1


@pytest.mark.parametrize(
    ("error", "family"),
    [
        (stripe.AuthenticationError("no", http_status=401), errors.Misconfigured),
        (stripe.PermissionError("no", http_status=403), errors.Misconfigured),
        (stripe.RateLimitError("slow", http_status=429), errors.NotAccepted),
        (stripe.APIError("busy", http_status=409), errors.NotAccepted),
        (stripe.APIError("oops", http_status=500), errors.Unavailable),
        (stripe.APIError("oops", http_status=503), errors.Unavailable),
        (stripe.APIError("odd", http_status=418), errors.Unavailable),
        (stripe.APIConnectionError("reset"), errors.Unavailable),
        (stripe.IdempotencyError("mismatch", http_status=400), errors.Unavailable),
        (stripe.InvalidRequestError("bad", "x", http_status=400), errors.Rejected),
        (stripe.InvalidRequestError("none", "x", http_status=404), errors.Rejected),
        (
            stripe.InvalidRequestError(
                "An event already exists with identifier abc.", "x", http_status=400
            ),
            errors.AlreadyExists,
        ),
    ],
)
def test_each_error_of_stripes_has_one_family(error, family):
    assert type(errors.sort(error)) is family
