"""Lateness: nothing is sent into a period whose invoice is final, or may be by now.

What is too late becomes held usage with a case that names the amount; a person decides about it.
Whether an invoice is final is billing's to know.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeAlias

import structlog
from django.db import connection

from billing import cases, periods, steps
from billing.enums import CaseKind
from billing.models import Case
from usage.clock import Clock
from usage.enums import HeldReason, ReplacementKind
from usage.lifecycle import State
from usage.models import HeldUsage, Replacement, Submission, SubmissionState
from usage.replacing import supersede

log = structlog.get_logger(__name__)

_UNASKED = f"interval '{periods.UNASKED.total_seconds():.0f} seconds'"
MAY_BE_SENT = f"""
NOT EXISTS (
    SELECT FROM billing_periodboundary boundary
    WHERE boundary.customer_id = submission.customer_id
      AND boundary.at > submission.segment_start AND boundary.at <= %(now)s
      AND CASE WHEN boundary.at > submission.timestamp
          THEN boundary.closed_at IS NOT NULL
               OR (boundary.at <= %(now)s::timestamptz - {_UNASKED}
                   AND (boundary.open_until IS NULL OR boundary.open_until <= %(now)s))
          ELSE boundary.recut_at IS NULL END
)
"""
"""Whether a row `submission` of `usage_submission` may be sent at `%(now)s`; a claim's condition.

No billing period may have ended since its usage whose invoice is final, or whose invoice Stripe
was not seen to keep as a draft: in the first half hour it does so without being asked. And no
boundary learned late may still be about to cut it. One look into the index of a customer's
boundaries for each candidate; true for nearly all.
"""
BOUNDARIES_PER_PASS = 500
ROWS_PER_STEP = 500
OLDEST = timedelta(days=36)
"""Stripe takes no usage as old as this, so no older boundary keeps any waiting."""
CASE_HOURS = 72


@dataclass(frozen=True, slots=True)
class Late:
    """What one pass found too late, in submissions."""

    held_count: int = 0
    unproven_count: int = 0


WAITING = """
SELECT boundary.id FROM billing_periodboundary boundary
WHERE boundary.closed_at IS NULL
  AND boundary.at > %(oldest)s AND boundary.at <= %(unasked)s
  AND (boundary.open_until IS NULL OR boundary.open_until <= %(now)s)
  AND EXISTS (
      SELECT FROM usage_submissionstate standing
      JOIN usage_submission submission ON submission.id = standing.submission_id
      WHERE standing.customer_id = boundary.customer_id
        AND standing.state IN ('ready', 'retry', 'in_doubt')
        AND submission.timestamp < boundary.at
  )
ORDER BY boundary.asked_at NULLS FIRST, boundary.id LIMIT %(limit)s
"""


def ask(*, now: datetime, seconds: float) -> periods.Refreshed:
    """Ask Stripe about the ended periods unsent usage waits for; begin no call after `seconds`.

    A repetition asks only what was not answered, or not for long enough.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            WAITING,
            {
                "now": now,
                "unasked": now - periods.UNASKED,
                "oldest": now - OLDEST,
                "limit": BOUNDARIES_PER_PASS,
            },
        )
        waiting = [boundary_id for (boundary_id,) in cursor.fetchall()]
    return periods.refresh(waiting, now=now, seconds=seconds) if waiting else periods.Refreshed()


def hold_late_waiting(*, clock: Clock, seconds: float) -> Late:
    """Hold late usage step after step until none is left; begin none after `seconds`."""
    ends = time.monotonic() + seconds
    held = unproven = 0
    while time.monotonic() < ends:
        late = hold_late(now=clock())
        if late == Late():
            break
        held += late.held_count
        unproven += late.unproven_count
    return Late(held, unproven)


def hold_late(*, now: datetime) -> Late:
    """Take submissions of periods whose invoice is final out of delivery's hands.

    What Stripe cannot have becomes held usage, in one decision for each customer, meter and hour.
    What it may have is not repeated either, since the repetition could be counted now and be on no
    invoice: only Stripe's summary can tell. `ROWS_PER_STEP` of each at most; a repetition goes on.
    A row in flight is left to its call's end.
    """
    with steps.commit("usage.lateness.hold"):
        held = _locked(LATE_UNSENT, now)
        for standings in _by_hour(held).values():
            submissions = [row.submission for row in standings]
            replacement = supersede(
                submissions, kind=ReplacementKind.LATE, reason=HeldReason.LATE.label, now=now
            )
            _hold(replacement, submissions, now=now)
    with steps.commit("usage.lateness.leave_to_the_summary"):
        doubtful = _locked(LATE_IN_DOUBT, now)
        reason = f"in doubt, and {HeldReason.LATE.label}: a repetition could be counted too late"
        for row in doubtful:
            cases.open_case(
                kind=CaseKind.UNPROVEN,
                reference=row.submission.identifier,
                reason=reason,
                quantity=row.submission.value,
                deadline_at=now + timedelta(hours=CASE_HOURS),
            )
        SubmissionState.objects.filter(pk__in=[row.pk for row in doubtful]).update(
            state=State.UNPROVEN, next_action_at=None, reason=reason, changed_at=now
        )
    return Late(len(held), len(doubtful))


