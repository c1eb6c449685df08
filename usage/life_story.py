"""The life story of one usage event: from its report to the submissions and invoices it is in.

Reading only. An event bears no mark of where it went, since that would be a row per event and
meter; it is told by the run that folded its batch, the cell it lies in, and the decisions since.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import connection

from billing import period_invoices
from billing.enums import Aggregation
from billing.models import Customer, Meter
from billing.period_invoices import BilledOn, Calendar, Period
from usage.enums import HeldReason, ReplacementKind
from usage.models import (
    EventConflict,
    HeldUsage,
    Replacement,
    Submission,
    UsageEvent,
    Void,
)
from usage.submission_records import SubmissionRecord, records
from usage.voiding import CORRECTIONS

HOUR = timedelta(hours=1)
DECISIONS_AT_MOST = 20
"""No chain of decisions about one event is nearly as long; it only bounds the loop."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a meter reads of the event, in its smallest unit, with sign -1 for a void.

    `quantity` is None for a name that a unique meter tells apart; that is in `given`.
    """

    meter: Meter
    quantity: Decimal | None
    given: str | None


@dataclass(frozen=True, slots=True)
class Chapter:
    """The event as one meter's usage: what it counted for and where that stands.

    `submissions` and `held` are in the order they were made; a later one may stand for an earlier.
    Both are empty before the flush, and when the cell came to nothing.
    """

    reading: Reading
    hour: datetime
    segment_start: datetime
    submissions: tuple[SubmissionRecord, ...]
    held: tuple[HeldUsage, ...]
    billed_on: BilledOn


@dataclass(frozen=True, slots=True)
class LifeStory:
    """Everything on file about one event.

    `event` comes with its source, batch and run. `void` is who took it back, when it was; for an
    event that is itself a void `takes_back` is what it takes back. `void_run_id` is the run that
    folded the void, None before that.
    """

    event: UsageEvent
    conflicts: tuple[EventConflict, ...]
    void: Void | None
    void_run_id: int | None
    takes_back: Void | None
    period: Period
    chapters: tuple[Chapter, ...]


def life_story(
    *, source: str, event_id: str, customers: Collection[str] | None, now: datetime
) -> LifeStory | None:
    """Return the story of the event that `source` reported as `event_id`; None if there is none.

    Where `customers` (external ids) are given, events of others count as not there. About fifteen
    queries, and two more for each decision in a row that superseded something.
    """
    event = (
        UsageEvent.objects.select_related("source", "batch__run")
        .filter(source__name=source, event_id=event_id)
        .first()
    )
    if event is None or (customers is not None and event.subject not in customers):
        return None
    customer = Customer.objects.filter(external_id=event.subject).first()
    calendar = Calendar()
    if customer is not None:
        calendar = period_invoices.calendars([customer.pk])[customer.pk]
    readings = _readings(event)
    found, held = _places(event, customer, readings, calendar)
    void = Void.objects.filter(original_event_id=event.pk).first()
    return LifeStory(
        event=event,
        conflicts=_conflicts(event, customers),
        void=void,
        void_run_id=_run_of_void(void),
        takes_back=Void.objects.filter(void_event_id=event.pk).first(),
        period=calendar.period(event.occurred_at),
        chapters=tuple(
            Chapter(
                reading=reading,
                hour=_hour(event),
                segment_start=_segment_start(event, calendar),
                submissions=tuple(
                    each for each in found if each.submission.meter_id == reading.meter.pk
                ),
                held=tuple(row for row in held if row.meter_id == reading.meter.pk),
                billed_on=calendar.billed_on(event.occurred_at, meter_id=reading.meter.pk, now=now),
            )
            for reading in readings
        ),
    )


def _conflicts(event: UsageEvent, customers: Collection[str] | None) -> tuple[EventConflict, ...]:
    return tuple(
        conflict
        for conflict in EventConflict.objects.filter(
            source_id=event.source_id, event_id=event.event_id
        ).order_by("pk")
        # It may have been reported for somebody else.
        if customers is None or conflict.payload.get("subject") in customers
    )


def _run_of_void(void: Void | None) -> int | None:
    if void is None:
        return None
    # By the key of void events, which has an index.
    return (
        UsageEvent.objects.filter(
            source__name=CORRECTIONS, event_id=f"void:{void.original_event_id}"
        )
        .values_list("batch__run_id", flat=True)
        .first()
    )


READINGS = """
SELECT meter.id, event.data ->> version.value_property,
       CASE WHEN meter.aggregation = 'unique' THEN NULL ELSE
           CASE WHEN event.voids IS NULL THEN 1 ELSE -1 END
           * CASE WHEN meter.aggregation = 'count' THEN 1
             ELSE coalesce((event.data ->> version.value_property)::numeric, 0)
                  * ('1e' || meter.scale)::numeric END
       END::numeric(40, 0)
