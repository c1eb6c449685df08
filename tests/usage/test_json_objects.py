"""JSON objects are read strictly: what a lenient reader would drop or bend is refused."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.json_objects import NotAnObject, has_repeated_key, read_object

pytestmark = pytest.mark.unit

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
)
OBJECTS = st.dictionaries(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
    st.recursive(
        SCALARS,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text("ab:", max_size=2), inner, max_size=3)
        ),
        max_leaves=3,
    ),
    max_size=5,
)


@given(OBJECTS, st.booleans())
def test_an_ordinary_object_is_read_as_it_was_written(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only).encode()

    assert read_object(text) == value


def test_floats_come_as_exact_decimals():
    assert read_object(b'{"a":0.1,"b":1e-7}') == {"a": Decimal("0.1"), "b": Decimal("1E-7")}


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'{"a" : 1, "a": 2}',
        b'{"x":{"a":1,"a":2}}',
        b'{"x":[{"a":1,"a":1}]}',
        # Here the dropped key's colon is made up for by one hidden in an escape.
        b'{"a":"\\u003a","a":"\\u003a"}',
    ],
)
def test_a_key_that_stands_twice_is_refused(text):
    assert has_repeated_key(text)
    with pytest.raises(NotAnObject, match="must not hold a key twice"):
        read_object(text)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "a:b", '"']), SCALARS), max_size=4))
def test_repeated_keys_are_found_whatever_stands_around_them(pairs):
    members = ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in pairs)
    text = f"{{{members}}}".encode()

    if len({key for key, _ in pairs}) == len(pairs):
        read_object(text)
    else:
        with pytest.raises(NotAnObject):
            read_object(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[]", "must be a JSON object"),
        (b'"a"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"a":NaN}', "must be a JSON object"),
        (b'{"a":Infinity}', "must be a JSON object"),
        (b'{"a":"\\ud800"}', "must be a JSON object"),
        (b'{"a":1e400}', "must not hold a number beyond 30 digits"),
        (b'{"a":1e-400}', "must not hold a number beyond 30 digits"),
        (b'{"a":0e-20000}', "must not hold a number beyond 30 digits"),
        (b'{"a":1e99999999999999999999}', "must not hold a number beyond 30 digits"),
        (b'{"a":1e-99999999999999999999}', "must not hold a number beyond 30 digits"),
        (b'{"a":' + b"9" * 60 + b"}", "must not hold a number beyond 30 digits"),
        (b'{"a":"\\u0000"}', "must not hold a NUL character"),
        (b'{"\\u0000":1}', "must not hold a NUL character"),
        (b'{"a":[[[[[1]]]]]}', "must not be deeper than 5 levels"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "must"),
    ],
)
def test_what_cannot_be_stored_is_refused(text, reason):
    with pytest.raises(NotAnObject, match=reason):
        read_object(text)
