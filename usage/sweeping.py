"""The sweep: rows that waited too long, found by their columns and moved by a legal move."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection
from django.db.models import QuerySet

from billing import cases, steps
from billing.enums import CaseKind
from usage import lateness
from usage.claiming import STRIPE_ACCEPTS_DAYS
from usage.lifecycle import State
from usage.models import SubmissionState
from usage.outcomes import CASE_HOURS

ROWS_PER_SWEEP = 1_000
"""Bounds the transaction in which a long outage's rows become cases; the next pass goes on."""

_STALLED = """
WITH stalled AS (
    SELECT submission_id, attempt_count FROM usage_submissionstate
    WHERE state = 'sending' AND lease_until < %(now)s
    FOR UPDATE SKIP LOCKED
)
UPDATE usage_submissionstate standing
SET state = 'in_doubt', lease_until = NULL, changed_at = %(now)s, next_action_at = %(now)s,
    doubt_since = coalesce(standing.doubt_since, attempt.started_at),
    reason = 'the worker that sent it never said how it ended'
FROM stalled
JOIN usage_attempt attempt
  ON attempt.submission_id = stalled.submission_id AND attempt.number = stalled.attempt_count
WHERE standing.submission_id = stalled.submission_id
"""


def sweep(*, now: datetime) -> Counter[str]:
    """Move what waited too long: leases that are over, doubts that are, usage Stripe won't take.

    Each row goes by a legal move and, where only a person can go on, into a case. A repetition
    finds what is left, or nothing more.
    """
    counts: Counter[str] = Counter()
    with steps.commit("usage.sweep.stalled"), connection.cursor() as cursor:
        cursor.execute(_STALLED, {"now": now})
        counts["stalled"] = cursor.rowcount
    due = SubmissionState.objects.filter(next_action_at__lte=now)
    with steps.commit("usage.sweep.unproven"):
        counts["unproven"] = _give_to_a_person(
            due.filter(
                state__in=[State.IN_DOUBT, State.RETRY],
                doubt_since__lte=now - timedelta(hours=settings.USAGE_DOUBT_HOURS),
            ),
            state=State.UNPROVEN,
            kind=CaseKind.UNPROVEN,
            reason=f"in doubt for {settings.USAGE_DOUBT_HOURS} h; only Stripe's summary can tell",
            now=now,
        )
    with steps.commit("usage.sweep.expired"):
        counts["expired"] = _give_to_a_person(
            due.filter(
                state__in=[State.READY, State.RETRY],
                doubt_since__isnull=True,
                submission__timestamp__lte=now - timedelta(days=STRIPE_ACCEPTS_DAYS),
            ),
            state=State.EXPIRED,
            kind=CaseKind.EXPIRED,
            reason="too old for Stripe to take",
            now=now,
        )
    late = lateness.hold_late(now=now)
    counts["late"], counts["unproven"] = late.held_count, counts["unproven"] + late.unproven_count
    return +counts


def _give_to_a_person(
    rows: QuerySet[SubmissionState], *, state: State, kind: CaseKind, reason: str, now: datetime
) -> int:
    """Move `rows` to `state`, each with a case, `ROWS_PER_SWEEP` at most; return how many."""
    locked = list(
        rows.select_related("submission")
        .order_by("next_action_at", "pk")
        .select_for_update(skip_locked=True, of=("self",))[:ROWS_PER_SWEEP]
    )
    for standing in locked:
        cases.open_case(
            kind=kind,
            reference=standing.submission.identifier,
            reason=reason,
            quantity=standing.submission.value,
            deadline_at=now + timedelta(hours=CASE_HOURS),
        )
    SubmissionState.objects.filter(pk__in=[standing.pk for standing in locked]).update(
        state=state, next_action_at=None, lease_until=None, reason=reason, changed_at=now
    )
    return len(locked)