LATE = """
SELECT standing.* FROM usage_submissionstate standing
JOIN usage_submission submission ON submission.id = standing.submission_id
WHERE {}
  AND EXISTS (
      SELECT FROM billing_periodboundary boundary
      WHERE boundary.customer_id = submission.customer_id
        AND boundary.closed_at IS NOT NULL
        AND boundary.at > submission.timestamp AND boundary.at <= %(now)s
  )
ORDER BY standing.submission_id LIMIT %(limit)s
FOR UPDATE OF standing SKIP LOCKED
"""
LATE_UNSENT = LATE.format("standing.state IN ('ready', 'retry') AND standing.doubt_since IS NULL")
LATE_IN_DOUBT = LATE.format(
    "standing.state IN ('in_doubt', 'retry') AND standing.doubt_since IS NOT NULL"
)

Cell: TypeAlias = tuple[int, int, datetime]


def _locked(query: str, now: datetime) -> list[SubmissionState]:
    rows = list(SubmissionState.objects.raw(query, {"now": now, "limit": ROWS_PER_STEP}))
    submissions = Submission.objects.select_related("customer").in_bulk([row.pk for row in rows])
    for row in rows:
        row.submission = submissions[row.pk]
    return rows


def _by_hour(standings: Iterable[SubmissionState]) -> dict[Cell, list[SubmissionState]]:
    hours: defaultdict[Cell, list[SubmissionState]] = defaultdict(list)
    for row in standings:
        hours[row.customer_id, row.meter_id, row.submission.window_start].append(row)
    return hours


def _hold(replacement: Replacement, submissions: Iterable[Submission], *, now: datetime) -> None:
    """Write one held row for each run and segment that the replacement takes back."""
    segments: defaultdict[tuple[int, datetime], list[Submission]] = defaultdict(list)
    for submission in submissions:
        segments[submission.run_id, submission.segment_start].append(submission)
    HeldUsage.objects.bulk_create(
        HeldUsage(
            run_id=run_id,
            subject=parts[0].customer.external_id,
            meter_id=replacement.meter_id,
            window_start=replacement.window_start,
            segment_start=segment_start,
            event_count=sum(part.event_count for part in parts),
            quantity=sum((part.value for part in parts), Decimal(0)),
            reason=HeldReason.LATE,
            held_at=now,
            replaces=replacement,
        )
        for (run_id, segment_start), parts in segments.items()
    )


HELD_BY_PERIOD = """
SELECT customer.id, customer.external_id, meter.slug, ended.at,
       sum(held.quantity), count(*), min(held.held_at)
FROM usage_heldusage held
JOIN billing_customer customer ON customer.external_id = held.subject
JOIN billing_meter meter ON meter.id = held.meter_id
CROSS JOIN LATERAL (
    SELECT min(boundary.at) AS at FROM billing_periodboundary boundary
    WHERE boundary.customer_id = customer.id AND boundary.closed_at IS NOT NULL
      AND boundary.at > held.segment_start
) ended
WHERE held.released_at IS NULL AND held.reason = 'late'
GROUP BY 1, 2, 3, 4 ORDER BY 1, 3, 4
"""


def report() -> None:
    """Open a case for late usage of each customer, meter and period; close those that have none.

    It names the amount in the meter's smallest unit. A repetition brings the open cases up to
    date. The deadline counts from the oldest row.
    """
    with steps.commit("usage.lateness.report"):
        with connection.cursor() as cursor:
            cursor.execute(HELD_BY_PERIOD)
            rows = cursor.fetchall()
        current = set()
        for customer_id, external_id, slug, at, quantity, row_count, since in rows:
            reference = f"{slug} of customer {customer_id} until {at:%Y-%m-%d %H:%M:%S}Z"
            current.add(reference)
            plural = "" if row_count == 1 else "s"
            cases.open_case(
                kind=CaseKind.LATE,
                reference=reference,
                reason=f"{HeldReason.LATE.label}: {quantity:,f} of {external_id!r} for {slug}"
                f" before {at:%Y-%m-%d %H:%M:%S} UTC, in {row_count:,} cell{plural}",
                quantity=quantity,
                deadline_at=since + timedelta(hours=CASE_HOURS),
            )
        for case in Case.objects.filter(kind=CaseKind.LATE, closed_at=None).exclude(
            reference__in=current
        ):
            cases.close_case(CaseKind.LATE, case.reference, "nothing is held for it any more")
