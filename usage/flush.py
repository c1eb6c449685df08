"""Folding stored events into submissions: claim batches, aggregate by cell, freeze payloads.

One bounded transaction. What it claims is `run IS NULL`, so work lost by a crash, a rollback or a
restore is still there to be claimed. Sending is `delivery`'s.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q

from billing.models import MeterVersion
from usage import wire
from usage.enums import HeldReason
from usage.lifecycle import State
from usage.models import FlushRun, HeldUsage, IngestBatch, Submission, SubmissionState
from usage.quantities import split

BATCHES_PER_RUN = 5_000
"""Bounds a run of many small requests; `USAGE_FLUSH_EVENTS` bounds one of large ones."""
HELD_PER_PASS = 500
BOUNDARY_DAYS = 36
"""Usage older than Stripe takes cannot be cut, so older boundaries need not be read."""


@dataclass(frozen=True, slots=True)
class FlushResult:
    """What one run made."""

    batch_count: int = 0
    event_count: int = 0
    submission_count: int = 0
    held_count: int = 0


@dataclass(frozen=True, slots=True)
class FoldedCell:
    """The events of one run, subject, meter and segment, folded. `quantity` is exact."""

    subject: str
    customer_id: int | None
    stripe_customer_id: str | None
    meter_id: int
    event_name: str
    meter_is_at_stripe: bool
    window_start: datetime
    segment_start: datetime
    event_count: int
    quantity: Decimal
    latest: datetime

    @property
    def held_reason(self) -> HeldReason | None:
        """Why it cannot be sent, or None when it can."""
        if self.customer_id is None:
            return HeldReason.UNKNOWN_CUSTOMER
        if self.stripe_customer_id is None:
            return HeldReason.CUSTOMER_NOT_AT_STRIPE
        if not self.meter_is_at_stripe:
            return HeldReason.METER_NOT_AT_STRIPE
        return None


def flush_batches(*, now: datetime, event_limit: int | None = None) -> FlushResult:
    """Claim unflushed batches, oldest first, and fold their events into submissions.

    `event_limit` bounds the run (default `USAGE_FLUSH_EVENTS`; one batch is always taken). Claim,
    aggregation and submissions are one transaction: a repetition flushes nothing twice, and a
    batch another run holds is skipped. Usage that cannot be sent becomes a held row with a reason.
    """
    with transaction.atomic():
        batches = _claimable(event_limit or settings.USAGE_FLUSH_EVENTS)
        if not batches:
            return FlushResult()
        versions = sorted(
            MeterVersion.objects.filter(
                Q(effective_until__isnull=True)
                | Q(effective_until__gt=now - timedelta(days=BOUNDARY_DAYS))
            ).values_list("pk", flat=True)
        )
        run = FlushRun.objects.create(
            started_at=now,
            batch_count=len(batches),
            event_count=sum(event_count for _, event_count in batches),
            meter_versions=versions,
        )
        batch_ids = [batch_id for batch_id, _ in batches]
        IngestBatch.objects.filter(pk__in=batch_ids).update(run=run)
        cells = _fold(batch_ids=batch_ids, versions=versions, now=now)
        submission_count = _freeze(run, [cell for cell in cells if not cell.held_reason], now=now)
        held_count = _hold(run, cells, now=now)
        return FlushResult(run.batch_count, run.event_count, submission_count, held_count)


def release_held(*, now: datetime, limit: int = HELD_PER_PASS) -> int:
    """Fold held usage again whose customer and meter can be sent by now; return rows released.

    The submissions belong to the run that held the usage, so that each run still accounts for all
    of its events. Folding and closing are one transaction; a repetition finds nothing to release.
    """
    with transaction.atomic():
        held = list(
            HeldUsage.objects.raw(
                """
                SELECT held.* FROM usage_heldusage held
                JOIN billing_customer customer ON customer.external_id = held.subject
                JOIN billing_meter meter ON meter.id = held.meter_id
                WHERE held.released_at IS NULL
                  AND customer.stripe_customer_id IS NOT NULL
                  AND meter.stripe_meter_id IS NOT NULL
                ORDER BY held.id LIMIT %s
                FOR UPDATE OF held SKIP LOCKED
                """,
                [limit],
            )
        )
        keys_by_run = defaultdict(set)
        for row in held:
            keys_by_run[row.run_id].add((row.subject, row.meter_id, row.window_start))
        for run in FlushRun.objects.filter(pk__in=keys_by_run).order_by("pk"):
            keys = keys_by_run[run.pk]
            cells = _fold(
                batch_ids=list(run.batches.values_list("pk", flat=True)),
                versions=run.meter_versions,
                now=now,
                subjects=sorted({subject for subject, _, _ in keys}),
            )
            due = [
                cell for cell in cells if (cell.subject, cell.meter_id, cell.window_start) in keys
            ]
            _freeze(run, due, now=now)
        HeldUsage.objects.filter(pk__in=[row.pk for row in held]).update(released_at=now)
        return len(held)


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


FOLD = """
WITH cuts AS (
    -- Billing-period boundaries inside an hour, by customer and hour: few, so one hash join.
    SELECT customer_id, date_trunc('hour', at, 'UTC') AS hour, array_agg(at) AS instants
    FROM billing_periodboundary
    WHERE at >= %(oldest)s AND at <> date_trunc('hour', at, 'UTC')
    GROUP BY 1, 2
), located AS (
    SELECT event.type, event.subject, event.occurred_at, event.data,
           customer.id AS customer_id, customer.stripe_customer_id,
           date_trunc('hour', event.occurred_at, 'UTC') AS window_start
    FROM usage_usageevent event
    LEFT JOIN billing_customer customer ON customer.external_id = event.subject
    WHERE event.batch_id = ANY(%(batches)s)
      AND (%(subjects)s::text[] IS NULL OR event.subject = ANY(%(subjects)s::text[]))
), segmented AS (
    SELECT located.*,
           CASE WHEN cuts.instants IS NULL THEN window_start ELSE greatest(
               window_start,
               (SELECT max(cut) FROM unnest(cuts.instants) cut WHERE cut <= occurred_at)
           ) END AS segment_start
    FROM located
    LEFT JOIN cuts ON cuts.customer_id = located.customer_id AND cuts.hour = window_start
)
SELECT segmented.subject, segmented.customer_id, segmented.stripe_customer_id,
       meter.id, meter.event_name, meter.stripe_meter_id IS NOT NULL,
       window_start, segment_start, count(*),
       sum(CASE meter.aggregation
           WHEN 'count' THEN 1
           ELSE coalesce((data ->> version.value_property)::numeric, 0) * 10::numeric ^ meter.scale
       END)::numeric(40, 0),
       max(occurred_at)
