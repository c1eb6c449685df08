"""What must become of a request, read anew with Python's own parser: nothing of the product's is used.

A verdict is `EITHER` only where the documents leave it open; then the answer must still tell the
truth about what was stored.
"""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
import zlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, DecimalException
from enum import Enum
from fractions import Fraction
from typing import Any

ONE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
PLAIN = "application/json"

GZIP_RATIO = 200
BODY_BYTES = 1024 * 1024
EVENTS = 1_000
DATA_BYTES = 8 * 1024
DATA_LEVELS = 5
NUMBER_DIGITS = 30
LATEST = timedelta(days=34)
AHEAD = timedelta(seconds=120)
UNSURE = timedelta(seconds=60)
"""Near a limit of time the clock between sending and judging decides."""
DEEP = 100
"""Above so many levels a reader may give up on the whole body."""

SHOWN = 600
"""Characters of a body that are worth a look."""

CATALOGUE: dict[str, tuple[tuple[str, bool, int | None], ...]] = {
    "llm.call": (("input_tokens", True, 0), ("credits", False, 2), ("user", False, None)),
    "job.run": (),
}
"""By type: the property, whether it is required, and its decimals; None where it is a name."""


class Verdict(Enum):
    STORE = "store"
    REFUSE = "refuse"
    EITHER = "either"


@dataclass(frozen=True)
class Number:
    text: str


@dataclass(frozen=True)
class Constant:
    """NaN or an infinity, which JSON has not."""

    text: str


class Pairs(list[tuple[str, Any]]):
    """An object's members in order, repeated ones too."""


@dataclass(frozen=True)
class Event:
    """One element of the body, and what must become of it."""

    verdict: Verdict
    why: str
    event_id: str = ""
    type: str = ""
    subject: str = ""
    time: datetime | None = None
    data: Any = None
    written: str = ""


@dataclass(frozen=True)
class Reading:
    """What may become of a request.

    `refusals` are the statuses it may be refused with as a whole, nothing stored. `events` is None
    where it must be. `is_json` is False for a body that is no JSON: should it be taken apart
    nevertheless, the answer must name what is refused.
    """

    refusals: frozenset[int]
    events: list[Event] | None
    is_json: bool = True


@dataclass(frozen=True, repr=False)
class Request:
    """A request as the generator made it, with what it knows of its own headers."""

    body: bytes
    content_type: str | None = BATCH
    encoding: str | None = None
    authorization: str = "Bearer {key}"
    refused_caller: int = 0
    prefer: str | None = None
    is_chunked: bool = False
    length: str | None = None
    more: tuple[tuple[str, str], ...] = field(default=())

    def __repr__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value}
        return f"Request({', '.join(f'{name}={_short(value)}' for name, value in given.items())})"

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        """Hypothesis, too, should not print a mebibyte."""
        printer.text(repr(self))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < SHOWN else f"{text[:SHOWN]}... ({len(text)})"


class _Whole(Exception):
    """The request must be refused as a whole, with one of these statuses."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(statuses)
        self.statuses = set(statuses)


def read(request: Request, *, now: datetime) -> Reading:
    """Return what may become of a request that arrives about `now`."""
    if request.refused_caller:
        return Reading(frozenset({request.refused_caller}), None)
    is_open: set[int] = set()
    try:
        body = _whole_body(request)
        text = body.decode("utf-8", "surrogateescape")
        if any("\udc80" <= character <= "\udcff" for character in text):
            is_open.add(400)
        elements = _elements(text, is_batch=body.lstrip(b" \t\r\n")[:1] == b"[")
    except _Whole as refused:
        return Reading(frozenset(refused.statuses | is_open), None)
    except (ValueError, IndexError, RecursionError):
        return Reading(frozenset({400, 413} | is_open), None, is_json=False)
    if len(elements) > EVENTS:
        return Reading(frozenset({413} | is_open), None)
    if any(_depth(value) > DEEP for value, _ in elements):
        is_open.add(400)
    return Reading(frozenset(is_open), _among_themselves(_judged(elements, now=now)))


def _whole_body(request: Request) -> bytes:
    """Return the body as it was meant, where its length, packing and type allow to read it."""
    body = _unpacked(_as_long_as_said(request), request.encoding)
    kind = (request.content_type or "").partition(";")[0].strip().lower()
    reasons = {
        413: len(body) > BODY_BYTES,
        415: kind not in {ONE, BATCH, PLAIN},
        400: not body.strip(b" \t\r\n\v\f"),
    }
    if any(reasons.values()):
        raise _Whole(*(status for status, holds in reasons.items() if holds))
    is_batch = body.lstrip(b" \t\r\n")[:1] == b"["
    if kind == (ONE if is_batch else BATCH):
        raise _Whole(400)
    return body


def _as_long_as_said(request: Request) -> bytes:
    if request.length is None or request.is_chunked:
        return request.body
    if not request.length.isdecimal() or int(request.length[:9]) > len(request.body):
        raise _Whole(400, 413)
    return request.body[: int(request.length)]


def _unpacked(body: bytes, encoding: str | None) -> bytes:
    """Return the text of a packed body; of one that is far too large, no more than shows it."""
    if (encoding or "").strip().lower() in {"", "identity"}:
        return body
    if (encoding or "").strip().lower() not in {"gzip", "x-gzip"}:
        raise _Whole(400, 415)
    try:
        unpacker = zlib.decompressobj(wbits=31)
        text = unpacker.decompress(body, BODY_BYTES + 1)
        if len(text) > BODY_BYTES:
            return text
        if len(text) > GZIP_RATIO * len(body):
            raise _Whole(413)
        # Several members one after the other are one text, and nothing else may follow.
        return gzip.decompress(body) if not unpacker.eof or unpacker.unused_data else text
    except (OSError, EOFError, zlib.error):
        raise _Whole(400, 413) from None


# --- taking apart ---------------------------------------------------------------------------------

_DECODER = json.JSONDecoder(
    object_pairs_hook=Pairs, parse_int=Number, parse_float=Number, parse_constant=Constant
)
_SPACE = " \t\n\r"


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _elements(text: str, *, is_batch: bool) -> list[tuple[Any, str]]:
    """Return each element's value and its text."""
    at = _skip(text, 0)
    if not is_batch:
        value, end = _DECODER.raw_decode(text, at)
        if _skip(text, end) != len(text):
            raise ValueError("something follows")
        return [(value, text[at:end])]
    found: list[tuple[Any, str]] = []
    at = _skip(text, at + 1)
    if text[at] == "]":
        at += 1
    else:
        while True:
            value, end = _DECODER.raw_decode(text, at)
            found.append((value, text[at:end]))
            at = _skip(text, end)
            if text[at] == "]":
                at += 1
                break
            if text[at] != ",":
                raise ValueError("no comma")
            at = _skip(text, at + 1)
    if _skip(text, at) != len(text):
        raise ValueError("something follows")
    return found


