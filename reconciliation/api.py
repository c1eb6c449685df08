"""GET /api/v1/reconciliation-runs and /discrepancies: whether Stripe's books equal ours."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Query, Router, Schema
from pydantic import Field

from billing.api import caller_of
from billing.problems import problem
from reconciliation.comparison import Reason
from reconciliation.models import Discrepancy, ReconciliationRun
from usage.api.cursors import PER_PAGE, CursorText, Limit, page
from usage.api.records import exact, unit_of
from usage.api.submissions import Text, allowed_customers, find_meter

router = Router(tags=["reconciliation"])


class RunOut(Schema):
    id: int
    window_start: datetime = Field(description="Included.")
    window_end: datetime = Field(description="Not included.")
    with_unsettled: bool
    only_doubtful: bool
    every_pair: bool
    started_at: datetime
    finished_at: datetime | None = Field(description="Null while it goes on, or was interrupted.")
    pair_count: int
    cell_count: int
    equal_count: int
    waiting_count: int
    discrepancy_count: int
    settled_count: int
    call_count: int
    error_count: int
    meaning: str


class RunsOut(Schema):
    data: list[RunOut]
    next_cursor: str | None = Field(description="For `cursor`; null on the last page.")


class DiscrepancyOut(Schema):
    customer: str
    meter: str
    unit: str
    hour: datetime = Field(description="Start of the UTC hour, included.")
    ours: str
    stripe: str
    difference: str = Field(description="How much more Stripe has; negative when it has less.")
    reason: str
    meaning: str
    run: int = Field(description="The run that saw it last.")
    found_at: datetime
    resolved_at: datetime | None = Field(description="Null while it stands.")


class DiscrepanciesOut(Schema):
    data: list[DiscrepancyOut]
    next_cursor: str | None = Field(description="For `cursor`; null on the last page.")


class Filters(Schema):
    customer: Annotated[Text | None, Field(description="External id.")] = None
    meter: Annotated[Text | None, Field(description="A meter's slug.")] = None
    resolved: Annotated[
        bool | None, Field(description="`false`: those that stand; `true`: the others; else both.")
    ] = None


@router.get("/reconciliation-runs", response=RunsOut, summary="List reconciliation runs")
def list_runs(request: HttpRequest, limit: Limit = PER_PAGE, cursor: CursorText = "") -> Any:
    """List comparisons of our books with Stripe's, newest first."""
    if caller_of(request).limits.customers is not None:
        return problem(
            403, "Not allowed", "This API key is for some customers, and runs are about all."
        )
    found = page(ReconciliationRun.objects.all(), of="runs", cursor=cursor, limit=limit)
    return {
        "data": [_run(run) for run in found.rows],
        "next_cursor": found.next_cursor or None,
    }


@router.get("/discrepancies", response=DiscrepanciesOut, summary="List discrepancies")
def list_discrepancies(
    request: HttpRequest,
    filters: Query[Filters],
    limit: Limit = PER_PAGE,
    cursor: CursorText = "",
) -> Any:
    """List hours in which Stripe's total is, or was, not ours, newest first."""
    rows = Discrepancy.objects.select_related("customer", "meter")
    customers = allowed_customers(request, filters.customer)
    if customers is not None:
        rows = rows.filter(customer__external_id__in=list(customers))
    wanted = find_meter(filters.meter)
    if wanted is not None:
        rows = rows.filter(meter=wanted)
    if filters.resolved is not None:
        rows = rows.filter(resolved_at__isnull=not filters.resolved)
    found = page(rows, of="discrepancies", cursor=cursor, limit=limit)
    return {
        "data": [_discrepancy(row) for row in found.rows],
        "next_cursor": found.next_cursor or None,
    }


def _run(run: ReconciliationRun) -> dict[str, Any]:
    told = {name: getattr(run, name) for name in RunOut.model_fields if name != "meaning"}
    compared = f"{run.cell_count:,} cells compared: {run.equal_count:,} equal"
    if run.finished_at is None:
        meaning = f"Under way, or interrupted. So far {compared}."
    elif run.discrepancy_count or run.error_count:
        meaning = (
            f"{compared}, {run.discrepancy_count:,} different;"
            f" {run.error_count:,} customers and meters could not be compared."
        )
    else:
        meaning = f"{compared}, none different, {run.waiting_count:,} not due yet."
    return told | {"meaning": meaning}


def _discrepancy(row: Discrepancy) -> dict[str, Any]:
    stands = "Stripe's total of the hour is not ours"
    return {
        "customer": row.customer.external_id,
        "meter": row.meter.slug,
        "unit": unit_of(row.meter),
        "hour": row.window_start,
        "ours": exact(row.ours),
        "stripe": exact(row.stripe),
        "difference": exact(row.difference),
        "reason": row.reason,
        "meaning": f"{stands}: {Reason(row.reason).label}."
        if row.resolved_at is None
        else "A later run found both totals equal.",
        "run": row.run_id,
        "found_at": row.found_at,
        "resolved_at": row.resolved_at,
    }