FROM segmented
JOIN billing_meterversion version
  ON version.id = ANY(%(versions)s) AND version.event_type = segmented.type
 AND occurred_at >= version.effective_from
 AND (version.effective_until IS NULL OR occurred_at < version.effective_until)
JOIN billing_meter meter ON meter.id = version.meter_id
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
-- A total of 0 adds nothing to a bill: there is nothing to send and nothing to hold.
HAVING sum(CASE meter.aggregation
           WHEN 'count' THEN 1 ELSE coalesce((data ->> version.value_property)::numeric, 0)
       END) <> 0
ORDER BY 1, 4, 8
"""


def _fold(
    *,
    batch_ids: Sequence[int],
    versions: Sequence[int],
    now: datetime,
    subjects: Sequence[str] | None = None,
) -> list[FoldedCell]:
    """Aggregate the batches' events by cell, with the meter versions given."""
    with connection.cursor() as cursor:
        cursor.execute(
            FOLD,
            {
                "batches": list(batch_ids),
                "versions": list(versions),
                "subjects": None if subjects is None else list(subjects),
                "oldest": now - timedelta(days=BOUNDARY_DAYS),
            },
        )
        return [FoldedCell(*row) for row in cursor.fetchall()]


def _freeze(run: FlushRun, cells: Iterable[FoldedCell], *, now: datetime) -> int:
    """Write the cells' submissions, payload and identifier included; return how many."""
    submissions = [
        _submission(run, cell, part=part, value=value, now=now)
        for cell in cells
        for part, value in enumerate(split(cell.quantity))
    ]
    Submission.objects.bulk_create(submissions, batch_size=2_000)
    SubmissionState.objects.bulk_create(
        [
            SubmissionState(
                submission=submission,
                customer_id=submission.customer_id,
                meter_id=submission.meter_id,
                state=State.READY,
                next_action_at=now,
                changed_at=now,
            )
            for submission in submissions
        ],
        batch_size=2_000,
    )
    return len(submissions)


def _submission(
    run: FlushRun, cell: FoldedCell, *, part: int, value: Decimal, now: datetime
) -> Submission:
    # Random, so that it says nothing of the customer; stored, so that every attempt repeats it.
    identifier = str(uuid.uuid4())
    timestamp = cell.latest.replace(microsecond=0)
    if cell.customer_id is None or cell.stripe_customer_id is None:
        raise ValueError(f"a cell of {cell.subject} cannot be sent: {cell.held_reason}")
    payload = wire.render(
        identifier=identifier,
        event_name=cell.event_name,
        stripe_customer_id=cell.stripe_customer_id,
        value=value,
        timestamp=timestamp,
    )
    return Submission(
        identifier=identifier,
        run=run,
        customer_id=cell.customer_id,
        meter_id=cell.meter_id,
        window_start=cell.window_start,
        segment_start=cell.segment_start,
        part=part,
        event_count=cell.event_count if part == 0 else 0,
        value=value,
        timestamp=timestamp,
        stripe_customer_id=cell.stripe_customer_id,
        event_name=cell.event_name,
        payload=payload,
        payload_hash=wire.fingerprint(payload),
        live_mode=settings.STRIPE_LIVE_MODE,
        created_at=now,
    )


def _hold(run: FlushRun, cells: Iterable[FoldedCell], *, now: datetime) -> int:
    """Write held rows for what cannot be sent, one per subject, meter and hour; return how many."""
    held: dict[tuple[str, int, datetime], HeldUsage] = {}
    for cell in cells:
        reason = cell.held_reason
        if reason is None:
            continue
        row = held.setdefault(
            (cell.subject, cell.meter_id, cell.window_start),
            HeldUsage(
                run=run,
                subject=cell.subject,
                meter_id=cell.meter_id,
                window_start=cell.window_start,
                event_count=0,
                reason=reason,
                held_at=now,
            ),
        )
        row.event_count += cell.event_count
    HeldUsage.objects.bulk_create(held.values(), batch_size=2_000)
    return len(held)
