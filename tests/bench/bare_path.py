"""References of the ingest benchmark: the bare SQL path, and the ORM's way of writing the same.

The bare path is what a careful engineer writes by hand for events that are decoded, judged and
digested already: staged by COPY and inserted where new, or for a few of them one array insert.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from django.db import connection

from usage import storing
from usage.models import IngestBatch, UsageEvent
from usage.reports import Row

STAGED_FROM = 500
"""Below, the round trips of staging cost more than it spares."""
STAGE = """
CREATE TEMPORARY TABLE IF NOT EXISTS staged (
    event_id text COLLATE "C", digest bytea, type text, subject text,
    occurred_at timestamptz, data jsonb
) ON COMMIT DELETE ROWS
"""
INSERT = """
INSERT INTO usage_usageevent (
    source_id, event_id, digest, type, subject, occurred_at, received_at, data, batch_id
)
SELECT %s, event_id, digest, type, subject, occurred_at, %s, data, %s FROM staged
ON CONFLICT (source_id, event_id) DO NOTHING RETURNING event_id
"""


def write(*, source_id: int, rows: Sequence[Row], now: datetime) -> None:
    """Write events that are new, in the transaction that is open."""
    if len(rows) < STAGED_FROM:
        storing._inserted(source_id, rows, now)
        return
    with connection.cursor() as cursor:
        cursor.execute(STAGE)
        with cursor.copy("COPY staged FROM STDIN") as copy:
            copy.write(
                "".join(
                    [
                        f"{row.event_id}\t\\\\x{row.digest.hex()}\t{row.report.type}\t"
                        f"{row.report.subject}\t{row.report.occurred_at}\t{row.report.data_json}\n"
                        for row in rows
                    ]
                )
            )
        cursor.execute(storing.BATCH, [source_id, now, len(rows), 0])
        [batch_id] = cursor.fetchone()
        cursor.execute(INSERT, [source_id, now, batch_id])
        cursor.fetchall()


def insert_by_orm(*, source_id: int, rows: Iterable[Row], now: datetime) -> set[str]:
    """Do what `storing.insert` does by `bulk_create`, which cannot tell what was new."""
    rows = list(rows)
    batch = IngestBatch.objects.create(
        source_id=source_id,
        received_at=now,
        event_count=len(rows),
        checksum=storing.checksum(rows),
    )
    UsageEvent.objects.bulk_create(
        [
            UsageEvent(
                source_id=source_id,
                event_id=row.event_id,
                digest=row.digest,
                type=row.report.type,
                subject=row.report.subject,
                occurred_at=row.report.occurred_at or now,
                received_at=now,
                data=row.report.data,
                batch=batch,
            )
            for row in rows
        ],
        ignore_conflicts=True,
    )
    return {row.event_id for row in rows}
