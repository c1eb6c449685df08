"""Writing events: those of one source, each id once, with the batch they belong to.

Whether an event may be stored is `ingestion`'s to say; in which transaction, its callers'.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import reduce
from operator import attrgetter, xor

import msgspec
from django.db import IntegrityError, connection

from billing import steps
from usage.models import EventConflict
from usage.reports import Row

COPY_FROM = 100
"""From so many events on they are copied; below, the round trips of it would cost more."""


def insert(*, source_id: int, rows: Iterable[Row], now: datetime) -> set[str]:
    """Insert events, each id once, and their batch; return the ids that were new.

    Waits for whoever is inserting one of these ids at the same moment. Of ids that are all known
    nothing is left, not even a batch.
    """
    # In the order of their ids, so that two requests with the same events cannot deadlock.
    ordered = sorted(rows, key=attrgetter("event_id"))
    if not ordered:
        return set()
    if len(ordered) >= COPY_FROM and _copied(source_id, ordered, now):
        return {row.event_id for row in ordered}
    return _inserted(source_id, ordered, now)


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


def _inserted(source_id: int, rows: Sequence[Row], now: datetime) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            INSERT,
            {
                "source": source_id,
                "now": now,
                "ids": array_literal(row.event_id for row in rows),
                "digests": array_literal(f"\\x{row.digest.hex()}" for row in rows),
                "types": array_literal(row.report.type for row in rows),
                "subjects": array_literal(row.report.subject for row in rows),
                "times": array_literal(row.time or None for row in rows),
                "data": array_literal(row.report.data_json for row in rows),
            },
        )
        return {event_id for (event_id,) in cursor.fetchall()}


BATCH = """
INSERT INTO usage_ingestbatch (source_id, received_at, event_count, checksum)
VALUES (%s, %s, %s, %s) RETURNING id
"""
COPY = """
COPY usage_usageevent (
    source_id, batch_id, received_at, event_id, digest, type, subject, occurred_at, data
) FROM STDIN
"""
"""Half the cost of an insert: rows are written by the page and nothing is asked before each."""


def _copied(source_id: int, rows: Sequence[Row], now: datetime) -> bool:
    """Write events that are all new; return False, with nothing written, when one is not."""
    try:
        with steps.commit("usage.storing.copy"), connection.cursor() as cursor:
            cursor.execute(BATCH, [source_id, now, len(rows), checksum(rows)])
            [batch_id] = cursor.fetchone()
            received_at = now.isoformat()
            text = _lines(f"{source_id}\t{batch_id}\t{received_at}\t", rows, received_at)
            with connection.wrap_database_errors, cursor.copy(COPY) as copy:
                copy.write(text)
    except IntegrityError:
        # Somebody reports again what is stored. Rare, and then they are told apart.
        return False
    return True


def checksum(rows: Iterable[Row]) -> int:
    """Return the exclusive or of the first 8 bytes of the digests, signed, as INSERT does."""
    digests = b"".join([row.digest for row in rows])
    return reduce(xor, struct.unpack(f"!{len(digests) // 8}q", digests)[::2], 0)


def _lines(head: str, rows: Sequence[Row], now: str) -> str:
    """Return the events in COPY's text format, a line each that begins with `head`.

    Those without a time of their own occurred `now`.
    """
    lines = [
        f"{head}{row.event_id}\t\\\\x{row.digest.hex()}\t{row.report.type}\t"
        f"{row.report.subject}\t{row.time or now}\t"
        f"{row.report.data_json}\n"
        for row in rows
    ]
    text = "".join(lines)
    tabs = head.count("\t") + 5
    if (
        text.count("\\") == 2 * len(rows)
        and text.count("\n") == len(rows)
        and text.count("\t") == tabs * len(rows)
        and "\r" not in text
    ):
        # All of them are ours, so nothing that callers wrote needs an escape.
        return text
    return "".join(
        f"{head}{_escaped(row.event_id)}\t\\\\x{row.digest.hex()}\t{_escaped(row.report.type)}\t"
        f"{_escaped(row.report.subject)}\t{row.time or now}\t"
        f"{_escaped(row.report.data_json)}\n"
        for row in rows
    )


def _escaped(text: str) -> str:
    """Return what stands for `text` in a line of COPY's text format."""
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace("\r", "\\r").replace("\t", "\\t")


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


def digests(source_id: int, event_ids: Iterable[str]) -> dict[str, bytes]:
    """Return the digests under which events of these ids are stored, by id."""
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


def record_conflicts(*, source_id: int, rows: Iterable[Row], now: datetime) -> None:
    """Keep what came under an id that is known with another payload. A repetition adds nothing."""
    EventConflict.objects.bulk_create(
        [
            EventConflict(
                source_id=source_id,
                event_id=row.event_id,
                received_at=now,
                digest=row.digest,
                payload={
                    "type": row.report.type,
                    "subject": row.report.subject,
                    "time": row.report.occurred_at and row.report.occurred_at.isoformat(),
                    "data": msgspec.json.decode(row.report.data_json),
                },
            )
            for row in rows
        ],
        ignore_conflicts=True,
    )
