"""Reading an array at once gives what reading each event with care gives, or nothing."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.cloud_events import read_event
from usage.plain_events import read_plainly
from usage.reports import ReportedEvent, row_of

pytestmark = pytest.mark.unit

PLAIN = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "app",
    "type": "llm.call",
    "subject": "acme",
    "time": "2026-11-20T12:00:00.5Z",
    "datacontenttype": "application/json",
    "data": {"model": "m:1", "input_tokens": 10, "cost": 1.35e-05, "cached": True, "user": None},
}


def text_of(*events) -> bytes:
    return json.dumps(events).encode()


def without(name: str) -> dict:
    return {key: value for key, value in PLAIN.items() if key != name}


@pytest.mark.parametrize(
    "event",
    [
        PLAIN,
        without("specversion"),
        without("source"),
        without("time"),
        without("datacontenttype"),
        PLAIN | {"time": "2026-11-20T13:00:00+01:00"},
        PLAIN | {"data": {}},
        PLAIN | {"data": {"n": 10**30 - 1, "m": -(10**30)}},
        PLAIN | {"data": {"model": "m", "n": 2**62, "m": -(2**62), "cached": False, "user": None}},
        PLAIN | {"data": {"n": 2**62 + 1}},
        PLAIN | {"data": {"n": 1.0}},
    ],
)
def test_a_plain_event_is_read_as_with_care(event):
    read = read_plainly(text_of(event, event | {"id": "e-2"}))

    assert read is not None
    first, second = read
    assert first == read_event(json.dumps(event).encode())
    assert second.event_id == "e-2"


def test_an_array_of_nothing_is_read():
    assert read_plainly(b" [ ] ") == []


REPEATED = json.dumps(PLAIN)[:-1]


@pytest.mark.parametrize(
    "body",
    [
        text_of(PLAIN, PLAIN | {"specversion": "0.3"}),
        text_of(PLAIN, PLAIN | {"extension": "x"}),
        text_of(PLAIN, PLAIN | {"extension": 1}),
        text_of(PLAIN, PLAIN | {"source": None}),
        text_of(PLAIN, PLAIN | {"time": None}),
        text_of(PLAIN, PLAIN | {"time": "0001-01-01T00:00:00+14:00"}),
        text_of(PLAIN, PLAIN | {"time": "2026-11-20T12:00:00"}),
        text_of(PLAIN, PLAIN | {"id": ""}),
        text_of(PLAIN, PLAIN | {"subject": "a\x7f"}),
        text_of(PLAIN, PLAIN | {"subject": "ü"}),
        text_of(PLAIN, PLAIN | {"subject": 'a"b'}),
        text_of(PLAIN, PLAIN | {"data": {"n": 10**31}}),
        text_of(PLAIN, PLAIN | {"data": {"n": [1]}}),
        text_of(PLAIN, PLAIN | {"data": {"n": {}}}),
        text_of(PLAIN, PLAIN | {"data": {"n": "x" * 8_192}}),
        text_of(PLAIN, PLAIN | {"data": []}),
        f'[{REPEATED}, "id": "other"}}]'.encode(),
        f'[{REPEATED}, "data": {{}}}}]'.encode(),
        f'[{REPEATED}, "time": "2026-11-20T12:00:00Z"}}]'.encode(),
        b'[{"id":"a","type":"t","subject":"s","data":{"n":1,"n":2}}]',
        b'[{"id":"a","type":"t","subject":"s","data":{"n":"1","n":2}}]',
        b'[{"id":"a","type":"t","subject":"s","data":{"n":1e400}}]',
        b'[{"id":"a","type":"t","subject":"s","data":{"n":1e99999999999999999999}}]',
        b'[{"id":"a","type":"t","subject":"s","data":{"n":NaN}}]',
        b'[{"id":"a"}',
        b'{"id":"a"}',
        b"[" * 100_000,
    ],
)
def test_what_is_not_plain_is_left_to_be_read_with_care(body):
    assert read_plainly(body) is None


WORDS = st.sampled_from(["a", "a:b", "é", 'q"', "\\", "\x7f", "\t", "", "x" * 201, " "])
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**32), 10**32),
    st.floats(allow_nan=True),
    WORDS,
    st.lists(st.integers(), max_size=2),
)
EVENTS = st.fixed_dictionaries(
    {"id": WORDS, "type": WORDS, "subject": WORDS, "data": st.dictionaries(WORDS, VALUES, max_size=4)},
    optional={
        "specversion": st.sampled_from(["1.0", "2.0", None, 1]),
        "source": st.one_of(st.none(), WORDS),
        "time": st.sampled_from(["2026-11-20T12:00:00Z", "2026-11-20T12:00:00-05:30", "now", None]),
        "datacontenttype": st.one_of(st.none(), WORDS),
        "extra": VALUES,
    },
)  # fmt: skip


@given(st.lists(EVENTS, min_size=1, max_size=3), st.booleans(), st.integers(0, 400))
def test_whatever_is_read_at_once_is_read_so_with_care(events, ascii_only, doubled):
    texts = [json.dumps(event, ensure_ascii=ascii_only) for event in events]
    # Now and then a member is written twice, wherever it stands.
    if doubled < len(texts[0]) and texts[0][doubled] == ",":
        member, _, _ = texts[0][doubled + 1 :].partition(",")
        texts[0] = f"{texts[0][:doubled]},{member}{texts[0][doubled:]}"

    read = read_plainly(f"[{','.join(texts)}]".encode())

    if read is not None:
        careful = [read_event(text.encode()) for text in texts]
        assert all(isinstance(event, ReportedEvent) for event in careful)
        assert msgspec.to_builtins(read) == msgspec.to_builtins(careful)
        assert [row_of(event) for event in read] == [row_of(event) for event in careful]
