"""Discrepancies: one open row and one open case per cell that differs, closed when it is equal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from billing import steps
from billing.cases import close_case, open_case
from billing.enums import CaseKind
from reconciliation.comparison import Compared, Verdict
from reconciliation.models import Discrepancy
from reconciliation.sources import Pair
from usage.cells import cell_name

CASE_DAYS = 3
"""Within Stripe's longest delay of a draft's finalization, so that it can still be mended."""


def record(*, run_id: int, pair: Pair, compared: Sequence[Compared], now: datetime) -> None:
    """Bring the pair's discrepancies up to date with what a run found in its hours.

    A differing cell gets an open row with both figures and a case, or has them renewed; an open
    row whose cell is equal, or empty in both books, is resolved. A waiting cell's row stays as it
    is. A repetition changes nothing, and of two runs at once either one's figures stay.
    """
    with steps.commit("reconciliation.discrepancies.record"):
        for cell in compared:
            if cell.verdict == Verdict.DISCREPANCY:
                _open(run_id, pair, cell, now)
        undecided = {cell.window_start for cell in compared if cell.verdict != Verdict.EQUAL}
        still_open = Discrepancy.objects.filter(
            customer_id=pair.customer_id, meter_id=pair.meter_id, resolved_at__isnull=True
        ).order_by("pk")
        for discrepancy in still_open:
            hour = discrepancy.window_start
            was_read = any(start <= hour < end for start, end in pair.spans)
            if was_read and hour not in undecided:
                _resolve(discrepancy, run_id, pair, now)


def _open(run_id: int, pair: Pair, cell: Compared, now: datetime) -> None:
    figures = {
        "run_id": run_id,
        "ours": cell.ours,
        "stripe": cell.stripe,
        "reason": cell.reason.value,
    }
    Discrepancy.objects.update_or_create(
        customer_id=pair.customer_id,
        meter_id=pair.meter_id,
        window_start=cell.window_start,
        resolved_at=None,
        defaults=figures,
        create_defaults=figures | {"found_at": now},
    )
    open_case(
        kind=CaseKind.DISCREPANCY,
        reference=_reference(pair, cell.window_start),
        reason=(
            f"{cell.reason.label}: Stripe {number(cell.stripe)}, ours {number(cell.ours)},"
            f" difference {number(cell.difference, signed=True)}"
        ),
        quantity=round(cell.difference),
        deadline_at=now + timedelta(days=CASE_DAYS),
    )


def _resolve(discrepancy: Discrepancy, run_id: int, pair: Pair, now: datetime) -> None:
    resolved = Discrepancy.objects.filter(pk=discrepancy.pk, resolved_at__isnull=True).update(
        resolved_at=now, run_id=run_id
    )
    if resolved:
        close_case(
            CaseKind.DISCREPANCY,
            _reference(pair, discrepancy.window_start),
            f"Reconciliation {run_id} found both books equal.",
        )


def _reference(pair: Pair, hour: datetime) -> str:
    return cell_name(
        customer_id=pair.customer_id, customer=pair.customer, meter=pair.meter, hour=hour
    )


def number(value: Decimal, *, signed: bool = False) -> str:
    """Return a figure of either book with its thousands apart and no idle zeros."""
    exact = value.normalize() if value % 1 else value.to_integral_value()
    return f"{exact:+,f}" if signed else f"{exact:,f}"
