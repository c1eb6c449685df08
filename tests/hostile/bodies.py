"""Requests drawn by Hypothesis: valid events bent in every way we could think of."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TypeVar

from hypothesis import strategies as st

from tests.hostile.oracle import BATCH, BODY_BYTES, EVENTS, ONE, PLAIN, Request

BEGAN_AT = datetime.now(UTC)
"""Drawn times count from here, so that the same draw is the same text."""

Draw = st.DrawFn
T = TypeVar("T")
Member = tuple[str, str]
"""A key and a value, both as they are written."""

NUMBERS = (
    *("0", "1", "-0", "-1", "0.0", "1.0", "10.50", "0.001", "1e3", "1E+2", "15e-1", "1e400"),
    *("1e-400", "0e50", "NaN", "Infinity", "-Infinity", "1.", ".5", "00", "01", "0x10", "+1"),
    *("1_000", "9" * 15, "9" * 16, "1" + "0" * 30, "1" + "0" * 31, "9" * 25, "-" + "9" * 40),
    *(
        "9" * 5000,
        "1." + "0" * 4000,
        "1e99999999999999999999",
        "1e-99999999999999999999",
        "1e",
        "-",
    ),
)
TEXTS = (
    *('""', '"10"', '"1.25"', '"-1"', '"1e3"', '"NaN"', '" 7"', '"٣"', '"\\ud800"', '"\\udc00x"'),
    *('"\\u0000"', '"\\ud83d\\ude00"', '"\\u0007"', '"\x01"', '"\t"', '"\x7f"', '"\\x"', '"\\u12"'),
    *('"\u2028"', '"\u202e"', '"\ufeff"', '"\U0001f600"', '"\xa0"', '"a:b:c"', '"{[,]}"', '"\\"'),
    *('"llm.call"', '"job.run"', '"acme"', '"specversion"', '"1.0"', '"2026-02-30T00:00:00Z"'),
    *(f'"{"x" * count}"' for count in (199, 200, 201, 8_190, 8_300)),
    *(f'"{"ü" * count}"' for count in (200, 201)),
)
CONTAINERS = (
    *("{}", "[]", "[[]]", "[1,]", "[,1]", '{"a":1,"a":2}', '{"a":{"b":1,"b":1}}', '{"a"}', "{1:2}"),
    *("[" * depth + "]" * depth for depth in (1, 3, 4, 5, 6, 90, 900, 1100, 5000)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (4, 5, 6, 990)),
    "[NaN]",
    "[" + "0," * 5000 + "0]",
)
LITERALS = ("null", "true", "false", "True", "nul", "undefined", "'x'", "")
KEYS = (
    *('"id"', '"\\u0069d"', '"ID"', '"data"', '"dat\\u0061"', '"type"', '"time"', '"specversion"'),
    *('"source"', '"datacontenttype"', '"data_base64"', '"x"', '"a:b"', '""', '"\\u0000"', '"é"'),
    *("id", "'id'", "1", "null", f'"{"k" * 300}"'),
)


def _pick(options: Sequence[T]) -> st.SearchStrategy[T]:
    """Draw one of `options`, without writing all of them into Hypothesis' messages."""
    return st.integers(0, len(options) - 1).map(lambda at: options[at])


def _rarely(draw: Draw, times: int) -> bool:
    """Return True once in so many times. Drawn as a whole number, 0 would come far too often."""
    return draw(st.sampled_from([False] * (times - 1) + [True]))


@cache
def values() -> st.SearchStrategy[str]:
    """JSON values as text, most of which are wrong wherever they stand."""
    return st.one_of(
        _pick(NUMBERS),
        _pick(TEXTS),
        _pick(CONTAINERS),
        _pick(LITERALS),
        st.integers().map(str),
        st.decimals(allow_nan=False, allow_infinity=False).map(str),
        st.text(max_size=12).map(json.dumps),
        st.text(max_size=12).map(lambda text: json.dumps(text, ensure_ascii=False)),
    )


def _moment(draw: Draw) -> str:
    seconds = draw(
        st.one_of(
            st.integers(-33 * 86_400, 0),
            st.sampled_from([-40 * 86_400, 3_600, 10**8, -34 * 86_400, 120, 30]),
        )
    )
    at = BEGAN_AT + timedelta(seconds=seconds)
    written = at.strftime("%Y-%m-%dT%H:%M:%S")
    end = draw(st.sampled_from(["Z", "Z", ".5Z", ".123456789Z", "+00:00", "+05:30", "-23:59", "z"]))
    odd = draw(st.sampled_from([0] * 18 + [1, 2, 3]))
    if odd == 3:
        written = written.replace("T", " ")
    elif odd == 1:
        end = draw(st.sampled_from(["", "+0100", "+24:00", "+01:60", ".Z", "UTC", "Z "]))
    elif odd == 2:
        written = draw(
            st.sampled_from(["0001-01-01T00:00:00", "9999-12-31T23:59:60", "2026-13-01T00:00:00"])
        )
    return json.dumps(written + end)


