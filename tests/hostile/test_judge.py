"""The oracle and the judge themselves: each lie that is planted must be noticed."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.hostile import bodies, judge, oracle
from tests.hostile.judge import Answer, Dishonest, Row
from tests.hostile.oracle import Request, Verdict

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)


def one(**changes) -> str:
    """A good event as text, with values as text; ... leaves an attribute out."""
    whole = {
        "id": '"a"',
        "type": '"llm.call"',
        "subject": '"acme"',
        "data": '{"input_tokens":1}',
    } | changes
    return (
        "{"
        + ",".join(f'"{name}":{value}' for name, value in whole.items() if value is not ...)
        + "}"
    )


def verdicts(*events: str) -> list[str]:
    reading = oracle.read(Request(f"[{','.join(events)}]".encode()), now=NOW)
    assert reading.events is not None
    return [event.verdict.value for event in reading.events]


@pytest.mark.parametrize(
    "text",
    [
        one(),
        one(id=f'"{"x" * 200}"'),
        one(time='"2026-11-20T12:31:00+00:00"', specversion='"1.0"', source="null", extra="[1]"),
        one(data='{"input_tokens":"12","credits":1.25,"user":7,"x":[[[[1]]]]}'),
        one(data='{"input_tokens":1e3,"credits":null}'),
        one(type='"job.run"', data="{}"),
        one(id='"\\ud83d\\ude00"'),
    ],
)
def test_the_oracle_stores_what_is_good(text):
    assert verdicts(text) == ["store"]


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[]",
        "NaN",
        one(id=...),
        one(id='""'),
        one(id=f'"{"x" * 201}"'),
        one(id='"\\u0007"'),
        one(id='"\\ud800"'),
        one(type='"other"'),
        one(specversion="null"),
        one(time='"2026-11-20T12:30:00"'),
        one(time='"2026-02-30T12:30:00Z"'),
        one(time='"2026-11-20T13:30:00Z"'),
        one(time='"2026-10-01T12:30:00Z"'),
        one(extra='{"a":1,"a":2}'),
        one(extra="Infinity"),
        one()[:-1] + ',"id":"b"}',
        one(data="[]"),
        one(data="{}"),
        one(data='{"input_tokens":true}'),
        one(data='{"input_tokens":0.5}'),
        one(data='{"input_tokens":-1}'),
        one(data='{"input_tokens":1000000000000000}'),
        one(data='{"input_tokens":1,"credits":"1.255"}'),
        one(data='{"input_tokens":1,"user":1.0}'),
        one(data='{"input_tokens":1,"x":1e31}'),
        one(data='{"input_tokens":1,"x":1e99999999999999999999}'),
        one(data='{"input_tokens":1,"x":[[[[[1]]]]]}'),
        one(data='{"input_tokens":1,"x":"\\u0000"}'),
        one(data=f'{{"input_tokens":1,"x":"{"y" * 8200}"}}'),
    ],
)
def test_the_oracle_refuses_what_is_bad(text):
    assert verdicts(one(id='"good"'), text) == ["store", "refuse"]


def test_the_oracle_tells_repetitions_from_conflicts():
    other = one(data='{"input_tokens":2}')
    same_value = one(data='{"input_tokens":1.0}')

    assert verdicts(one(), one(), other, same_value) == ["store", "store", "refuse", "either"]


@pytest.mark.parametrize(
    ("request_", "refusals"),
    [
        (Request(b""), {400}),
        (Request(b"{}"), {400}),
        (Request(b"[]", content_type="text/plain"), {415}),
        (Request(b"", content_type=None), {400, 415}),
        (Request(b" " * (1024 * 1024 + 1)), {400, 413}),
        (Request(b"[" + b"1," * 1000 + b"1]"), {413}),
        (Request(b"[]", length="3"), {400, 413}),
        (Request(b"[]", length="some"), {400, 413}),
        (Request(b"[]", refused_caller=401), {401}),
        (Request(b"[]", encoding="br"), {400, 415}),
        (Request(gzip.compress(b"[]")[:-1], encoding="gzip"), {400, 413}),
        (Request(gzip.compress(b" " * 2_000_000), encoding="gzip"), {400, 413}),
    ],
)
def test_the_oracle_refuses_whole_requests(request_, refusals):
    reading = oracle.read(request_, now=NOW)

    assert (reading.events, reading.refusals) == (None, refusals)


def test_the_oracle_reads_a_packed_body_in_all_its_members():
    packed = gzip.compress(b"[") + gzip.compress(one().encode() + b"]")

    reading = oracle.read(Request(packed, encoding="gzip"), now=NOW)

    assert [event.verdict for event in reading.events] == [Verdict.STORE]


# --- the judge ------------------------------------------------------------------------------------

GOOD = one()
BAD = one(id='"b"', data="{}")
ROW = Row("llm.call", "acme", NOW, NOW, '{"input_tokens": 1}')
PROBLEM = {"content-type": "application/problem+json"}


def told(accepted, duplicates, *refused, **changes) -> Answer:
    problem = {
        "status": 400,
        "title": "Some",
        "errors": [{"index": index, "field": "", "reason": "bad"} for index in refused],
        "accepted": accepted,
        "duplicates": duplicates,
    } | changes
    return Answer(400, PROBLEM, json.dumps(problem).encode())


NO_CONTENT = Answer(204, {}, b"")
FIRST, SECOND = told(1, 0, 1), told(0, 1, 1)


def judged(events, answer, rows, again):
    request = Request(f"[{','.join(events)}]".encode())
    judge.check(request, oracle.read(request, now=NOW), answer, rows, again)


def test_an_honest_answer_passes():
    judged([GOOD], NO_CONTENT, {"a": ROW}, NO_CONTENT)
    judged([GOOD, BAD], FIRST, {"a": ROW}, SECOND)


@pytest.mark.parametrize(
    ("answer", "rows", "again"),
    [
        (FIRST, {}, SECOND),
        (FIRST, {"a": ROW, "b": ROW}, SECOND),
        (FIRST, {"c": ROW}, SECOND),
        (FIRST, {"a": replace(ROW, subject="other")}, SECOND),
        (FIRST, {"a": replace(ROW, data='{"input_tokens": 2}')}, SECOND),
        (FIRST, {"a": replace(ROW, occurred_at=NOW - timedelta(seconds=1))}, SECOND),
        (told(2, 0, 1), {"a": ROW}, SECOND),
        (told(1, 1, 1), {"a": ROW}, SECOND),
        (told(0, 0, 0, 1), {}, told(0, 0, 0, 1)),
        (NO_CONTENT, {"a": ROW}, NO_CONTENT),
        (FIRST, {"a": ROW}, told(1, 0, 1)),
        (FIRST, {"a": ROW}, NO_CONTENT),
        (told(1, 0, 1, status=422), {"a": ROW}, SECOND),
        (told(1, 0, 1, title=""), {"a": ROW}, SECOND),
        (replace(FIRST, headers={"content-type": "text/html"}), {"a": ROW}, SECOND),
        (replace(FIRST, status=500), {"a": ROW}, SECOND),
        (replace(FIRST, status=503), {}, SECOND),
        (Answer(413, PROBLEM, b'{"status":413,"title":"Large"}'), {}, SECOND),
    ],
)
def test_a_lie_is_noticed(answer, rows, again):
    with pytest.raises(Dishonest):
        judged([GOOD, BAD], answer, rows, again)


def test_a_refusal_that_stored_something_is_noticed():
    refused = Answer(400, PROBLEM, b'{"status":400,"title":"No"}')

    judged(["nonsense"], refused, {}, refused)
    with pytest.raises(Dishonest):
        judged(["nonsense"], refused, {"a": ROW}, refused)


def test_good_events_are_made_good():
    assert verdicts(bodies.good("n1")) == ["store"]