FROM usage_usageevent event
JOIN usage_ingestbatch batch ON batch.id = event.batch_id
LEFT JOIN usage_flushrun run ON run.id = batch.run_id
JOIN billing_meterversion version
  ON version.event_type = event.type AND event.occurred_at >= version.effective_from
 AND (version.effective_until IS NULL OR event.occurred_at < version.effective_until)
 AND (run.id IS NULL OR version.id = ANY(run.meter_versions))
JOIN billing_meter meter ON meter.id = version.meter_id
WHERE event.source_id = %(source)s AND event.event_id = %(event)s
ORDER BY meter.slug
"""
"""As its run read it, or before that as today's definitions do. Within the database, because a
number of `data` must not go through a float."""


def _readings(event: UsageEvent) -> list[Reading]:
    with connection.cursor() as cursor:
        cursor.execute(READINGS, {"source": event.source_id, "event": event.event_id})
        rows = cursor.fetchall()
    meters = Meter.objects.in_bulk([meter_id for meter_id, _, _ in rows])
    return [Reading(meters[meter_id], quantity, given) for meter_id, given, quantity in rows]


def _places(
    event: UsageEvent, customer: Customer | None, readings: Sequence[Reading], calendar: Calendar
) -> tuple[list[SubmissionRecord], list[HeldUsage]]:
    """Return the submissions and held rows that hold the event, or stand for one that did."""
    run = event.batch.run
    if run is None:
        return [], []
    running = {r.meter.pk for r in readings if Aggregation(r.meter.aggregation).is_running}
    added = {reading.meter.pk for reading in readings} - running
    made = (
        Submission.objects.filter(customer=customer, replaces=None).select_related("standing")
        if customer is not None
        else Submission.objects.none()
    )
    submissions = _holding(
        event, made.filter(run=run, meter__in=added, window_start=_hour(event)).order_by("pk")
    )
    held_rows = HeldUsage.objects.filter(run=run, subject=event.subject, replaces=None)
    held = _holding(
        event, held_rows.filter(meter__in=added, window_start=_hour(event)).order_by("pk")
    )
    submissions, held = _nearest(event, submissions, held, calendar)
    for meter_id in sorted(running):
        submissions += _told_by(event, customer, meter_id, calendar)
        held += [
            row
            for row in held_rows.filter(meter=meter_id).order_by("pk")
            # Of a subject that is no customer it is held by hour, since no period is known.
            if (
                row.window_start == _hour(event)
                if row.reason == HeldReason.UNKNOWN_CUSTOMER
                else calendar.period(row.segment_start) == calendar.period(event.occurred_at)
            )
        ]
    further, further_held = _followed(event, submissions)
    ids = [each.pk for each in [*submissions, *further]]
    rows = HeldUsage.objects.filter(pk__in=[row.pk for row in [*held, *further_held]])
    return (
        records(Submission.objects.filter(pk__in=ids)),
        list(rows.select_related("meter").order_by("pk")),
    )


def _holding(event: UsageEvent, rows: Iterable) -> list:  # type: ignore[type-arg]  # of two tables
    return [row for row in rows if row.segment_start <= event.occurred_at]


def _nearest(
    event: UsageEvent,
    submissions: Iterable[Submission],
    held: Iterable[HeldUsage],
    calendar: Calendar,
) -> tuple[list[Submission], list[HeldUsage]]:
    """Return those in whose segment the event lay when they were written.

    What one fold wrote bears one instant; of its cells that begin no later than the event, the
    last one holds it. A cell that came to nothing was not written, so the one before it may turn
    up, and is told by its end.
    """
    starts: defaultdict[tuple[int, datetime], list[datetime]] = defaultdict(list)
    for each in submissions:
        starts[each.meter_id, each.created_at].append(each.segment_start)
    for row in held:
        starts[row.meter_id, row.held_at].append(row.segment_start)
    second = event.occurred_at.replace(microsecond=0)
    return (
        [
            each
            for each in submissions
            if each.segment_start == max(starts[each.meter_id, each.created_at])
            and each.timestamp >= second
        ],
        [
            row
            for row in held
            if row.segment_start == max(starts[row.meter_id, row.held_at])
            and not any(
                row.segment_start < boundary.at <= event.occurred_at
                and boundary.created_at <= row.held_at
                for boundary in calendar.boundaries
            )
        ],
    )


def _told_by(
    event: UsageEvent, customer: Customer | None, meter_id: int, calendar: Calendar
) -> list[Submission]:
    """Return the first submission since the event's run that told the period's running value."""
    if customer is None:
        return []
    period = calendar.period(event.occurred_at)
    rows = Submission.objects.filter(
        customer=customer, meter=meter_id, run_id__gte=event.batch.run_id
    )
    if period.start is not None:
        rows = rows.filter(timestamp__gte=period.start)
    if period.end is not None:
        rows = rows.filter(timestamp__lt=period.end)
    return list(rows.select_related("standing").order_by("pk")[:1])


def _followed(
    event: UsageEvent, submissions: Sequence[Submission]
) -> tuple[list[Submission], list[HeldUsage]]:
    """Return what stands for superseded ones of `submissions`, decision after decision."""
    further: list[Submission] = []
    held: list[HeldUsage] = []
    members = list(submissions)
    for _ in range(DECISIONS_AT_MOST):
        superseded: defaultdict[int, list[Submission]] = defaultdict(list)
        for member in members:
            if member.standing.replaced_by_id is not None:
                superseded[member.standing.replaced_by_id].append(member)
        if not superseded:
            break
        by_decision: defaultdict[int | None, list[Submission | HeldUsage]] = defaultdict(list)
        decisions = Replacement.objects.in_bulk(superseded)
        stand_ins = Submission.objects.filter(replaces__in=superseded).select_related("standing")
        kept = HeldUsage.objects.filter(replaces__in=superseded)
        known = {each.pk for each in further}
        members = []
        made: list[Submission | HeldUsage] = [*stand_ins.order_by("pk")]
        for row in [*made, *kept.order_by("pk")]:
            by_decision[row.replaces_id].append(row)
        for decision_id, decision in decisions.items():
            for row in _of_event(
                event, by_decision[decision_id], decision, superseded[decision_id]
            ):
                if isinstance(row, HeldUsage):
                    held.append(row)
                elif row.pk not in known:
                    members.append(row)
        further += members
    return further, held


def _of_event(
    event: UsageEvent,
    rows: Sequence[Submission | HeldUsage],
    decision: Replacement,
    superseded: Sequence[Submission],
) -> list[Submission | HeldUsage]:
    """Return, of what stands in after a decision, what stands for the event."""
    if decision.kind == ReplacementKind.RUNNING:
        return list(rows)
    if decision.kind == ReplacementKind.REFOLD:
        # Cut in two: of the pieces that begin no later than the event, the last one holds it.
        start = max(
            (row.segment_start for row in rows if row.segment_start <= event.occurred_at),
            default=None,
        )
        return [row for row in rows if row.segment_start == start]
    segments = {each.segment_start for each in superseded}
    runs = {each.run_id for each in superseded}
    return [
        row
        for row in rows
        if row.segment_start in segments
        # Late usage stays with the runs that had folded it; a doubt is one for its whole hour.
        and (decision.kind != ReplacementKind.LATE or row.run_id in runs)
    ]


def _hour(event: UsageEvent) -> datetime:
    return event.occurred_at.replace(minute=0, second=0, microsecond=0)


def _segment_start(event: UsageEvent, calendar: Calendar) -> datetime:
    start = calendar.period(event.occurred_at).start
    hour = _hour(event)
    return hour if start is None else max(hour, start)
