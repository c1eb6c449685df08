"""The judge of a run: the callers' ledger against what the tables hold, and what it was counted as."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import connection
from django.utils import timezone

from tests.chaos.ledger import Event, Ledger
from usage.flush import flush_waiting
from usage.invariants import violations

METERS = {"input_tokens": "input_tokens", "output_tokens": "output_tokens", "llm_calls": ""}
"""Each meter's slug and the property it adds up; none where it counts."""
SHOWN = 5
FLUSH_SECONDS = 300

Quantities = Mapping[tuple[str, str], Decimal]
"""By customer and meter."""


@dataclass(frozen=True)
class Stored:
    """A row of the event table."""

    event_id: str
    type: str
    subject: str
    occurred_at: datetime
    received_at: datetime
    data: Any


@dataclass(frozen=True)
class Verdict:
    """What was found wrong, a sentence each, and the figures of the run."""

    findings: list[str]
    stored: int
    acknowledged: int
    lost: int
    double: int
    unacknowledged: int
    units: Decimal


def audit(ledger: Ledger) -> Verdict:
    """Flush all that is stored, and compare both it and what it was counted as with the ledger."""
    rows = _rows()
    for _ in flush_waiting(clock=timezone.now, seconds=FLUSH_SECONDS):
        pass
    counted = _counted()
    findings = [
        *ledger.surprises,
        *compare_stored(ledger, rows),
        *compare_counted(expected_quantities(ledger, rows), counted),
        *(f"{v.invariant.id}: {v.invariant.statement}: {v.count} do not" for v in violations()),
    ]
    ids = Counter(row.event_id for row in rows)
    return Verdict(
        findings=findings,
        stored=len(ids),
        acknowledged=len(ledger.acknowledged),
        lost=len(ledger.acknowledged - ids.keys()),
        double=sum(count - 1 for count in ids.values()),
        unacknowledged=len(ids.keys() - ledger.acknowledged),
        units=sum(counted.values(), Decimal(0)),
    )


def compare_stored(ledger: Ledger, rows: Iterable[Stored]) -> list[str]:
    """Return what is lost, double, altered, refused and yet stored, or stored and never sent."""
    rows = list(rows)
    ids = Counter(row.event_id for row in rows)
    good = {event_id for event_id, event in ledger.events.items() if event.is_good}
    return [
        *_named("acknowledged and not stored", ledger.acknowledged - ids.keys()),
        *_named("stored twice", {event_id for event_id, count in ids.items() if count > 1}),
        *_named("stored and never sent whole", ids.keys() - ledger.whole),
        *_named("refused and stored", (ids.keys() & ledger.events.keys()) - good),
        *_named(
            "not stored as sent",
            {
                row.event_id
                for row in rows
                if row.event_id in good and not _is_same(row, ledger.events[row.event_id])
            },
        ),
    ]


def compare_counted(expected: Quantities, counted: Quantities) -> list[str]:
    """Return each customer and meter whose submissions and held usage differ from the events'."""
    return [
        f"counted {counted.get(pair, Decimal(0)):f} {pair[1]} of {pair[0]},"
        f" where the events come to {expected.get(pair, Decimal(0)):f}"
        for pair in sorted(expected.keys() | counted.keys())
        if counted.get(pair, Decimal(0)) != expected.get(pair, Decimal(0))
    ]


def expected_quantities(ledger: Ledger, rows: Iterable[Stored]) -> Quantities:
    """Add up what was sent under the ids that are stored, each once."""
    totals: Counter[tuple[str, str]] = Counter()
    for event_id in {row.event_id for row in rows}:
        event = ledger.events.get(event_id)
        if event is None:
            continue
        for slug, value_property in METERS.items():
            value = event.data.get(value_property, 0) if value_property else 1
            totals[event.subject, slug] += value
    return {pair: Decimal(total) for pair, total in totals.items() if total}


def _is_same(row: Stored, event: Event) -> bool:
    at = datetime.fromisoformat(event.time) if event.time else row.received_at
    return (row.type, row.subject, row.occurred_at, row.data) == (
        event.type,
        event.subject,
        at,
        event.data,
    )


def _named(what: str, ids: Iterable[str]) -> list[str]:
    found = sorted(ids)
    if not found:
        return []
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return [f"{what}: {', '.join(found[:SHOWN])}{more}"]


def _rows() -> list[Stored]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT event_id, type, subject, occurred_at, received_at, data::text"
            " FROM usage_usageevent WHERE voids IS NULL"
        )
        return [Stored(*others, json.loads(data)) for *others, data in cursor.fetchall()]


def _counted() -> Quantities:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT customer, meter.slug, sum(quantity) FROM ("
            "  SELECT customer.external_id AS customer, meter_id, value AS quantity"
            "  FROM usage_submission JOIN billing_customer AS customer"
            "    ON customer.id = usage_submission.customer_id"
            "  UNION ALL"
            "  SELECT subject, meter_id, quantity FROM usage_heldusage WHERE released_at IS NULL"
            ") AS counted JOIN billing_meter AS meter ON meter.id = meter_id"
            " GROUP BY customer, meter.slug"
        )
        rows = cursor.fetchall()
    return {(customer, slug): Decimal(total) for customer, slug, total in rows if total}
