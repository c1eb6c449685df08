"""Holding: usage that cannot be sent yet waits with a reason, and is folded again when it can.

While any of it waits, one case for each reason tells staff, with a deadline.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeAlias

from django.db import connection
from django.db.models import Count, Min

from billing import cases, steps
from billing.enums import CaseKind
from usage.clock import Clock
from usage.enums import HeldReason
from usage.folding import FoldedCell, FoldMismatch, fold, share_boundaries
from usage.freezing import freeze
from usage.models import FlushRun, HeldUsage, Replacement

HOURS_PER_PASS = 500
CASE_HOURS = 72
"""Stripe's longest wait before an invoice is final, so that it is still the right invoice."""

Hour: TypeAlias = tuple[str, int, datetime]
"""A subject, a meter's id, and the start of a UTC hour."""


def hold(
    run: FlushRun,
    cells: Iterable[FoldedCell],
    *,
    now: datetime,
    replaces: Replacement | None = None,
) -> int:
    """Write held rows for what cannot be sent, one per subject, meter and cell; return how many.

    `replaces` is the decision they stand in for, None for what the run itself folded.
    """
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
            replaces=replaces,
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


RELEASABLE = """
SELECT held.run_id FROM usage_heldusage held
JOIN billing_customer customer ON customer.external_id = held.subject
JOIN billing_meter meter ON meter.id = held.meter_id
JOIN usage_flushrun run ON run.id = held.run_id
WHERE held.released_at IS NULL AND held.reason <> %(late)s AND held.replaces_id IS NULL
  AND customer.stripe_customer_id IS NOT NULL AND meter.stripe_meter_id IS NOT NULL
  AND meter.aggregation IN ('sum', 'count')
ORDER BY held.id LIMIT 1
FOR NO KEY UPDATE OF run SKIP LOCKED
"""
"""The run of the oldest row that can go. Its lock makes those who release of one run take turns."""
HOURS = """
SELECT held.subject, held.meter_id, held.window_start
FROM usage_heldusage held
JOIN billing_customer customer ON customer.external_id = held.subject
JOIN billing_meter meter ON meter.id = held.meter_id
WHERE held.run_id = %(run)s
  AND held.released_at IS NULL AND held.reason <> %(late)s AND held.replaces_id IS NULL
  AND customer.stripe_customer_id IS NOT NULL AND meter.stripe_meter_id IS NOT NULL
  AND meter.aggregation IN ('sum', 'count')
GROUP BY 1, 2, 3 ORDER BY min(held.id) LIMIT %(limit)s
"""


def release(*, now: datetime, limit: int = HOURS_PER_PASS) -> int:
    """Fold held usage again whose customer and meter can be sent by now; return rows released.

    It takes the oldest run that holds such usage, since each run is folded anew: a customer made
    hours late has hundreds, more than one transaction can do in time. Call it until it returns 0.
    Hours, `limit` of them, are released as a whole, because boundaries learned since then may cut
    them elsewhere. The submissions belong to that run, so that each run still accounts for all of
    its events; what the invoice of its period can no longer take is held anew, as late. That is
    for a person to decide and never released here. Folding and closing are one transaction; a
    repetition finds the next run, or nothing.

    Raises:
        FoldMismatch: an hour does not amount to what was held of it; nothing was released.
    """
    with steps.commit("usage.holding.release"):
        share_boundaries()
        late = HeldReason.LATE.value
        with connection.cursor() as cursor:
            cursor.execute(RELEASABLE, {"late": late})
            found = cursor.fetchone()
            if found is None:
                return 0
            run = FlushRun.objects.get(pk=found[0])
            cursor.execute(HOURS, {"run": run.pk, "late": late, "limit": limit})
            hours: set[Hour] = set(cursor.fetchall())
        held = [
            row
            for row in HeldUsage.objects.filter(run=run, released_at=None, replaces=None)
            .exclude(reason=late)
            .select_for_update(no_key=True)
            if (row.subject, row.meter_id, row.window_start) in hours
        ]
        cells = fold(
            batch_ids=list(run.batches.values_list("pk", flat=True)),
            versions=run.meter_versions,
            now=now,
            subjects=sorted({subject for subject, _, _ in hours}),
        )
        due = [cell for cell in cells if (cell.subject, cell.meter_id, cell.window_start) in hours]
        _check_amounts(held, due)
        # Before the new rows: an hour may be held anew, as late, under the same segment.
        HeldUsage.objects.filter(pk__in=[row.pk for row in held]).update(released_at=now)
        freeze(run, [cell for cell in due if not cell.held_reason], now=now)
        hold(run, due, now=now)
        return len(held)


def _check_amounts(held: Iterable[HeldUsage], folded: Iterable[FoldedCell]) -> None:
    """Object when hours folded again amount to something else than what was held of them."""
    difference: defaultdict[Hour, Decimal] = defaultdict(Decimal)
    for row in held:
        difference[row.subject, row.meter_id, row.window_start] -= row.quantity
    for cell in folded:
        difference[cell.subject, cell.meter_id, cell.window_start] += cell.quantity
    for (subject, meter_id, window_start), quantity in difference.items():
        if quantity:
            raise FoldMismatch(
                f"The usage held of {subject!r} for meter {meter_id} in the hour from"
                f" {window_start} was folded again, to {quantity:+f} of what it was."
            )


def report() -> None:
    """Open a case for each reason usage is held for, or close it when none is any more.

    Late usage has cases of its own, which `lateness` keeps. A repetition brings the open cases up
    to date. The deadline counts from the oldest row.
    """
    with steps.commit("usage.holding.report"):
        _report()


def _report() -> None:
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
        if reason == HeldReason.LATE:
            continue
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
