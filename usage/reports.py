"""Reports: an event as its caller told it, what makes two the same, why one is refused. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec

_CANONICAL = msgspec.json.Encoder(order="sorted", decimal_format="string")


Word = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class ReportedEvent(msgspec.Struct, frozen=True, gc=False):
    """One event as its caller reported it. `occurred_at` is None when the caller gave no time."""

    event_id: str
    type: str
    subject: str
    occurred_at: datetime | None
    data: Mapping[str, Any]
    data_json: str

    @property
    def digest(self) -> bytes:
        """What tells a repetition from a conflict: all that was reported, in canonical form."""
        reported = (self.type, self.subject, self.occurred_at, self.data)
        return hashlib.blake2b(_CANONICAL.encode(reported), digest_size=16).digest()


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
    """An event to be stored, with what is computed of it once."""

    event_id: str
    digest: bytes
    report: ReportedEvent
