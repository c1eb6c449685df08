"""One use as the CloudEvent that is sent: checked, and written out as JSON at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from decimal import Decimal
from json.encoder import encode_basestring as quoted

MAX_WORD_CHARACTERS = 200
MAX_DATA_BYTES = 8 * 1024
MAX_EXPONENT = 30
"""These three are the server's own limits; see its description of `POST /api/v1/events`."""


class InvalidEvent(ValueError):
    """The arguments make no event the server could take. The message tells why."""


def event_line(type: str, customer: str, data: Mapping[str, object], id: str, time: str) -> bytes:  # noqa: A002 - the attributes' names
    """Return the event as one line of JSON, without the line's end.

    All of `data` is read now, however deep, so that a later change to it changes nothing here.

    Raises:
        InvalidEvent, TypeError, ValueError, RecursionError: it cannot be sent.
    """
    for name, word in (("type", type), ("customer", customer), ("id", id)):
        if not isinstance(word, str) or not 0 < len(word) <= MAX_WORD_CHARACTERS:
            raise InvalidEvent(f"{name} must be text of 1 to {MAX_WORD_CHARACTERS} characters")
    if not isinstance(data, dict):
        if not isinstance(data, Mapping):
            raise InvalidEvent("data must be a mapping")
        data = dict(data)
    text = _encode(data)
    if len(text) > MAX_DATA_BYTES or not (text.isascii() or len(text.encode()) <= MAX_DATA_BYTES):
        raise InvalidEvent(f"data must be at most {MAX_DATA_BYTES} bytes as JSON")
    return (
        f'{{"specversion":"1.0","source":"meterkeeper-client","id":{quoted(id)}'
        f',"type":{quoted(type)},"subject":{quoted(customer)}'
        f',"time":{quoted(time)},"data":{text}}}'
    ).encode()


def instant(time: datetime | str | None, nanoseconds: int) -> str:
    """Return `time`, or the Unix time in `nanoseconds` when it is None, as RFC 3339 text.

    Raises:
        InvalidEvent: it has no offset, so nobody knows when it was.
    """
    if time is None:
        return _utc(nanoseconds)
    if isinstance(time, str):
        return time
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise InvalidEvent("time must be a datetime with an offset, or RFC 3339 text")
    return time.isoformat()


_last_second = (-1, "")


def _utc(nanoseconds: int) -> str:
    """Return a Unix time as text. The text of the second is kept: it is most of the work."""
    global _last_second  # noqa: PLW0603 - one reference, replaced whole
    second, rest = divmod(nanoseconds, 1_000_000_000)
    known, text = _last_second
    if known != second:
        text = datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        _last_second = (second, text)
    return f"{text}.{rest // 1_000:06d}Z"


def _plain(value: object) -> str:
    """Return an exact decimal as the text the server reads; there is no other kind it would."""
    if not isinstance(value, Decimal):
        raise InvalidEvent(f"data holds a {value.__class__.__name__}, which JSON has not")
    if not value.is_finite() or abs(value.adjusted()) > MAX_EXPONENT:
        raise InvalidEvent("data holds a decimal that is no quantity")
    return format(value, "f")


_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
).encode
