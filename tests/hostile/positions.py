"""F12: one bad event in a batch of 1,000, at any place, costs none of its neighbours."""

from __future__ import annotations

from tests.hostile import bodies, shop
from tests.hostile.callers import Caller
from tests.hostile.judge import Dishonest
from tests.hostile.oracle import EVENTS, Request

BAD = (
    b"null",
    b"[]",
    b'"text"',
    b"{}",
    b"NaN",
    b'{"id":"bad","type":"llm.call","subject":"acme"}',
    b'{"id":"bad","type":"llm.call","subject":"acme","data":{"input_tokens":NaN}}',
    b'{"id":"bad","type":"llm.call","subject":"acme","data":{"input_tokens":1e400}}',
    b'{"id":"bad","type":"llm.call","subject":"acme","data":{"input_tokens":-1}}',
    b'{"id":"bad","type":"llm.call","subject":"acme","data":{"input_tokens":1,"input_tokens":2}}',
    b'{"id":"bad","type":"llm.call","subject":"acme","data":{"input_tokens":1,"x":"\\u0000"}}',
    b'{"id":"bad","type":"llm.call","subject":"acme","data":{"input_tokens":1,"x":[[[[[1]]]]]}}',
    b'{"id":"bad","type":"llm.call","subject":"\\ud800","data":{"input_tokens":1}}',
    b'{"id":"bad\xff","type":"llm.call","subject":"acme","data":{"input_tokens":1}}',
    b'{"id":"bad","id":"bad","type":"llm.call","subject":"acme","data":{"input_tokens":1}}',
    b'{"id":"bad","type":"no.such","subject":"acme","data":{"input_tokens":1}}',
    b'{"id":"bad","time":"2020-01-01T00:00:00Z","type":"llm.call","subject":"acme","data":{"input_tokens":1}}',
    b'{"id":"bad","type":"llm.call","subject":"acme","data":{"input_tokens":' + b"9" * 5000 + b"}}",
)
"""Each is refused alone; the text around it stays a batch that can be read."""

_GOOD = [bodies.good(f"n{number}").encode() for number in range(EVENTS)]


def check(caller: Caller, position: int) -> None:
    """Send a batch with a bad event at `position`; the kinds take turns.

    Raises:
        Dishonest: another event is refused, or one of the others is not stored.
    """
    till = shop.open_till()
    bad = BAD[position % len(BAD)]
    body = b"[" + b",".join([*_GOOD[:position], bad, *_GOOD[position + 1 :]]) + b"]"
    answer = caller.send(Request(body), key=till.key, reader=till.reader)
    told = answer.told() if answer.status == 400 else {}
    refused = [error["index"] for error in told.get("errors", [])]
    if refused != [position] or told["accepted"] != EVENTS - 1:
        raise Dishonest(f"at {position}, {bad[:99]!r}: {answer.status} {answer.body[:500]!r}")
    stored = till.ids()
    expected = {f"n{number}" for number in range(EVENTS)} - {f"n{position}"}
    if stored != expected:
        raise Dishonest(f"at {position}, {bad[:99]!r}: stored {sorted(stored ^ expected)[:9]}")