def _written(text: str, wanted: str) -> str:
    """Return the text of a member's value in an object's text."""
    at = _skip(text, 1)
    while True:
        key, end = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, end) + 1)
        _, end = _DECODER.raw_decode(text, at)
        if key == wanted:
            return text[at:end]
        at = _skip(text, _skip(text, end) + 1)


def _walk(value: Any, level: int = 1) -> list[tuple[Any, int]]:
    """Return the value and all in it, keys too, with the level of the container around each."""
    found: list[tuple[Any, int]] = []
    waiting = [(value, level)]
    while waiting:
        each, at = waiting.pop()
        found.append((each, at))
        if isinstance(each, Pairs):
            found += [(key, at + 1) for key, _ in each]
            waiting += [(inner, at + 1) for _, inner in each]
        elif isinstance(each, list):
            waiting += [(inner, at + 1) for inner in each]
    return found


def _depth(value: Any) -> int:
    return max((level for each, level in _walk(value) if isinstance(each, list)), default=0)


# --- one event ------------------------------------------------------------------------------------


class _No(Exception):
    """The event must be refused."""


def _judged(elements: list[tuple[Any, str]], *, now: datetime) -> list[Event]:
    return [_judge(value, text, now=now) for value, text in elements]


def _judge(value: Any, text: str, *, now: datetime) -> Event:
    try:
        _check_shape(value)
        members = dict(value)
        event_id, event_type, subject = (_word(members, name) for name in ("id", "type", "subject"))
        doubts: list[str] = []
        _check_context(members, doubts)
        time = _time(members.get("time"), doubts, now=now)
        data = members.get("data")
        written = _check_data(data, text)
        for name, required, decimals in CATALOGUE[event_type]:
            _check_value(dict(data).get(name), required=required, decimals=decimals)
    except _No as no:
        return Event(Verdict.REFUSE, str(no))
    if _has_surrogate(value) or _depth(value) > DEEP:
        doubts.append("what is not read")
    verdict = Verdict.EITHER if doubts else Verdict.STORE
    why = ", ".join(doubts) or "good"
    return Event(verdict, why, event_id, event_type, subject, time, data, written)


def _check_shape(value: Any) -> None:
    if not isinstance(value, Pairs):
        raise _No("no object")
    for each, _ in _walk(value):
        if isinstance(each, Constant):
            raise _No("NaN or infinity")
        if isinstance(each, Pairs) and len({key for key, _ in each}) != len(each):
            raise _No("a key twice")


def _check_context(members: dict[str, Any], doubts: list[str]) -> None:
    if members["type"] not in CATALOGUE:
        raise _No("type")
    if members.get("specversion", "1.0") != "1.0":
        raise _No("specversion")
    doubts += [
        name
        for name in ("source", "datacontenttype")
        if not isinstance(members.get(name, ""), str | None)
    ]


def _word(members: dict[str, Any], name: str) -> str:
    word = members.get(name)
    if not isinstance(word, str) or not 1 <= len(word) <= 200:
        raise _No(name)
    if any(unicodedata.category(character)[0] in "CZ" and character != " " for character in word):
        raise _No(name)
    return word


def _has_surrogate(value: Any) -> bool:
    return any(
        "\ud800" <= character <= "\udfff"
        for each, _ in _walk(value)
        if isinstance(each, str)
        for character in each
    )