@st.composite
def members_of_data(draw: Draw) -> list[Member]:
    members = [('"input_tokens"', draw(st.sampled_from(["1", "900", '"12"', "1.0", "1e3", "0"])))]
    if draw(st.booleans()):
        members.append(
            ('"credits"', draw(st.sampled_from(["1", "1.25", '"0.5"', "10.50", "null"])))
        )
    if draw(st.booleans()):
        members.append(('"user"', draw(st.sampled_from(['"u1"', "7", '"Zoë"']))))
    if draw(st.booleans()):
        members.append(('"model"', draw(st.text(max_size=6).map(json.dumps))))
    return members


def _bent(draw: Draw, members: list[Member]) -> list[Member]:
    """Spoil one member, or add one."""
    members = list(members)
    at = draw(st.integers(0, len(members) - 1)) if members else 0
    how = draw(st.integers(0, 6))
    if not members or how == 0:
        members.insert(at, (draw(_pick(KEYS)), draw(values())))
    elif how == 1:
        del members[at]
    elif how == 2:
        members.append((members[at][0], draw(values())))
    elif how == 3:
        members.append(members[at])
    elif how == 4:
        members[at] = (draw(_pick(KEYS)), members[at][1])
    else:
        members[at] = (members[at][0], draw(values()))
    return members


def _object(draw: Draw, members: list[Member]) -> str:
    comma, colon = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:")]))
    return "{" + comma.join(f"{key}{colon}{value}" for key, value in members) + "}"


@st.composite
def events(draw: Draw) -> str:
    """One event as text: good every other time."""
    badness = draw(st.sampled_from([0, 0, 0, 0, 0, 1, 1, 2]))
    data = draw(members_of_data())
    spoil_data = badness and draw(st.booleans())
    if spoil_data:
        data = _bent(draw, data)
    members = [
        ('"id"', json.dumps(f"e{draw(st.integers(0, 9))}")),
        ('"type"', draw(st.sampled_from(['"llm.call"', '"llm.call"', '"job.run"']))),
        ('"subject"', draw(st.sampled_from(['"acme"', '"nobody yet"', '"ü"']))),
        ('"data"', _object(draw, data)),
    ]
    if draw(st.booleans()):
        members.insert(1, ('"time"', _moment(draw)))
    if draw(st.booleans()):
        members.insert(0, ('"specversion"', '"1.0"'))
    if _rarely(draw, 4):
        members.append(('"source"', draw(st.sampled_from(['"app"', '"specversion"', "null"]))))
    for _ in range(badness - bool(spoil_data)):
        members = _bent(draw, members)
    if _rarely(draw, 31):
        return draw(values())
    return _object(draw, members)


def good(event_id: str) -> str:
    """A good event as text."""
    return f'{{"id":"{event_id}","type":"llm.call","subject":"acme","data":{{"input_tokens":1}}}}'


WHOLE = (
    *(b"", b" \n", b"[]", b" [ ] ", b"{}", b"[[]]", b"[[{}]]", b"null", b"[null]", b'"x"', b"[1"),
    *(b"\xef\xbb\xbf[]", b"\x00", b"\xff\xfe[\x00]\x00", b"[" * 100_000, b"]", b"id=1&type=2"),
    b"[" + b"[]," * 2_000 + b"[]]",
    b" " * (BODY_BYTES + 1),
    b"[" + b" " * (BODY_BYTES - 2) + b"]",
    b"[" + b" " * (BODY_BYTES - 1) + b"]",
    *(
        f"[{','.join(good(f'n{number}') for number in range(count))}]".encode()
        for count in (EVENTS, EVENTS + 1)
    ),
    f"[{','.join(['{}'] * (EVENTS + 1))}]".encode(),
)
INSERTS = (
    *(
        b"\xff",
        b"\x00",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xf5",
        b"\n",
        b",",
        b"]",
        b"}",
        b'"',
        b"\\",
    ),
    *(b"\x1f", b":", b"/**/", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"NaN", b"{}", b"0"),
)


def _mangled(draw: Draw, body: bytes) -> bytes:
    at = draw(st.integers(0, len(body)))
    how = draw(st.integers(0, 6))
    if how == 0:
        return body[:at]
    if how == 1:
        return body + draw(
            st.sampled_from([b"]", b"}", b" x", b"\x00", b",", b"[]", b"\xff", b"\n"])
        )
    if how == 2:
        return b"\xef\xbb\xbf" + body
    if how == 3:
        return body[:at] + body[at + 1 :]
    if how == 4:
        return body.decode("utf-8", "replace").encode(
            draw(st.sampled_from(["utf-16", "utf-32-le"]))
        )
    return body[:at] + draw(_pick(INSERTS)) + body[at:]


