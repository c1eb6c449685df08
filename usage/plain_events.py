"""Arrays of plain events, read in one go. Pure.

Plain is what nearly every array is: ASCII without escapes, the attributes we know, flat data. There
all that `cloud_events` looks for in each event is seen at once, for half the cost. Whatever is not
plain, or not good, is left to it: this module refuses nothing.
"""

from __future__ import annotations

from datetime import UTC
from decimal import Decimal, DecimalException
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from usage.json_objects import BEYOND, MAX_DATA_BYTES, NotAnObject, check_order, compact
from usage.reports import Instant, ReportedEvent, Word


class _PlainEvent(msgspec.Struct, frozen=True, gc=False):
    id: Word
    type: Word
    subject: Word
    data: dict[str, Any]
    time: Instant | UnsetType = UNSET
    specversion: str | UnsetType = UNSET
    source: str | UnsetType = UNSET
    datacontenttype: str | UnsetType = UNSET


_EVENTS = msgspec.json.Decoder(list[_PlainEvent], float_hook=Decimal)


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
    strings = 0
    read = []
    try:
        for event in _EVENTS.decode(body):
            strings += _strings_beside(event) + _strings_in(event.data)
            read.append(_reported(event))
    except NOT_READ:
        return None
    # A key that stands twice is dropped by the decoder, and its quotes are still there.
    return read if body.count(b'"') == 2 * strings else None


def _strings_beside(event: _PlainEvent) -> int:
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


def _strings_in(data: dict[str, Any]) -> int:
    """Return how many strings the keys and the values are."""
    strings = len(data)
    for value in data.values():
        kind = type(value)
        if kind is int:
            if not -BEYOND < value < BEYOND:
                raise _NotPlain
        elif kind is str:
            strings += 1
        elif kind is Decimal:
            check_order(value)
        elif kind is dict or kind is list:
            raise _NotPlain
    return strings


def _reported(event: _PlainEvent) -> ReportedEvent:
    text = compact(event.data)
    if len(text) > MAX_DATA_BYTES:
        raise _NotPlain
    time = event.time or None
    if time is not None and time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return ReportedEvent(event.id, event.type, event.subject, time, event.data, text.decode())
