"""Requests whose bytes on the wire are wrong: lengths that lie, chunks without end, no HTTP at all."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.hostile import bodies, shop
from tests.hostile.callers import ANSWER_SECONDS, PATH, OverSocket, Unanswered, read_answer
from tests.hostile.judge import Dishonest
from tests.hostile.oracle import BODY_BYTES


@dataclass(frozen=True)
class Story:
    """Bytes to send, whether to end there, the statuses allowed (0: none), and how many are stored."""

    name: str
    bytes: bytes
    statuses: frozenset[int]
    stored: frozenset[int]
    then_end: bool = True


ONE = bodies.good("n0").encode()
TWO = f"[{bodies.good('n0')},{bodies.good('n1')}]".encode()
LARGE = b"[" + b" " * (BODY_BYTES + 4_000) + b"]"


def _request(body: bytes, *headers: str, key: str) -> bytes:
    lines = [
        f"POST {PATH} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def stories(key: str) -> list[Story]:
    """Return each kind of broken request, with what may come of it."""

    def made(body: bytes, *headers: str) -> bytes:
        return _request(body, "Connection: close", *headers, key=key)

    chunked = "Transfer-Encoding: chunked"
    nothing, refused = frozenset({0}), frozenset({0, 400, 408, 411, 413, 415, 431, 501, 505})
    return [
        Story("longer than said", made(TWO + b"]" * 99, f"Content-Length: {len(TWO)}"), frozenset({204}), frozenset({2}), then_end=False),
        Story("shorter than said", made(TWO, f"Content-Length: {len(TWO) + 1}"), refused, nothing),
        Story("cut in the middle", made(TWO[:50], f"Content-Length: {len(TWO)}"), refused, nothing),
        Story("no body at all", made(b"", f"Content-Length: {len(TWO)}"), refused, nothing),
        Story("no length", made(TWO), refused, nothing),
        Story("length of a fraction", made(TWO, "Content-Length: 1.5"), refused, nothing),
        Story("negative length", made(TWO, "Content-Length: -1"), refused, nothing),
        Story("length beyond numbers", made(TWO, "Content-Length: " + "9" * 400), refused, nothing),
        Story("length over the limit", made(b"", f"Content-Length: {10**12}"), refused, nothing),
        Story("two lengths", made(TWO, f"Content-Length: {len(TWO)}", "Content-Length: 5"), refused, nothing),
        Story("length and chunks", made(_chunk(TWO) + b"0\r\n\r\n", chunked, "Content-Length: 5"), refused | {204}, frozenset({0, 2})),
        Story("chunks", made(_chunk(TWO[:9]) + _chunk(TWO[9:]) + b"0\r\n\r\n", chunked), frozenset({204}), frozenset({2}), then_end=False),
        Story("chunks with extensions and trailers", made(b"%x;a=b\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(ONE), ONE), chunked), frozenset({204}), frozenset({1}), then_end=False),
        # All of it has arrived and only the word that it is all has not: storing it is no lie.
        Story("chunks without end", made(_chunk(TWO), chunked), refused | {204}, frozenset({0, 2})),
        Story("chunks cut in the middle", made(_chunk(TWO)[:60], chunked), refused, nothing),
        Story("chunk of no size", made(b"zz\r\n" + TWO, chunked), refused, nothing),
        Story("chunk of a huge size", made(b"f" * 40 + b"\r\n" + TWO, chunked), refused, nothing),
        Story("chunks over the limit", made(_chunk(LARGE) + b"0\r\n\r\n", chunked), frozenset({0, 413}), nothing, then_end=False),
        Story("chunks over the limit without end", made(_chunk(LARGE), chunked), refused, nothing),
        Story("another transfer encoding", made(TWO, "Transfer-Encoding: gzip"), refused, nothing),
        Story("body over the limit", made(LARGE, f"Content-Length: {len(LARGE)}"), frozenset({0, 413}), nothing, then_end=False),
        Story("an endless header", made(TWO, "X-Long: " + "x" * 2_000_000, f"Content-Length: {len(TWO)}"), refused | {204}, frozenset({0, 2})),
        Story("ten thousand headers", made(TWO, *(f"X-{n}: y" for n in range(10_000)), f"Content-Length: {len(TWO)}"), refused, nothing),
        Story("a header without a name", made(TWO, ": y", f"Content-Length: {len(TWO)}"), refused, nothing),
        Story("a header with a control character", made(TWO, "X: a\x00b", f"Content-Length: {len(TWO)}"), refused, nothing),
        Story("bare line feeds", made(TWO, f"Content-Length: {len(TWO)}").replace(b"\r\n", b"\n"), refused | {204}, frozenset({0, 2})),
        Story("expecting to continue", made(TWO, "Expect: 100-continue", f"Content-Length: {len(TWO)}"), frozenset({100, 204}), frozenset({2}), then_end=False),
        Story("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300, refused, nothing),
        Story("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", refused, nothing),
        Story("an unknown version", made(TWO).replace(b"HTTP/1.1", b"HTTP/9.9"), refused, nothing),
        Story("packed, in chunks", made(_chunk(b"\x1f\x8b") + b"0\r\n\r\n", chunked, "Content-Encoding: gzip"), frozenset({400}), nothing, then_end=False),
    ]  # fmt: skip


def check_all(caller: OverSocket, *, told: Callable[[str], None] = lambda _: None) -> int:
    """Send each story from a source of its own; return how many there were.

    Raises:
        Dishonest: with the story's name.
    """
    names = [story.name for story in stories("")]
    for number, name in enumerate(names):
        till = shop.open_till()
        story = stories(till.key)[number]
        try:
            status = caller.write(story.bytes, then_end=story.then_end).status
        except Unanswered:
            status = 0
        stored = _settled(till, story)
        told(f"{name}: {status or 'no answer'}, {stored} stored")
        if status not in story.statuses or stored not in story.stored:
            raise Dishonest(f"{name}: {status}, {stored} stored")
    return len(names)


def _settled(till: shop.Till, story: Story) -> int:
    """Count what is stored; wait a moment for what may still be, where nobody was answered."""
    deadline = time.monotonic() + 0.3
    while (count := len(till.ids())) < max(story.stored) and time.monotonic() < deadline:
        time.sleep(0.02)
    return count


def check_slow_and_pipelined(port: int) -> None:
    """A body that comes in two parts, then two requests in one write.

    Raises:
        Dishonest: an answer is not 204, or an event is missing.
    """
    till = shop.open_till()
    ids = [f"n{number}" for number in range(3)]
    requests = [
        _request(
            bodies.good(event_id).encode(),
            f"Content-Length: {len(bodies.good(event_id))}",
            key=till.key,
        )
        for event_id in ids
    ]
    with contextlib.closing(
        socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
    ) as connection:
        connection.sendall(requests[0][:-20])
        time.sleep(0.2)
        connection.sendall(requests[0][-20:])
        statuses = [read_answer(connection).status]
        connection.sendall(requests[1] + requests[2])
        # The second answer may come with the first, so their heads are counted.
        text = b""
        while text.count(b"HTTP/1.1 ") < 2 or not text.endswith(b"\r\n\r\n"):
            piece = connection.recv(65_536)
            if not piece:
                break
            text += piece
        statuses += [204] * text.count(b"HTTP/1.1 204 ")
    if statuses != [204] * 3 or till.ids() != set(ids):
        raise Dishonest(f"slow and pipelined: {statuses}, {sorted(till.ids())}")
