"""CloudEvents 1.0 in JSON: what is read of each and what is refused."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from usage.api.json_objects import NotAnObject, has_repeated_key, read_object
from usage.ingestion import Refusal, ReportedEvent

MAX_DATA_BYTES = 8 * 1024

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class CloudEvent(msgspec.Struct, frozen=True):
    """The attributes we read. Others are allowed and ignored; `source` comes from the API key."""

    id: Word
    type: Word
    subject: Word
    data: msgspec.Raw
    time: str | None = None
    specversion: str = "1.0"
    source: str | None = None
    datacontenttype: str | None = None


_EVENT = msgspec.json.Decoder(CloudEvent)
_VERSION_KEY = re.compile(rb'"specversion"[ \t\r\n]*:')
"""With its colon: as a value, the same word would stand in for the colon of a repeated key."""


def read_event(text: bytes) -> ReportedEvent | Refusal:
    """Return the event `text` holds, or why it is refused."""
    try:
        event = _EVENT.decode(text)
        return _checked(event, text)
    except msgspec.ValidationError as error:
        return _invalid(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _not_a_number(text) or Refusal("", f"is not valid JSON: {error}")
    except _Refused as error:
        return Refusal(error.field, error.reason)


class _Refused(Exception):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


def _checked(event: CloudEvent, text: bytes) -> ReportedEvent:
    """Check what the decoder cannot, and return the event."""
    for field, word in (("id", event.id), ("type", event.type), ("subject", event.subject)):
        if not word.isprintable():
            raise _Refused(field, "must not hold control characters")
    if event.specversion != "1.0":
        raise _Refused("specversion", "must be 1.0")
    data_json = bytes(event.data)
    if len(data_json) > MAX_DATA_BYTES:
        raise _Refused("data", f"must be at most {MAX_DATA_BYTES} bytes")
    try:
        data = read_object(data_json)
    except NotAnObject as error:
        raise _Refused(f"data.{error.key}".rstrip("."), str(error)) from error
    if _may_repeat_attribute(text, event) and has_repeated_key(text):
        raise _Refused("", "must not hold an attribute twice")
    return ReportedEvent(
        event_id=event.id,
        type=event.type,
        subject=event.subject,
        occurred_at=None if event.time is None else _instant(event.time),
        data=data,
        data_json=data_json.decode(),
    )


def _may_repeat_attribute(text: bytes, event: CloudEvent) -> bool:
    """Return whether the colons outside `data` do not prove that each attribute stands once."""
    data = bytes(event.data)
    given: list[Any] = [event.id, event.type, event.subject, event.time, event.source]
    # It has a default; and the same word inside `data` must not pass for the attribute.
    has_version = len(_VERSION_KEY.findall(text)) > len(_VERSION_KEY.findall(data))
    given += [event.datacontenttype, event.specversion if has_version else None]
    present = [value for value in given if value is not None]
    expected = 1 + len(present) + sum(value.count(":") for value in present)
    return b"\\" in text or text.count(b":") - data.count(b":") != expected


def _instant(text: str) -> datetime:
    try:
        # Years near the calendar's ends overflow when they are brought to UTC.
        return msgspec.convert(text, Instant).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError) as error:
        raise _Refused(
            "time", "must be an RFC 3339 time with an offset, such as 2026-01-31T12:00:00Z"
        ) from error


def _not_a_number(text: bytes) -> Refusal | None:
    """Return which value is NaN or Infinity, which JSON has not, or None when none is.

    None also where Python cannot read the text either: no UTF-8, or nested too deeply for it.
    """
    found: list[str] = []

    def note(name: str) -> str:
        found.append(name)
        return name

    try:
        event = json.loads(text, parse_constant=note, parse_int=str)
    except (ValueError, RecursionError):
        return None
    if not found:
        return None
    data = event.get("data") if isinstance(event, dict) else None
    keys = [key for key, value in data.items() if value in found] if isinstance(data, dict) else []
    field = f"data.{keys[0]}" if keys else ""
    return Refusal(field, f"must be a number that JSON has, not {found[0]}")


_NOUNS = {"object": "a JSON object", "str": "a string"}


def _invalid(error: msgspec.ValidationError) -> Refusal:
    """Turn the decoder's sentence into the field and the reason."""
    sentence, _, path = str(error).partition(" - at `$")
    field = path.strip("`.")
    missing = "Object missing required field `"
    if sentence.startswith(missing):
        return Refusal(sentence.removeprefix(missing).rstrip("`"), "is required")
    wrong_kind = re.fullmatch(r"Expected `(\w+)(?: \| null)?`, got `\w+`", sentence)
    if wrong_kind and wrong_kind[1] in _NOUNS:
        return Refusal(field, f"must be {_NOUNS[wrong_kind[1]]}")
    return Refusal(field, sentence[:1].lower() + sentence[1:])
