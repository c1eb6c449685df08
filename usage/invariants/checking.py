"""Asking all invariants, and making a case of each that does not hold."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction

from billing import cases, steps
from billing.enums import CaseKind
from usage.invariants.invariant import Violation
from usage.invariants.periods import PERIOD_INVARIANTS
from usage.invariants.quarters import QUARTER_INVARIANTS
from usage.invariants.reports import REPORT_INVARIANTS
from usage.invariants.running import RUNNING_INVARIANTS
from usage.invariants.submissions import SUBMISSION_INVARIANTS

STRIPE_REMEMBERS = "24 hours"
STRIPE_ACCEPTS = "35 days"
STRIPE_AHEAD = "5 minutes"
"""Stripe's limits, as PostgreSQL's intervals. Source: its reference of meter events."""
CASE_HOURS = 24
SAMPLE = 20
"""So many violating rows of each are shown."""
INVARIANTS = (
    SUBMISSION_INVARIANTS
    + RUNNING_INVARIANTS
    + PERIOD_INVARIANTS
    + REPORT_INVARIANTS
    + QUARTER_INVARIANTS
)


def violations() -> tuple[Violation, ...]:
    """Return every invariant that does not hold now; none is the only good answer.

    All are asked of one snapshot, so they may run beside everything else. Tables are read whole:
    minutes on large ones.
    """
    found = []
    with transaction.atomic(), connection.cursor() as cursor:
        if not connection.savepoint_ids and not connection.needs_rollback:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SET LOCAL statement_timeout = 0")
        for invariant in INVARIANTS:
            cursor.execute(
                invariant.query,
                {
                    "remembers": STRIPE_REMEMBERS,
                    "accepts": STRIPE_ACCEPTS,
                    "ahead": STRIPE_AHEAD,
                    "live_mode": settings.STRIPE_LIVE_MODE,
                },
            )
            rows = cursor.fetchall()
            if rows:
                sample = tuple(text for (text,) in rows[:SAMPLE])
                found.append(Violation(invariant, len(rows), sample))
    return tuple(found)


def report(*, now: datetime) -> tuple[Violation, ...]:
    """Open a case for each invariant that does not hold, close those that do again; return them.

    A repetition brings the open cases up to date.
    """
    found = {violation.invariant.id: violation for violation in violations()}
    with steps.commit("usage.invariants.report"):
        for invariant in INVARIANTS:
            violation = found.get(invariant.id)
            if violation is None:
                cases.close_case(CaseKind.INVARIANT, invariant.id, "it holds again")
                continue
            cases.open_case(
                kind=CaseKind.INVARIANT,
                reference=invariant.id,
                reason=f"{invariant.statement} {violation.count:,} do not, such as"
                f" {violation.sample[0]}",
                deadline_at=now + timedelta(hours=CASE_HOURS),
            )
    return tuple(found.values())
