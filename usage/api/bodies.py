"""Request bodies: one event or an array of them, read as a whole or cut into each one's text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import msgspec
from django.conf import settings

from usage.cloud_events import read_event
from usage.plain_events import read_plainly
from usage.reports import Refusal, ReportedEvent

ONE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
PLAIN = "application/json"

_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder(msgspec.Raw)
_LENIENT = json.JSONDecoder(parse_int=str)
"""Numbers stay text: Python refuses whole numbers of more than 4,300 digits, JSON has them."""
_SPACE = re.compile(r"[ \t\n\r]*")


class Body(Exception):
    """The body as a whole cannot be read, so nothing of it was stored."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def read_events(body: bytes, content_type: str) -> Sequence[ReportedEvent | Refusal]:
    """Return what each event of a request is, or why it is refused, in order.

    Raises:
        Body: the request as a whole cannot be read.
    """
    is_batch = _is_batch(body, content_type)
    if is_batch:
        events = read_plainly(body)
        if events is not None:
            _check_count(len(events))
            return events
    return [read_event(text) for text in _cut(body, is_batch=is_batch)]


def _is_batch(body: bytes, content_type: str) -> bool:
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
    return is_batch


def _check_count(count: int) -> None:
    if count > settings.USAGE_EVENTS_PER_REQUEST:
        raise Body(
            413,
            f"A request takes at most {settings.USAGE_EVENTS_PER_REQUEST} events;"
            f" this one has {count}.",
        )


def _cut(body: bytes, *, is_batch: bool) -> list[bytes]:
    """Return the text of each event in a request, in order."""
    try:
        elements = [bytes(element) for element in _elements(body, is_batch=is_batch)]
    except RecursionError as error:
        raise Body(400, "The body is nested too deeply.") from error
    _check_count(len(elements))
    return elements


def _elements(body: bytes, *, is_batch: bool) -> list[msgspec.Raw] | list[bytes]:
    try:
        return _ELEMENTS.decode(body) if is_batch else [_ANY.decode(body)]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        try:
            return _cut_leniently(body.decode(), is_batch=is_batch)
        except (ValueError, IndexError):
            raise Body(400, f"The body is not valid JSON: {error}.") from error


def _cut_leniently(text: str, *, is_batch: bool) -> list[bytes]:
    """Cut a body that only Python takes for JSON, because some event holds NaN or Infinity.

    So that event is refused by its index, and its neighbours are not.

    Raises:
        ValueError, IndexError: it is no JSON to Python either.
    """
    elements: list[bytes] = []
    position = _next(text, 0) + is_batch
    while True:
        position = _next(text, position)
        if is_batch and not elements and text[position] == "]":
            break
        _, end = _LENIENT.raw_decode(text, position)
        elements.append(text[position:end].encode())
        position = _next(text, end)
        if not is_batch or text[position] == "]":
            break
        if text[position] != ",":
            raise ValueError("an array's elements are set apart by commas")
        position += 1
    if text[position + is_batch :].strip():
        raise ValueError("something follows")
    return elements


def _next(text: str, position: int) -> int:
    """Return where the next thing that is no white space stands, or the end."""
    return _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it matches nothing, too
