"""Flushing: claim batches, fold their events, freeze submissions, in one bounded transaction.

What it claims is `run IS NULL`, so work lost by a crash, a rollback or a restore is still there to
be claimed. Sending is `delivery`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from django.conf import settings
from django.db import OperationalError
from psycopg.errors import QueryCanceled

from billing import steps
from billing.models import MeterVersion
from usage import quarters, running
from usage.clock import Clock
from usage.folding import fold, share_boundaries
from usage.freezing import freeze
from usage.holding import hold
from usage.models import FlushRun, IngestBatch

log = structlog.get_logger(__name__)

BATCHES_PER_RUN = 5_000
"""Bounds a run of many small requests; `USAGE_FLUSH_EVENTS` bounds one of large ones."""


@dataclass(frozen=True, slots=True)
class FlushResult:
    """What one run made."""

    batch_count: int = 0
    event_count: int = 0
    submission_count: int = 0
    held_count: int = 0


def flush_waiting(*, clock: Clock, seconds: float) -> Iterator[FlushResult]:
    """Yield run after run until nothing waits; begin none after `seconds`.

    A run that the database's time limit ends did nothing; it is repeated with a tenth of the
    events, down to a single batch, so that a backlog of any size or slowness drains.

    Raises:
        OperationalError: a single batch takes longer than the database allows.
    """
    ends = time.monotonic() + seconds
    limit = settings.USAGE_FLUSH_EVENTS
    while time.monotonic() < ends:
        try:
            result = flush_batches(now=clock(), event_limit=limit)
        except OperationalError as error:
            if limit == 1 or not isinstance(error.__cause__, QueryCanceled):
                raise
            limit = max(1, limit // 10)
            log.warning("usage.flush.run_too_slow", next_limit=limit)
            continue
        if not result.batch_count:
            return
        yield result


def flush_batches(*, now: datetime, event_limit: int | None = None) -> FlushResult:
    """Claim unflushed batches, oldest first, and fold their events into submissions.

    `event_limit` bounds the run (default `USAGE_FLUSH_EVENTS`; one batch is always taken). Claim,
    aggregation and submissions are one transaction: a repetition flushes nothing twice, and a
    batch another run holds is skipped. Usage that cannot be sent becomes a held row with a reason.
    """
    with steps.commit("usage.flush.run"):
        share_boundaries()
        batches = _claimable(event_limit or settings.USAGE_FLUSH_EVENTS)
        return fold_batches(batches, now=now) if batches else FlushResult()


def fold_batches(batches: Sequence[tuple[int, int]], *, now: datetime) -> FlushResult:
    """Make one run of `batches`, each its id and event count.

    Takes part in the caller's transaction, which has locked them and shares the boundaries.
    """
    # All of them: an event may wait for long, and what no version reads is in no book.
    versions = sorted(MeterVersion.objects.values_list("pk", flat=True))
    run = FlushRun.objects.create(
        started_at=now,
        batch_count=len(batches),
        event_count=sum(event_count for _, event_count in batches),
        meter_versions=versions,
    )
    batch_ids = [batch_id for batch_id, _ in batches]
    IngestBatch.objects.filter(pk__in=batch_ids).update(run=run)
    cells = fold(batch_ids=batch_ids, versions=versions, now=now, keep_quarters=True)
    submission_count = freeze(run, [cell for cell in cells if not cell.held_reason], now=now)
    held_count = hold(run, cells, now=now)
    values = running.fold(run, batch_ids=batch_ids, versions=versions, now=now)
    quarters.write(run, batch_ids=batch_ids, versions=versions)
    return FlushResult(
        run.batch_count,
        run.event_count,
        submission_count + values.submission_count,
        held_count + values.held_count,
    )


def _claimable(event_limit: int) -> list[tuple[int, int]]:
    """Lock unflushed batches nobody else holds and return those within the limit."""
    waiting = (
        IngestBatch.objects.filter(run__isnull=True)
        .order_by("pk")
        .select_for_update(skip_locked=True)
        .values_list("pk", "event_count")[:BATCHES_PER_RUN]
    )
    taken: list[tuple[int, int]] = []
    total = 0
    for batch_id, event_count in waiting:
        total += event_count
        if taken and total > event_limit:
            break
        taken.append((batch_id, event_count))
    return taken
