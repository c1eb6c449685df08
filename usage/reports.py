"""Reports: an event as its caller told it, what makes two the same, why one is refused. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Annotated, Any

import msgspec

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class ReportedEvent(msgspec.Struct, frozen=True, gc=False):
    """One event as its caller reported it. `occurred_at` is None when the caller gave no time.

    `data_json` is `data` as JSON with its keys in order.
    """

    event_id: str
    type: str
    subject: str
    occurred_at: datetime | None
    data: Mapping[str, Any]
    data_json: str


class Refusal(msgspec.Struct, frozen=True):
    """Why an event was not stored: the field at fault and the reason, as its caller should read."""

    field: str
    reason: str


NOT_FOR_CUSTOMER = Refusal("subject", "is a customer this API key is not for")
CONFLICT = Refusal("id", "this id was stored before with another payload, which stays")


class Stored(StrEnum):
    """What became of an event that was not refused."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"


Outcome = Stored | Refusal


class Row(msgspec.Struct, frozen=True, gc=False):
    """An event to be stored, with what is computed of it once.

    `digest` tells a repetition from a conflict: it is of all that was reported. `time` is when it
    occurred as ISO 8601 text, empty when the caller gave no time.
    """

    event_id: str
    digest: bytes
    time: str
    report: ReportedEvent


_INSTANT = msgspec.json.Encoder()


def as_text(instant: datetime) -> str:
    """Return an aware instant in ISO 8601, in a seventh of the time `isoformat` takes."""
    return _INSTANT.encode(instant)[1:-1].decode()


def row_of(report: ReportedEvent) -> Row:
    """Return the row an event is stored as."""
    time = as_text(report.occurred_at) if report.occurred_at else ""
    # No part but the last can hold a tab.
    told = f"{report.type}\t{report.subject}\t{time}\t{report.data_json}"
    return Row(report.event_id, blake2b(told.encode(), digest_size=16).digest(), time, report)