CONTENT_TYPES = (
    *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None),
    *("application/json; charset=utf-16", "APPLICATION/JSON;charset=latin-1", "", "/", ";", "json"),
    *(f"{BATCH}; charset=nonsense", "application/json, text/plain", "application/" + "j" * 5_000),
    *(
        "application/cloudevents+json;" + "a=b;" * 500,
        "application/json\x01",
        "multipart/form-data",
    ),
)
WRONG_KEYS = (
    *(
        "",
        " ",
        "Bearer",
        "Bearer ",
        "bearer mk_x",
        "Bearer mk_" + "x" * 60_000,
        "Basic !",
        "Basic ",
    ),
    *(
        "Bearer {key}x",
        "Bearer\x01{key}",
        "Token {key}",
        "Bearer {key}, Bearer {key}",
        "Basic /w==",
    ),
    *("Bearer mk_aaaaaaaaaaaa_" + "a" * 43, "Bearer ü", "Digest username=x", "Bearer mk_\x7f"),
)
PREFERENCES = (
    *("return=representation", "return=minimal", "respond-async, return=representation"),
    *("wait=10", "", ";", "return", "RETURN=representation", "return=representation; x=y"),
    *('return="representation"', "x" * 10_000),
)
ENCODINGS = ("identity", "gzip", "GZIP", "x-gzip", "br", "deflate", "gzip, gzip", "", "zstd", "é")
MORE: tuple[tuple[tuple[str, str], ...], ...] = (
    (("X-Long", "x" * 100_000),),
    (("Idempotency-Key", "é"), ("X-Forwarded-For", "';--")),
    tuple((f"X-{number}", "y") for number in range(90)),
    (("Accept", "text/html"), ("Accept-Encoding", "gzip")),
    (("Cookie", "sessionid=" + "z" * 9_000),),
)
LENGTHS = ("some", "1e3", "9" * 5000, "-5", "0", "1", "12", "99999999")


def _packed(text: bytes) -> bytes:
    # Without the time of day, so that the same draw is the same bytes.
    return gzip.compress(text, 6, mtime=0)


@cache
def _bombs() -> list[bytes]:
    small = _packed(b"[" + b" " * (40 * 1024 * 1024) + b"]")
    return [small, _packed(small), _packed(b"[" * 3_000_000)]


def _body(draw: Draw) -> bytes:
    kind = draw(st.sampled_from(range(12)))
    if kind == 11:
        return draw(_pick(WHOLE))
    if kind == 10:
        return draw(st.binary(max_size=40))
    if kind == 9:
        body = draw(events()).encode("utf-8", "surrogatepass")
    else:
        drawn = draw(st.lists(events(), min_size=1, max_size=7))
        comma = draw(st.sampled_from([",", ", ", "\n,"]))
        body = f"[{comma.join(drawn)}]".encode("utf-8", "surrogatepass")
    return _mangled(draw, body) if _rarely(draw, 5) else body


def _packing(draw: Draw, body: bytes) -> bytes:
    how = draw(st.integers(0, 5))
    if how == 0:
        return draw(_pick(_bombs()))
    if how == 1:
        return _packed(body)[: draw(st.integers(0, 30))]
    if how == 2:
        return _packed(body) + draw(st.sampled_from([b"x", b"\0", _packed(b"]"), _packed(b" ")]))
    return body if how == 3 else _packed(body)


def _caller(draw: Draw) -> tuple[str, int]:
    """Return an `Authorization` header and the status it is refused with, or 0."""
    kind = draw(st.sampled_from(["good"] * 50 + ["odd"] * 6 + ["wrong"] * 2 + ["reader"]))
    if kind == "wrong":
        return draw(_pick(WRONG_KEYS)), 401
    if kind == "reader":
        return "Bearer {reader}", 403
    if kind == "odd":
        return draw(st.sampled_from(["bearer {key}", "BEARER   {key} ", "Basic {basic}"])), 0
    return "Bearer {key}", 0


@st.composite
def requests(draw: Draw) -> Request:
    """A request with a body that may be anything, and headers that mostly fit."""
    body = _body(draw)
    content_type: str | None = draw(
        st.sampled_from([BATCH if body.lstrip()[:1] == b"[" else ONE, PLAIN])
    )
    if _rarely(draw, 15):
        content_type = draw(_pick(CONTENT_TYPES))
    encoding = draw(_pick(ENCODINGS)) if _rarely(draw, 12) else None
    authorization, refused = _caller(draw)
    return Request(
        body if encoding is None else _packing(draw, body),
        content_type=content_type,
        encoding=encoding,
        authorization=authorization,
        refused_caller=refused,
        prefer=draw(_pick(PREFERENCES)) if _rarely(draw, 3) else None,
        is_chunked=_rarely(draw, 7),
        length=draw(_pick(LENGTHS)) if _rarely(draw, 31) else None,
        more=draw(_pick(MORE)) if _rarely(draw, 20) else (),
    )
