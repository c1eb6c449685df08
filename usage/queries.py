"""What others ask of usage's tables: the books, in which every recorded unit stands somewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from django.db import connection, transaction

from billing.models import Meter
from usage.lifecycle import State


@dataclass(frozen=True, slots=True)
class MeterBooks:
    """One meter's books, exact, in its smallest unit (10^-`scale` of `unit`).

    `recorded` is summed from the events themselves, void ones with sign -1, everything else from
    where they went. `voided` is what the void ones took back, a positive figure within `recorded`.
    What was superseded is counted again where it went: with what stands in for it, or as
    `credited`.
    """

    meter_id: int
    meter: str
    unit: str
    scale: int
    event_count: int = 0
    recorded: Decimal = Decimal(0)
    voided: Decimal = Decimal(0)
    unflushed: Decimal = Decimal(0)
    held: Decimal = Decimal(0)
    credited: Decimal = Decimal(0)
    """What Stripe's totals were seen to hold of superseded submissions."""
    states: Mapping[State, Decimal] = field(
        default_factory=lambda: MappingProxyType(dict.fromkeys(State, Decimal(0)))
    )

    @property
    def accounted(self) -> Decimal:
        """What stands in some place: unflushed, held, credited, or in a state that counts."""
        standing = sum(
            (value for state, value in self.states.items() if state != State.SUPERSEDED),
            Decimal(0),
        )
        return self.unflushed + self.held + self.credited + standing

    @property
    def is_conserved(self) -> bool:
        """Whether every recorded unit is accounted for, and no other."""
        return self.recorded == self.accounted

    @property
    def unit_label(self) -> str:
        """The smallest unit in words."""
        return self.unit if self.scale == 0 else f"{Decimal(1).scaleb(-self.scale)} {self.unit}"


@dataclass(frozen=True, slots=True)
class Books:
    """All meters' books at one moment, by slug, and the number of events stored."""

    meters: tuple[MeterBooks, ...]
    event_count: int

    @property
    def is_conserved(self) -> bool:
        """Whether the equation holds for every meter."""
        return all(meter.is_conserved for meter in self.meters)


_BOOKS = """
WITH recorded AS (
    -- A flushed event is read as its run read it, so that a later definition changes no history;
    -- an unflushed one by whatever is defined today.
    SELECT version.meter_id,
           CASE WHEN batch.run_id IS NULL THEN 'unflushed' ELSE 'flushed' END AS place,
           count(*) AS events,
           trim_scale(sum(CASE WHEN event.voids IS NULL THEN units.reported
                          ELSE -units.reported END)) AS quantity,
           trim_scale(coalesce(sum(units.reported) FILTER (WHERE event.voids IS NOT NULL), 0))
               AS voided
    FROM usage_usageevent event
    JOIN usage_ingestbatch batch ON batch.id = event.batch_id
    LEFT JOIN usage_flushrun run ON run.id = batch.run_id
    JOIN billing_meterversion version
      ON version.event_type = event.type
     AND version.effective_from <= event.occurred_at
     AND (version.effective_until IS NULL OR event.occurred_at < version.effective_until)
     AND (run.id IS NULL OR version.id = ANY(run.meter_versions))
    -- Running values are no sums: the equation says nothing of them.
    JOIN billing_meter meter
      ON meter.id = version.meter_id AND meter.aggregation IN ('sum', 'count')
    CROSS JOIN LATERAL (
        SELECT CASE WHEN meter.aggregation = 'count' THEN 1
               ELSE coalesce((event.data ->> version.value_property)::numeric, 0)
                    * ('1e' || meter.scale)::numeric END AS reported
    ) AS units
    WHERE %(customer)s::text IS NULL OR event.subject = %(customer)s
    GROUP BY 1, 2
), submitted AS (
    SELECT submission.meter_id, standing.state AS place, 0 AS events,
           sum(submission.value) AS quantity, 0 AS voided
    FROM usage_submission submission
    JOIN usage_submissionstate standing ON standing.submission_id = submission.id
    JOIN billing_customer customer ON customer.id = submission.customer_id
    JOIN billing_meter meter
      ON meter.id = submission.meter_id AND meter.aggregation IN ('sum', 'count')
    WHERE %(customer)s::text IS NULL OR customer.external_id = %(customer)s
    GROUP BY 1, 2
), held AS (
    SELECT held.meter_id, sum(held.quantity) AS quantity
    FROM usage_heldusage held
    JOIN billing_meter meter
      ON meter.id = held.meter_id AND meter.aggregation IN ('sum', 'count')
    WHERE held.released_at IS NULL AND (%(customer)s::text IS NULL OR held.subject = %(customer)s)
    GROUP BY 1
), credited AS (
    SELECT replacement.meter_id, sum(replacement.credit) AS quantity
    FROM usage_replacement replacement
    JOIN billing_customer customer ON customer.id = replacement.customer_id
    JOIN billing_meter meter
      ON meter.id = replacement.meter_id AND meter.aggregation IN ('sum', 'count')
    WHERE %(customer)s::text IS NULL OR customer.external_id = %(customer)s
    GROUP BY 1
)
SELECT meter_id, true, place, events, quantity, voided FROM recorded
UNION ALL
SELECT meter_id, false, place, events, quantity, voided FROM submitted
UNION ALL
SELECT meter_id, false, 'held', 0, quantity, 0 FROM held
UNION ALL
SELECT meter_id, false, 'credited', 0, quantity, 0 FROM credited
UNION ALL
SELECT NULL, true, 'stored', count(*), 0, 0 FROM usage_usageevent event
WHERE %(customer)s::text IS NULL OR event.subject = %(customer)s
UNION ALL
SELECT id, false, 'meter', 0, 0, 0 FROM billing_meter WHERE aggregation IN ('sum', 'count')
"""
"""One statement, hence one snapshot, in whatever transaction it runs."""


def books(*, customer: str | None = None, seconds: int = 0) -> Books:
    """Return every meter's books as they stood at one moment, also while usage flows.

    `customer` (an external id, known to us or not) narrows them to one customer's usage. The whole
    event table is read, so this is for people and checks, never for the money path. It may take
    `seconds`, or with 0 as long as it needs: minutes on a large table are fine for whoever waits.

    Raises:
        OperationalError: it took longer.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{seconds}s"])
        cursor.execute(_BOOKS, {"customer": customer})
        rows: list[tuple[int | None, bool, str, int, Decimal, Decimal]] = cursor.fetchall()
    event_count = next(events for meter_id, _, _, events, _, _ in rows if meter_id is None)
    places: dict[int, dict[str, Any]] = {}
    for meter_id, is_event, place, events, quantity, voided in rows:
        if meter_id is None:
            continue
        meter = places.setdefault(
            meter_id,
            {
                "event_count": 0,
                "recorded": Decimal(0),
                "voided": Decimal(0),
                "states": dict.fromkeys(State, Decimal(0)),
            },
        )
        if is_event:
            meter["event_count"] += events
            meter["recorded"] += quantity
            meter["voided"] += voided
            if place != "flushed":
                meter[place] = quantity
        elif place in {"held", "credited"}:
            meter[place] = quantity
        elif place != "meter":
            meter["states"][State(place)] = quantity
    return Books(
        meters=tuple(
            MeterBooks(
                meter_id=meter.pk,
                meter=meter.slug,
                unit=meter.unit,
                scale=meter.scale,
                **places[meter.pk],
            )
            for meter in Meter.objects.filter(pk__in=places).order_by("slug")
        ),
        event_count=event_count,
    )