_RFC_3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):?(\d\d))",
    re.ASCII,
)


def _time(value: Any, doubts: list[str], *, now: datetime) -> datetime | None:
    if value is None:
        return None
    found = _RFC_3339.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise _No("time")
    *parts, fraction, _, sign, hours, minutes = found.groups()
    if "T" not in value or "z" in value or (sign and value[-3] != ":") or parts[5] == "60":
        doubts.append("how the time is written")
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    if int(minutes or 0) > 59 or int(hours or 0) > 23:
        raise _No("time's offset")
    try:
        local = datetime(*map(int, [*parts[:5], min(int(parts[5]), 59)]), tzinfo=UTC)
        if int(parts[5]) > 60:
            raise _No("time's seconds")
        instant = local - offset if sign != "-" else local + offset
        instant += timedelta(seconds=float(f"0.{fraction or 0}"))
    except (ValueError, OverflowError) as error:
        raise _No("time") from error
    for limit, is_beyond in (
        (now + AHEAD, instant > now + AHEAD),
        (now - LATEST, instant < now - LATEST),
    ):
        if abs(instant - limit) < UNSURE:
            doubts.append("time near its limit")
        elif is_beyond:
            raise _No("time beyond its limit")
    return instant


def _check_data(data: Any, text: str) -> str:
    """Return how the event's data is written, where it may be stored."""
    if not isinstance(data, Pairs):
        raise _No("data is no object")
    written = _written(text, "data")
    if len(written.encode("utf-8", "surrogateescape")) > DATA_BYTES:
        raise _No("data is long")
    if _has_surrogate(data):
        raise _No("half a surrogate pair")
    for each, level in _walk(data):
        if isinstance(each, list) and level > DATA_LEVELS:
            raise _No("data is deep")
        if isinstance(each, str) and "\0" in each:
            raise _No("NUL")
        if isinstance(each, Number):
            try:
                order = Decimal(each.text).adjusted()
            except DecimalException as error:
                raise _No("beyond any number") from error
            if abs(order) > NUMBER_DIGITS:
                raise _No("a number out of proportion")
    return written


def _check_value(value: Any, *, required: bool, decimals: int | None) -> None:
    if value is None:
        if required:
            raise _No("a required value is missing")
        return
    if decimals is None:
        is_whole = isinstance(value, Number) and not set(value.text) & set(".eE")
        length = len(value.text) if is_whole else len(value) if isinstance(value, str) else 0
        if not 1 <= length <= 200:
            raise _No("no name")
        return
    if isinstance(value, Number):
        exact = Fraction(value.text)
    elif isinstance(value, str) and re.fullmatch(r"-?\d{1,20}(\.\d{1,20})?", value, re.ASCII):
        exact = Fraction(value)
    else:
        raise _No("no number")
    exact *= 10**decimals
    if exact.denominator != 1 or not 0 <= exact < 10**15:
        raise _No("no quantity")


# --- the events of one body among themselves ------------------------------------------------------


def _among_themselves(events: list[Event]) -> list[Event]:
    """Return the events with those refused whose id stands before with another payload."""
    firsts: dict[str, list[Event]] = {}
    settled: list[Event] = []
    for event in events:
        verdict, why = event.verdict, event.why
        before = firsts.get(event.event_id)
        if verdict is not Verdict.REFUSE and before is not None:
            if verdict is Verdict.EITHER or any(e.verdict is Verdict.EITHER for e in before):
                verdict, why = Verdict.EITHER, "its id is unsure"
            elif _told(event) == _told(before[0]):
                pass
            elif _meant(event) != _meant(before[0]):
                verdict, why = Verdict.REFUSE, "a conflict"
            else:
                verdict, why = Verdict.EITHER, "the same in other words"
        judged = replace(event, verdict=verdict, why=why)
        if verdict is not Verdict.REFUSE:
            firsts.setdefault(event.event_id, []).append(judged)
        settled.append(judged)
    return settled


def _told(event: Event) -> tuple[Any, ...]:
    return (event.type, event.subject, event.time, event.written)


def _meant(event: Event) -> tuple[Any, ...]:
    return (event.type, event.subject, event.time, meaning(event.data, is_loose=True))


def meaning(value: Any, *, is_loose: bool = False) -> Any:
    """Return parsed JSON with numbers exact and members in no order.

    Loosely, a number and the text that writes it are the same.
    """
    if isinstance(value, Pairs):
        return {key: meaning(inner, is_loose=is_loose) for key, inner in value}
    if isinstance(value, list):
        return [meaning(inner, is_loose=is_loose) for inner in value]
    if isinstance(value, bool) or value is None:
        return (value,)
    if isinstance(value, Number):
        return Fraction(value.text)
    if is_loose and re.fullmatch(r"-?\d{1,40}(\.\d{1,40})?(E[+-]?\d{1,2})?", value, re.ASCII):
        return Fraction(value)
    return value


def stored_meaning(text: str) -> Any:
    """Return the same of `data` as the database writes it."""
    return meaning(_DECODER.decode(text))
