"""Voiding: a stored event is taken back by another one that counts with sign -1.

Nothing is changed or deleted. The void event is the original again, of a source of our own, linked
to it; whatever folds events folds it, into the original's own cell and by the meter definition in
force when the use happened. Taking back a whole submission at Stripe is `cancelling`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from billing import steps
from billing.authentication import OUR_SOURCES
from billing.models import Source
from usage.storing import array_literal

CORRECTIONS = f"{OUR_SOURCES}corrections"
"""The source of void events. No API key speaks for it, so no caller's id can meet theirs."""
EVENTS_PER_BATCH = 1_000
"""As many as a caller's largest request, so that a flush can bound its runs."""


class VoidRefused(Exception):
    """Events were not voided, none of those asked for."""


class Unexplained(VoidRefused):
    """A correction needs an author and a reason."""

    def __init__(self) -> None:
        super().__init__("Say who takes the events back, and why.")


class UnknownEvents(VoidRefused):
    """No such events are stored."""

    def __init__(self, keys: Sequence[EventKey]) -> None:
        super().__init__(f"No event is stored as {_named(keys)}. Nothing was voided.")
        self.keys = tuple(keys)


class VoidsAlready(VoidRefused):
    """What is to be voided is itself a void."""

    def __init__(self, keys: Sequence[EventKey]) -> None:
        super().__init__(
            f"A void stays: {_named(keys)}. Report the usage again under a new id. Nothing was"
            " voided."
        )
        self.keys = tuple(keys)


@dataclass(frozen=True, slots=True, order=True)
class EventKey:
    """What identifies an event: its source and its caller's id."""

    source_id: int
    event_id: str


@dataclass(frozen=True, slots=True)
class Voided:
    """Events voided by this call, those that had been before, and the batches of the void events.

    Each batch is its id and event count.
    """

    voided: tuple[EventKey, ...]
    already: tuple[EventKey, ...]
    batches: tuple[tuple[int, int], ...]


def void(events: Iterable[EventKey], *, author: str, reason: str, now: datetime) -> Voided:
    """Take `events` back: all of them, or with an error none; one given twice counts once.

    Each gets a void event, unflushed, and a row that says who did it and why. All is one
    transaction, and a repetition adds nothing: what had been voided before is named in the answer,
    also when somebody else does it at the same moment.

    Raises:
        Unexplained: author or reason is blank.
        UnknownEvents: some are not stored.
        VoidsAlready: some are void events themselves.
    """
    if not author.strip() or not reason.strip():
        raise Unexplained
    keys = sorted(set(events))
    with steps.commit("usage.voiding.void"):
        originals = _find(keys)
        unknown = [key for key in keys if key not in originals]
        if unknown:
            raise UnknownEvents(unknown)
        voids = [key for key in keys if originals[key].is_void]
        if voids:
            raise VoidsAlready(voids)
        source, _ = Source.objects.get_or_create(name=CORRECTIONS)
        voided: set[EventKey] = set()
        batches: list[tuple[int, int]] = []
        # In the order of their keys, so that two voids of the same events cannot deadlock.
        for start in range(0, len(keys), EVENTS_PER_BATCH):
            batch_id, added = _insert(
                {key: originals[key] for key in keys[start : start + EVENTS_PER_BATCH]},
                source_id=source.pk,
                author=author.strip(),
                reason=reason.strip(),
                now=now,
            )
            if added:
                batches.append((batch_id, len(added)))
                voided |= added
    return Voided(
        voided=tuple(key for key in keys if key in voided),
        already=tuple(key for key in keys if key not in voided),
        batches=tuple(batches),
    )


@dataclass(frozen=True, slots=True)
class _Original:
    digest: bytes
    is_void: bool

    @property
    def void_digest(self) -> bytes:
        # Of the original's, so that it differs from it and still follows from what was reported.
        return hashlib.blake2b(b"void:" + self.digest, digest_size=16).digest()


FIND = """
SELECT event.source_id, event.event_id, event.digest, event.voids IS NOT NULL
FROM unnest(%(sources)s::bigint[], %(ids)s::text[]) AS wanted (source_id, event_id)
JOIN usage_usageevent event USING (source_id, event_id)
"""


def _find(keys: Sequence[EventKey]) -> dict[EventKey, _Original]:
    with connection.cursor() as cursor:
        cursor.execute(
            FIND,
            {
                "sources": [key.source_id for key in keys],
                "ids": array_literal(key.event_id for key in keys),
            },
        )
        return {
            EventKey(source_id, event_id): _Original(bytes(digest), is_void)
            for source_id, event_id, digest, is_void in cursor.fetchall()
        }


INSERT = """
WITH batch AS (
    SELECT nextval(pg_get_serial_sequence('usage_ingestbatch', 'id')) AS id
), original AS (
    SELECT event.*, wanted.void_digest
    FROM unnest(%(sources)s::bigint[], %(ids)s::text[], %(digests)s::bytea[])
        AS wanted (source_id, event_id, void_digest)
    JOIN usage_usageevent event USING (source_id, event_id)
), stored AS (
    INSERT INTO usage_usageevent (
        source_id, event_id, digest, type, subject, occurred_at, received_at, data, batch_id, voids
    )
    SELECT %(corrections)s, 'void:' || original.id, void_digest, type, subject, occurred_at,
           %(now)s, data, batch.id, original.id
    FROM original, batch
    ORDER BY original.source_id, original.event_id
    ON CONFLICT DO NOTHING
    RETURNING id, digest, voids
), explained AS (
    INSERT INTO usage_void (
        void_event_id, original_event_id, source_id, event_id, author, reason, created_at
    )
    SELECT stored.id, original.id, original.source_id, original.event_id, %(author)s, %(reason)s,
           %(now)s
    FROM stored JOIN original ON original.id = stored.voids
), recorded AS (
    INSERT INTO usage_ingestbatch (id, source_id, received_at, event_count, checksum)
    SELECT batch.id, %(corrections)s, %(now)s, count(*),
           bit_xor(('x' || encode(substr(digest, 1, 8), 'hex'))::bit(64)::bigint)
    FROM batch, stored GROUP BY batch.id
)
SELECT batch.id, original.source_id, original.event_id
FROM batch, stored JOIN original ON original.id = stored.voids
"""
"""Copied within the database, so that no number of `data` goes through another's arithmetic."""


def _insert(
    originals: dict[EventKey, _Original],
    *,
    source_id: int,
    author: str,
    reason: str,
    now: datetime,
) -> tuple[int, set[EventKey]]:
    """Insert the void events of one batch; return its id and the originals newly voided."""
    with connection.cursor() as cursor:
        cursor.execute(
            INSERT,
            {
                "corrections": source_id,
                "now": now,
                "author": author,
                "reason": reason,
                "sources": [key.source_id for key in originals],
                "ids": array_literal(key.event_id for key in originals),
                "digests": array_literal(
                    f"\\x{original.void_digest.hex()}" for original in originals.values()
                ),
            },
        )
        rows = cursor.fetchall()
    return (rows[0][0] if rows else 0), {EventKey(source, event) for _, source, event in rows}


def _named(keys: Sequence[EventKey], *, most: int = 10) -> str:
    shown = ", ".join(repr(key.event_id) for key in keys[:most])
    return shown if len(keys) <= most else f"{shown} and {len(keys) - most:,} more"
