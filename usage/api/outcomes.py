"""What a caller that asks for it is told of each of its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from billing.queries import unknown_customers
from usage.reports import CONFLICT, Outcome, Refusal, ReportedEvent, Stored


def told(
    reports: Sequence[ReportedEvent | Refusal], outcomes: Sequence[Outcome]
) -> list[dict[str, Any]]:
    """Return what became of each event, by index.

    `held` is stored like `accepted`; it is billed once its customer exists.
    """
    unknown = unknown_customers(
        {report.subject for report in reports if isinstance(report, ReportedEvent)}
    )
    return [
        {"index": index, **_told(report, outcome, unknown)}
        for index, (report, outcome) in enumerate(zip(reports, outcomes, strict=True))
    ]


def _told(
    report: ReportedEvent | Refusal, outcome: Outcome, unknown: frozenset[str]
) -> dict[str, Any]:
    if isinstance(outcome, Refusal):
        kind = "conflict" if outcome == CONFLICT else "refused"
        return {"outcome": kind, "field": outcome.field, "reason": outcome.reason}
    is_held = isinstance(report, ReportedEvent) and report.subject in unknown
    return {"outcome": "held" if is_held and outcome == Stored.ACCEPTED else outcome}
