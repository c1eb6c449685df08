"""CloudEvents 1.0 in JSON, one or a batch: what is read of each and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from django.conf import settings

from usage.api.json_objects import NotAnObject, has_repeated_key, read_object
from usage.ingestion import Refusal, ReportedEvent

ONE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
PLAIN = "application/json"

MAX_DATA_BYTES = 8 * 1024

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class Body(Exception):
    """The body as a whole cannot be read, so nothing of it was stored."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


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
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder(msgspec.Raw)


def read_body(body: bytes, content_type: str) -> list[ReportedEvent | Refusal]:
    """Return each event of a request, or why it is refused, in order.

    Raises:
        Body: the request as a whole cannot be read.
    """
    if not body.strip():
        raise Body(400, "The body is empty.")
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in {ONE, BATCH, PLAIN}:
        raise Body(415, f"Content-Type must be {ONE}, {BATCH} or {PLAIN}.")
    is_batch = body.lstrip()[:1] == b"["
    if kind == BATCH and not is_batch:
        raise Body(400, f"{BATCH} needs a JSON array.")
    if kind == ONE and is_batch:
        raise Body(400, f"{ONE} needs one JSON object; send {BATCH} for an array.")
    try:
        elements = _ELEMENTS.decode(body) if is_batch else [_ANY.decode(body)]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Body(400, f"The body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise Body(400, "The body is nested too deeply.") from error
    if len(elements) > settings.USAGE_EVENTS_PER_REQUEST:
        raise Body(
            413,
            f"A request takes at most {settings.USAGE_EVENTS_PER_REQUEST} events;"
            f" this one has {len(elements)}.",
        )
    return [read_event(bytes(element)) for element in elements]


def read_event(text: bytes) -> ReportedEvent | Refusal:
    """Return the event `text` holds, or why it is refused."""
    try:
        event = _EVENT.decode(text)
        return _checked(event, text)
    except msgspec.ValidationError as error:
        return _invalid(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Refusal("", f"is not valid JSON: {error}")
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
        raise _Refused("data", str(error)) from error
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
    has_version = text.count(b'"specversion"') > data.count(b'"specversion"')
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


def _invalid(error: msgspec.ValidationError) -> Refusal:
    """Turn the decoder's sentence into the field and the reason."""
    sentence, _, path = str(error).partition(" - at `$")
    field = path.strip("`.")
    missing = "Object missing required field `"
    if sentence.startswith(missing):
        return Refusal(sentence.removeprefix(missing).rstrip("`"), "is required")
    return Refusal(field, sentence[:1].lower() + sentence[1:])


_EVENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "type", "subject", "data"],
    "properties": {
        "id": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "description": "Yours, unique within your key's source for ever; a repetition adds"
            " nothing.",
        },
        "type": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "examples": ["llm.call"],
            "description": "What was used; the catalogue says which meters read it.",
        },
        "subject": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "description": "The customer's external id.",
        },
        "time": {
            "type": "string",
            "format": "date-time",
            "description": "When it was used, with an offset: at most 34 days ago and 120 seconds"
            " ahead. Without it, the moment we store it.",
        },
        "data": {
            "type": "object",
            "description": "The values the meters read, and what you want to keep beside them.",
            "examples": [{"model": "m-1", "input_tokens": 900, "output_tokens": 100}],
        },
        "specversion": {"type": "string", "const": "1.0"},
        "source": {"type": "string", "description": "Ignored: the source is your key's."},
    },
}
_PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "accepted": {"type": "integer", "description": "Events stored by this request."},
        "duplicates": {"type": "integer", "description": "Events that were stored before."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"type": "integer"},
                    "field": {"type": "string"},
                    "reason": {"type": "string"},
                },
            },
        },
    },
}
_BATCH_SCHEMA = {"type": "array", "maxItems": 1000, "items": _EVENT_SCHEMA}
_PROBLEM_CONTENT = {"application/problem+json": {"schema": _PROBLEM_SCHEMA}}

OPENAPI_PATHS: dict[str, Any] = {
    "/api/v1/events": {
        "post": {
            "tags": ["usage"],
            "summary": "Report usage",
            "description": "Takes one CloudEvent or a batch of up to 1,000. Each event is judged on"
            " its own: the valid ones are stored, a refused one is named with its field and reason,"
            " and a repetition is a duplicate that adds nothing. A success says the events are"
            " durable.",
            "operationId": "report_usage",
            "parameters": [
                {
                    "in": "header",
                    "name": "Prefer",
                    "schema": {"type": "string", "enum": ["return=representation"]},
                    "description": "Asks for the outcome of each event by index.",
                }
            ],
            "requestBody": {
                "required": True,
                "content": {
                    ONE: {"schema": _EVENT_SCHEMA},
                    BATCH: {"schema": _BATCH_SCHEMA},
                    PLAIN: {"schema": {"oneOf": [_EVENT_SCHEMA, _BATCH_SCHEMA]}},
                },
            },
            "responses": {
                "204": {"description": "Every event is stored, or was before."},
                "200": {
                    "description": "The same, with each outcome (`Prefer: return=representation`).",
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {
                                    "accepted": {"type": "integer"},
                                    "duplicates": {"type": "integer"},
                                    "events": {
                                        "type": "array",
                                        "items": {
                                            "type": "object",
                                            "properties": {
                                                "index": {"type": "integer"},
                                                "outcome": {
                                                    "enum": ["accepted", "duplicate"],
                                                },
                                            },
                                        },
                                    },
                                },
                            }
                        }
                    },
                },
                "400": {
                    "description": "Some events are refused, each named with its reason; the others"
                    " are stored, and counted in `accepted` and `duplicates`.",
                    "content": _PROBLEM_CONTENT,
                },
                "401": {"description": "No valid key.", "content": _PROBLEM_CONTENT},
                "403": {
                    "description": "The key may not report usage.",
                    "content": _PROBLEM_CONTENT,
                },
                "413": {
                    "description": "More than 1 MiB or 1,000 events; nothing is stored.",
                    "content": _PROBLEM_CONTENT,
                },
                "415": {"description": "Another content type.", "content": _PROBLEM_CONTENT},
                "503": {
                    "description": "We cannot store now; send the same again after Retry-After.",
                    "content": _PROBLEM_CONTENT,
                },
            },
            "security": [{"ApiKey": []}],
        }
    }
}
