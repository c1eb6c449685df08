"""CloudEvents 1.0 in JSON: what is read of one and why it is refused. Pure.

Arrays that are plainly good are read by `plain_events`, to the same result.
"""

from __future__ import annotations

import json
import re
from datetime import UTC

import msgspec
from msgspec import UNSET, UnsetType

from usage.json_objects import (
    MAX_DATA_BYTES,
    NotAnObject,
    compact,
    has_repeated_key,
    read_object,
)
from usage.reports import Instant, Refusal, ReportedEvent, Word

Ignored = str | None | UnsetType


class CloudEvent(msgspec.Struct, frozen=True, gc=False):
    """The attributes we read. Others are allowed and ignored; `source` comes from the API key."""

    id: Word
    type: Word
    subject: Word
    data: msgspec.Raw
    time: Instant | UnsetType | None = UNSET
    specversion: str | UnsetType = UNSET
    source: Ignored = UNSET
    datacontenttype: Ignored = UNSET


_EVENT = msgspec.json.Decoder(CloudEvent)


class _Refused(Exception):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


def read_event(text: bytes) -> ReportedEvent | Refusal:
    """Return the event `text` holds, or why it is refused."""
    try:
        event = _EVENT.decode(text)
        read = _checked(event)
        _refuse_repetition(event, text)
    except msgspec.ValidationError as error:
        return _invalid(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _not_a_number(text) or Refusal("", f"is not valid JSON: {error}")
    except OverflowError:
        # Years near the calendar's ends overflow when they are brought to UTC.
        return NOT_AN_INSTANT
    except _Refused as error:
        return Refusal(error.field, error.reason)
    return read


def _refuse_repetition(event: CloudEvent, text: bytes) -> None:
    """Refuse an attribute that stands twice; the decoder took the last one."""
    outside = text.count(b'"') - bytes(event.data).count(b'"')
    if (b"\\" in text or outside != 2 * _strings(event)) and has_repeated_key(text):
        raise _Refused("", "must not hold an attribute twice")


def _strings(event: CloudEvent) -> int:
    """Return how many strings its attributes are, their names included; without those of data."""
    strings = 7  # id, type and subject, and data's name
    for value in (event.time, event.specversion, event.source, event.datacontenttype):
        if value is not UNSET:
            strings += 1 if value is None else 2
    return strings


def _checked(event: CloudEvent) -> ReportedEvent:
    """Check what the decoder cannot, and return the event."""
    if not (event.id.isprintable() and event.type.isprintable() and event.subject.isprintable()):
        words = (("id", event.id), ("type", event.type), ("subject", event.subject))
        field = next(field for field, word in words if not word.isprintable())
        raise _Refused(field, "must not hold control characters")
    if event.specversion is not UNSET and event.specversion != "1.0":
        raise _Refused("specversion", "must be 1.0")
    try:
        data = read_object(bytes(event.data))
    except NotAnObject as error:
        raise _Refused(f"data.{error.key}".rstrip("."), str(error)) from error
    data_json = compact(data)
    if len(data_json) > MAX_DATA_BYTES:
        raise _Refused("data", f"must be at most {MAX_DATA_BYTES} bytes")
    time = event.time or None
    return ReportedEvent(
        event_id=event.id,
        type=event.type,
        subject=event.subject,
        occurred_at=time if time is None or time.tzinfo is UTC else time.astimezone(UTC),
        data=data,
        data_json=data_json.decode(),
    )


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
NOT_AN_INSTANT = Refusal(
    "time", "must be an RFC 3339 time with an offset, such as 2026-01-31T12:00:00Z"
)


def _invalid(error: msgspec.ValidationError) -> Refusal:
    """Turn the decoder's sentence into the field and the reason."""
    sentence, _, path = str(error).partition(" - at `$")
    field = path.strip("`.")
    if field == NOT_AN_INSTANT.field:
        return NOT_AN_INSTANT
    missing = "Object missing required field `"
    if sentence.startswith(missing):
        return Refusal(sentence.removeprefix(missing).rstrip("`"), "is required")
    wrong_kind = re.fullmatch(r"Expected `(\w+)(?: \| null)?`, got `\w+`", sentence)
    if wrong_kind and wrong_kind[1] in _NOUNS:
        return Refusal(field, f"must be {_NOUNS[wrong_kind[1]]}")
    return Refusal(field, sentence[:1].lower() + sentence[1:])
