"""Arrays of plain events, read in one go. Pure.

Plain is what nearly every array is: ASCII without escapes, the attributes we know, flat data. There
all that `cloud_events` looks for in each event is seen at once, for half the cost. Whatever is not
plain, or not good, is left to it: this module refuses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from decimal import Decimal, DecimalException
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from usage.json_objects import BEYOND, MAX_DATA_BYTES, NotAnObject, check_order, compact
from usage.reports import Instant, ReportedEvent, Word


class _Attributes(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    id: Word
    type: Word
    subject: Word
    time: Instant | UnsetType = UNSET
    specversion: str | UnsetType = UNSET
    source: str | UnsetType = UNSET
    datacontenttype: str | UnsetType = UNSET


_Whole = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]


class _WholeEvent(_Attributes, frozen=True, gc=False, kw_only=True):
    """One whose numbers are all whole and of common size, so that nothing of its data is asked."""

    data: dict[str, str | _Whole | bool | None]


class _PlainEvent(_Attributes, frozen=True, gc=False, kw_only=True):
    data: dict[str, Any]


_WHOLE = msgspec.json.Decoder(list[_WholeEvent])
_PLAIN = msgspec.json.Decoder(list[_PlainEvent], float_hook=Decimal)


class _NotPlain(Exception):
    """Something must be looked at closely."""


NOT_READ = (
    _NotPlain,
    NotAnObject,
    msgspec.DecodeError,
    UnicodeDecodeError,
    RecursionError,
    OverflowError,
    DecimalException,
)


def read_plainly(body: bytes) -> list[ReportedEvent] | None:
    """Return the events of an array, or None when something in it must be looked at closely."""
    if not body.isascii() or b"\\" in body or b"\x7f" in body:
        return None
    quotes = 0
    read = []
    try:
        for event in _decoded(body):
            data_json = compact(event.data)
            quotes += data_json.count(b'"') + 2 * _strings_beside(event)
            read.append(_reported(event, data_json))
    except NOT_READ:
        return None
    # A key that stands twice is dropped by the decoder, and its quotes are still there.
    return read if body.count(b'"') == quotes else None


def _decoded(body: bytes) -> Sequence[_WholeEvent | _PlainEvent]:
    try:
        return _WHOLE.decode(body)
    except msgspec.ValidationError:
        events = _PLAIN.decode(body)
    for event in events:
        _check_values(event.data)
    return events


def _strings_beside(event: _Attributes) -> int:
    """Return how many strings its attributes are, their names included; without those of data."""
    strings = 7  # id, type and subject, and data's name
    if event.time is not UNSET:
        strings += 2
    if event.specversion is not UNSET:
        if event.specversion != "1.0":
            raise _NotPlain
        strings += 2
    if event.source is not UNSET:
        strings += 2
    if event.datacontenttype is not UNSET:
        strings += 2
    return strings


def _check_values(data: dict[str, Any]) -> None:
    for value in data.values():
        kind = type(value)
        if kind is int:
            if not -BEYOND < value < BEYOND:
                raise _NotPlain
        elif kind is Decimal:
            check_order(value)
        elif kind is dict or kind is list:
            raise _NotPlain


def _reported(event: _WholeEvent | _PlainEvent, data_json: bytes) -> ReportedEvent:
    if len(data_json) > MAX_DATA_BYTES:
        raise _NotPlain
    time = event.time or None
    if time is not None and time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return ReportedEvent(event.id, event.type, event.subject, time, event.data, data_json.decode())
