"""Request bodies: one event or an array of them, cut into the text of each."""

from __future__ import annotations

import json
import re

import msgspec
from django.conf import settings

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


def cut(body: bytes, content_type: str) -> list[bytes]:
    """Return the text of each event in a request, in order.

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
        elements = [bytes(element) for element in _elements(body, is_batch=is_batch)]
    except RecursionError as error:
        raise Body(400, "The body is nested too deeply.") from error
    if len(elements) > settings.USAGE_EVENTS_PER_REQUEST:
        raise Body(
            413,
            f"A request takes at most {settings.USAGE_EVENTS_PER_REQUEST} events;"
            f" this one has {len(elements)}.",
        )
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
