"""Holding: usage that cannot be sent yet waits with a reason, and is folded again when it can.

While any of it waits, one case for each reason tells staff, with a deadline.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Count, Min

from billing import cases
from billing.enums import CaseKind
from usage.clock import Clock
from usage.enums import HeldReason
from usage.folding import FoldedCell, fold
from usage.freezing import freeze
from usage.models import FlushRun, HeldUsage

ROWS_PER_PASS = 500
CASE_HOURS = 72
"""Stripe's longest wait before an invoice is final, so that it is still the right invoice."""


def hold(run: FlushRun, cells: Iterable[FoldedCell], *, now: datetime) -> int:
    """Write held rows for what cannot be sent, one per subject, meter and cell; return how many."""
    held = [
        HeldUsage(
            run=run,
            subject=cell.subject,
            meter_id=cell.meter_id,
            window_start=cell.window_start,
            segment_start=cell.segment_start,
            event_count=cell.event_count,
            quantity=cell.quantity,
            reason=reason,
            held_at=now,
        )
        for cell in cells
        if (reason := cell.held_reason) is not None
    ]
    HeldUsage.objects.bulk_create(held, batch_size=2_000)
    return len(held)


def release_waiting(*, clock: Clock, seconds: float) -> int:
    """Release run after run until nothing can be; begin none after `seconds`. Return the rows."""
    ends = time.monotonic() + seconds
    released = 0
    while time.monotonic() < ends and (rows := release(now=clock())):
        released += rows
    return released


def release(*, now: datetime, limit: int = ROWS_PER_PASS) -> int:
    """Fold held usage again whose customer and meter can be sent by now; return rows released.

    It takes the oldest run that holds such usage, since each run is folded anew: a customer made
    hours late has hundreds, more than one transaction can do in time. Call it until it returns 0.
    The submissions belong to that run, so that each run still accounts for all of its events.
    Folding and closing are one transaction; a repetition finds the next run, or nothing.
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
                  AND meter.aggregation IN ('sum', 'count')
                ORDER BY held.id LIMIT %s
                FOR UPDATE OF held SKIP LOCKED
                """,
                [limit],
            )
        )
        if not held:
            return 0
        run = held[0].run
        held = [row for row in held if row.run_id == run.pk]
        keys = {(row.subject, row.meter_id, row.window_start) for row in held}
        cells = fold(
            batch_ids=list(run.batches.values_list("pk", flat=True)),
            versions=run.meter_versions,
            now=now,
            subjects=sorted({subject for subject, _, _ in keys}),
        )
        due = [cell for cell in cells if (cell.subject, cell.meter_id, cell.window_start) in keys]
        freeze(run, due, now=now)
        HeldUsage.objects.filter(pk__in=[row.pk for row in held]).update(released_at=now)
        return len(held)


@transaction.atomic
def report() -> None:
    """Open a case for each reason usage is held for, or close it when none is any more.

    A repetition brings the open cases up to date. The deadline counts from the oldest row.
    """
    waiting = {
        row["reason"]: row
        for row in HeldUsage.objects.filter(released_at__isnull=True)
        .order_by()
        .values("reason")
        .annotate(
            subjects=Count("subject", distinct=True),
            hours=Count("pk"),
            example=Min("subject"),
            since=Min("held_at"),
        )
    }
    for reason in HeldReason:
        row = waiting.get(reason)
        if row is None:
            cases.close_case(CaseKind.HELD, reason.value, "nothing is held for it any more")
            continue
        plural = "" if row["subjects"] == 1 else "s"
        cases.open_case(
            kind=CaseKind.HELD,
            reference=reason.value,
            reason=f"{reason.label}: usage of {row['subjects']:,} customer{plural} in"
            f" {row['hours']:,} hours by meter, such as that of {row['example']!r}",
            deadline_at=row["since"] + timedelta(hours=CASE_HOURS),
        )
