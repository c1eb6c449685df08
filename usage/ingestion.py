"""Accepting usage events: validate each, store those that can be billed, tell each one's outcome.

What makes a request durable is here; how it arrives is `usage.api`'s, what becomes of it `flush`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec
from django.conf import settings
from django.db import connection

from billing import steps
from billing.queries import ValueRule, value_rules
from usage.models import EventConflict
from usage.names import InvalidName, check_name
from usage.quantities import InvalidQuantity, read_quantity

_CANONICAL = msgspec.json.Encoder(order="sorted", decimal_format="string")


@dataclass(frozen=True, slots=True)
class ReportedEvent:
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


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an event was not stored: the field at fault and the reason, as its caller should read."""

    field: str
    reason: str


class Stored(StrEnum):
    """What became of an event that was not refused."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"


Outcome = Stored | Refusal

CONFLICT = Refusal("id", "this id was stored before with another payload, which stays")


def accept(
    *, source_id: int, reports: Sequence[ReportedEvent | Refusal], now: datetime
) -> list[Outcome]:
    """Store the valid events of one request and return every event's outcome, in order.

    A refused event leaves no trace and its neighbours are stored. The same call again finds only
    duplicates. An id known with another payload is refused and kept as a conflict for staff; its
    first payload stays. All is one transaction: it is durable once the caller's outermost commit
    returns.
    """
    rules = value_rules()
    outcomes: list[Outcome] = [
        report if isinstance(report, Refusal) else Stored.ACCEPTED for report in reports
    ]
    valid: dict[int, ReportedEvent] = {}
    firsts: dict[str, int] = {}
    for index, report in enumerate(reports):
        if isinstance(report, Refusal):
            continue
        refusal = _refusal(report, rules=rules, now=now)
        if refusal is not None:
            outcomes[index] = refusal
            continue
        valid[index] = report
        firsts.setdefault(report.event_id, index)
    digests = {index: report.digest for index, report in valid.items()}
    events = [(digests[index], valid[index]) for index in firsts.values()]
    with steps.commit("usage.ingestion.accept"):
        stored = _insert(source_id=source_id, events=events, now=now)
        before = _digests(source_id, firsts.keys() - stored)
        conflicts: list[tuple[bytes, ReportedEvent]] = []
        for index, report in valid.items():
            first = firsts[report.event_id]
            if index == first and report.event_id in stored:
                continue
            if digests[index] == before.get(report.event_id, digests[first]):
                outcomes[index] = Stored.DUPLICATE
            else:
                outcomes[index] = CONFLICT
                conflicts.append((digests[index], report))
        _record_conflicts(source_id, conflicts, now)
    return outcomes


def _refusal(
    report: ReportedEvent, *, rules: Mapping[str, Sequence[ValueRule]], now: datetime
) -> Refusal | None:
    if report.type not in rules:
        return Refusal("type", f"{report.type!r} is read by no meter of the catalogue")
    if report.occurred_at is not None:
        if report.occurred_at > now + timedelta(seconds=settings.USAGE_AHEAD_SECONDS):
            return Refusal("time", f"is more than {settings.USAGE_AHEAD_SECONDS} s in the future")
        if report.occurred_at < now - timedelta(days=settings.USAGE_LATE_DAYS):
            return Refusal("time", f"is more than {settings.USAGE_LATE_DAYS} days in the past")
    occurred_at = report.occurred_at or now
    for rule in rules[report.type]:
        if occurred_at < rule.effective_from or (
            rule.effective_until is not None and occurred_at >= rule.effective_until
        ):
            continue
        reason = _value_refused(report.data.get(rule.value_property), rule)
        if reason:
            return Refusal(f"data.{rule.value_property}", reason)
    return None


def _value_refused(value: Any, rule: ValueRule) -> str:
    """Return why a rule's property may not hold `value`; empty when it may."""
    if value is None:
        return f"is required by {rule.meter}" if rule.required else ""
    try:
        if rule.is_name:
            check_name(value)
        else:
            read_quantity(value, scale=rule.scale)
    except (InvalidName, InvalidQuantity) as error:
        return str(error)
    return ""


INSERT = """
WITH batch AS (
    SELECT nextval(pg_get_serial_sequence('usage_ingestbatch', 'id')) AS id
), stored AS (
    INSERT INTO usage_usageevent (
        source_id, event_id, digest, type, subject, occurred_at, received_at, data, batch_id
    )
    SELECT %(source)s, event_id, digest, type, subject,
           coalesce(occurred_at, %(now)s), %(now)s, data, batch.id
    FROM batch, unnest(
        %(ids)s::text[], %(digests)s::bytea[], %(types)s::text[], %(subjects)s::text[],
        %(times)s::timestamptz[], %(data)s::jsonb[]
    ) AS reported (event_id, digest, type, subject, occurred_at, data)
    ON CONFLICT (source_id, event_id) DO NOTHING
    RETURNING event_id, digest
), recorded AS (
    INSERT INTO usage_ingestbatch (id, source_id, received_at, event_count, checksum)
    SELECT batch.id, %(source)s, %(now)s, count(*),
           bit_xor(('x' || encode(substr(digest, 1, 8), 'hex'))::bit(64)::bigint)
    FROM batch, stored GROUP BY batch.id
)
SELECT event_id FROM stored
"""
"""One statement, one round trip. A request of which nothing is new leaves no batch."""


def _insert(
    *, source_id: int, events: Sequence[tuple[bytes, ReportedEvent]], now: datetime
) -> set[str]:
    """Insert events, each id once, and their batch; return the ids that were new."""
    if not events:
        return set()
    # In the order of their ids, so that two requests with the same events cannot deadlock.
    rows = sorted(events, key=lambda row: row[1].event_id)
    with connection.cursor() as cursor:
        cursor.execute(
            INSERT,
            {
                "source": source_id,
                "now": now,
                "ids": array_literal(event.event_id for _, event in rows),
                "digests": array_literal(f"\\x{digest.hex()}" for digest, _ in rows),
                "types": array_literal(event.type for _, event in rows),
                "subjects": array_literal(event.subject for _, event in rows),
                "times": array_literal(
                    event.occurred_at.isoformat() if event.occurred_at else None
                    for _, event in rows
                ),
                "data": array_literal(event.data_json for _, event in rows),
            },
        )
        return {event_id for (event_id,) in cursor.fetchall()}


def array_literal(elements: Iterable[str | None]) -> str:
    """Return PostgreSQL's text form of an array: far cheaper than adapting a list of objects."""
    return (
        "{"
        + ",".join(
            "NULL"
            if element is None
            else '"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"'
            for element in elements
        )
        + "}"
    )


def _digests(source_id: int, event_ids: Iterable[str]) -> dict[str, bytes]:
    ids = list(event_ids)
    if not ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT event_id, digest FROM usage_usageevent"
            " WHERE source_id = %s AND event_id = ANY(%s::text[])",
            [source_id, array_literal(ids)],
        )
        return {event_id: bytes(digest) for event_id, digest in cursor.fetchall()}


def _record_conflicts(
    source_id: int, conflicts: Iterable[tuple[bytes, ReportedEvent]], now: datetime
) -> None:
    EventConflict.objects.bulk_create(
        [
            EventConflict(
                source_id=source_id,
                event_id=event.event_id,
                received_at=now,
                digest=digest,
                payload={
                    "type": event.type,
                    "subject": event.subject,
                    "time": event.occurred_at and event.occurred_at.isoformat(),
                    "data": msgspec.json.decode(event.data_json),
                },
            )
            for digest, event in conflicts
        ],
        # The same conflict again is the same fact.
        ignore_conflicts=True,
    )
