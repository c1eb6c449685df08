"""Backfilling: late usage is brought in by a person, who first sees what would become of it.

A dry run does everything and takes it back: the events are stored and folded as a flush would fold
them, and then the transaction is rolled back. So the two cannot disagree by having been written
twice. What becomes of stored usage is `flush`'s, `delivery`'s and `lateness`' as ever.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from django.db import connection, transaction

from billing import period_invoices, periods, steps
from billing.models import Meter, MeterVersion
from billing.period_invoices import BilledOn, Calendar, Period
from usage import running
from usage.enums import HeldReason
from usage.folding import FoldedCell, fold, share_boundaries
from usage.ingestion import accept
from usage.models import Backfill
from usage.reports import CONFLICT, NOT_FOR_CUSTOMER, Outcome, Refusal, ReportedEvent, Stored
from usage.storing import array_literal

EVENTS_PER_BATCH = 1_000
"""As many as a caller's largest request, so that a flush can bound its runs."""
EVENTS_AT_MOST = 20_000
"""They take some seconds, and no statement may take more than 15."""
EMPTY = Calendar()


class Fate(StrEnum):
    """What becomes of a part of late usage."""

    BILLED = "billed"
    WAITS_FOR_STRIPE = "waits_for_stripe"
    WAITS_FOR_METER = "waits_for_meter"
    HELD_LATE = "held_late"
    HELD_UNKNOWN_CUSTOMER = "held_unknown_customer"
    HELD_CUSTOMER_NOT_AT_STRIPE = "held_customer_not_at_stripe"
    HELD_METER_NOT_AT_STRIPE = "held_meter_not_at_stripe"

    @property
    def sentence(self) -> str:
        """What it means, for people."""
        return SENTENCES[self]


SENTENCES = {
    Fate.BILLED: "Billed in its period: the next flush folds it, and it is sent to Stripe.",
    Fate.WAITS_FOR_STRIPE: "Waits: its period is over, so Stripe is asked first whether the invoice"
    " is still a draft. If it is, it is sent; if it is final, it is held for a person.",
    Fate.WAITS_FOR_METER: "Waits: nothing is sent to the meter as long as it is blocked.",
    Fate.HELD_LATE: "Held: the invoice of its period is final, so a person decides about it.",
    Fate.HELD_UNKNOWN_CUSTOMER: "Held: no customer has this external id. It is sent once one has.",
    Fate.HELD_CUSTOMER_NOT_AT_STRIPE: "Held: the customer has no Stripe id yet. It is sent once it"
    " has one.",
    Fate.HELD_METER_NOT_AT_STRIPE: "Held: the meter has no Stripe id yet. It is sent once it has"
    " one.",
}
HELD_FATES = {
    HeldReason.UNKNOWN_CUSTOMER: Fate.HELD_UNKNOWN_CUSTOMER,
    HeldReason.CUSTOMER_NOT_AT_STRIPE: Fate.HELD_CUSTOMER_NOT_AT_STRIPE,
    HeldReason.METER_NOT_AT_STRIPE: Fate.HELD_METER_NOT_AT_STRIPE,
    HeldReason.LATE: Fate.HELD_LATE,
}


class Unexplained(Exception):
    """A backfill needs an author and a reason."""

    def __init__(self) -> None:
        super().__init__("Say who brings the usage in, and why.")


class TooMany(Exception):
    """More events than one transaction should hold."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"{count:,} events are too many for one backfill, which takes"
            f" {EVENTS_AT_MOST:,}: bring them in by parts. Nothing was stored."
        )


@dataclass(frozen=True, slots=True)
class Hour:
    """The part of a UTC hour between two boundaries: `start` included; units as in its `Part`."""

    start: datetime
    segment_start: datetime
    units: Decimal | None
    event_count: int


@dataclass(frozen=True, slots=True)
class Part:
    """What a backfill adds for one customer, meter and billing period, and what becomes of it.

    `units` are whole numbers of the meter's smallest unit; None for a running value, to which
    events are not added but compared.
    """

    subject: str
    meter: Meter
    period: Period
    fate: Fate
    billed_on: BilledOn
    units: Decimal | None
    event_count: int
    hours: tuple[Hour, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a backfill did, or with `dry_run` would do; `outcomes` are in the order of its events.

    `backfill` is its record; None for a dry run, and when nothing was new.
    """

    dry_run: bool
    outcomes: tuple[Outcome, ...]
    parts: tuple[Part, ...]
    backfill: Backfill | None = None

    @property
    def accepted_count(self) -> int:
        """Events that are new."""
        return self.outcomes.count(Stored.ACCEPTED)

    @property
    def duplicate_count(self) -> int:
        """Events that were stored before."""
        return self.outcomes.count(Stored.DUPLICATE)

    @property
    def conflict_count(self) -> int:
        """Events whose id was stored before with another payload."""
        return self.outcomes.count(CONFLICT)

    @property
    def refused_count(self) -> int:
        """Events refused for another reason than a conflict."""
        refusals = sum(isinstance(outcome, Refusal) for outcome in self.outcomes)
        return refusals - self.conflict_count

    @property
    def sentence(self) -> str:
        """What it comes to, for people."""
        verb = "would be stored" if self.dry_run else "stored"
        told = f"{self.accepted_count:,} event{'s' * (self.accepted_count != 1)} {verb}"
        for count, what in (
            (self.duplicate_count, "stored before"),
            (self.conflict_count, "in conflict with what is stored under their id"),
            (self.refused_count, "refused"),
        ):
            told += f", {count:,} {what}" if count else ""
        return f"{told}. {'Nothing was stored: this is a dry run.' if self.dry_run else ''}".strip()


def backfill(  # noqa: PLR0913 - who, why, what, when and how
    *,
    source_id: int,
    reports: Sequence[ReportedEvent | Refusal],
    author: str,
    reason: str,
    now: datetime,
    dry_run: bool,
    customers: Collection[str] | None = None,
) -> Report:
    """Store late events and tell what becomes of each part; with `dry_run` tell and store nothing.

    Each event is judged as `ingestion.accept` judges it, and of `customers`, where given, the
    subject must be one. What is refused leaves no trace, its neighbours are stored, and all of it
    is one transaction. A repetition finds duplicates, adds nothing and leaves no second record.
    What becomes of a part is told by what is known at `now`.

    Raises:
        Unexplained: author or reason is blank.
        TooMany: there are more than `EVENTS_AT_MOST`.
    """
    if not author.strip() or not reason.strip():
        raise Unexplained
    if len(reports) > EVENTS_AT_MOST:
        raise TooMany(len(reports))
    judged = [_of_customers(report, customers) for report in reports]
    with steps.commit("usage.backfilling.store"):
        share_boundaries()
        outcomes: list[Outcome] = []
        for start in range(0, len(judged), EVENTS_PER_BATCH):
            chunk = judged[start : start + EVENTS_PER_BATCH]
            outcomes += accept(source_id=source_id, reports=chunk, now=now)
        batches = _batches(source_id, judged, outcomes)
        report = Report(dry_run, tuple(outcomes), _parts(batches, now=now))
        if dry_run:
            transaction.set_rollback(True)
        elif batches:
            record = Backfill.objects.create(
                source_id=source_id,
                author=author.strip(),
                reason=reason.strip(),
                created_at=now,
                batches=batches,
                event_count=report.accepted_count,
                duplicate_count=report.duplicate_count,
                conflict_count=report.conflict_count,
                refused_count=report.refused_count,
            )
            report = replace(report, backfill=record)
    return report


def _of_customers(
    report: ReportedEvent | Refusal, customers: Collection[str] | None
) -> ReportedEvent | Refusal:
    if customers is None or isinstance(report, Refusal) or report.subject in customers:
        return report
    return NOT_FOR_CUSTOMER


def _batches(
    source_id: int, reports: Sequence[ReportedEvent | Refusal], outcomes: Sequence[Outcome]
) -> list[int]:
    """Return the ids of the batches that new events were stored in."""
    new = [
        report.event_id
        for report, outcome in zip(reports, outcomes, strict=True)
        if outcome == Stored.ACCEPTED and isinstance(report, ReportedEvent)
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT batch_id FROM usage_usageevent"
            " WHERE source_id = %s AND event_id = ANY(%s::text[]) ORDER BY 1",
            [source_id, array_literal(new)],
        )
        return [batch_id for (batch_id,) in cursor.fetchall()]


def _parts(batches: Sequence[int], *, now: datetime) -> tuple[Part, ...]:
    """Return what a flush of the batches would make of them, by customer, meter and period."""
    if not batches:
        return ()
    versions = sorted(MeterVersion.objects.values_list("pk", flat=True))
    cells = fold(batch_ids=batches, versions=versions, now=now)
    groups = running.groups(batch_ids=batches, versions=versions)
    meters = Meter.objects.in_bulk()
    calendars = period_invoices.calendars(
        {cell.customer_id for cell in cells if cell.customer_id is not None}
        | {group.customer_id for group in groups if group.customer_id is not None}
    )
    return tuple(
        sorted(
            [
                *_added(cells, meters=meters, calendars=calendars, now=now),
                *_compared(groups, meters=meters, calendars=calendars, now=now),
            ],
            key=lambda part: (part.subject, part.meter.slug, part.hours[0].segment_start),
        )
    )


def _added(
    cells: Iterable[FoldedCell],
    *,
    meters: Mapping[int, Meter],
    calendars: Mapping[int, Calendar],
    now: datetime,
) -> list[Part]:
    """Return the parts of meters whose units add up."""
    grouped: defaultdict[tuple[str, int, Period, Fate], list[FoldedCell]] = defaultdict(list)
    for cell in cells:
        calendar = calendars.get(cell.customer_id or 0, EMPTY)
        fate = _fate(
            cell.held_reason, meters[cell.meter_id], calendar, at=cell.segment_start, now=now
        )
        period = calendar.period(cell.latest)
        grouped[cell.subject, cell.meter_id, period, fate].append(cell)
    return [
        Part(
            subject=subject,
            meter=meters[meter_id],
            period=period,
            fate=fate,
            billed_on=_billed_on(found[0].customer_id, calendars, found[0].latest, meter_id, now),
            units=sum((cell.quantity for cell in found), Decimal(0)),
            event_count=sum(cell.event_count for cell in found),
            hours=tuple(
                Hour(cell.window_start, cell.segment_start, cell.quantity, cell.event_count)
                for cell in sorted(found, key=lambda cell: cell.segment_start)
            ),
        )
        for (subject, meter_id, period, fate), found in grouped.items()
    ]


def _compared(
    groups: Iterable[running.Group],
    *,
    meters: Mapping[int, Meter],
    calendars: Mapping[int, Calendar],
    now: datetime,
) -> list[Part]:
    """Return the parts of meters that have a running value, which come by period already."""
    parts = []
    for group in groups:
        meter = meters[group.meter_id]
        calendar = calendars.get(group.customer_id or 0, EMPTY)
        at = group.period_start
        if group.totals is not None:
            at = group.totals.latest_at
        parts.append(
            Part(
                subject=group.subject,
                meter=meter,
                period=calendar.period(at),
                fate=_fate(_running_held(group, meter, calendar), meter, calendar, at=at, now=now),
                billed_on=_billed_on(group.customer_id, calendars, at, meter.pk, now),
                units=None,
                event_count=group.event_count,
                hours=(Hour(_hour(at), at, None, group.event_count),),
            )
        )
    return parts


def _fate(
    held: HeldReason | None, meter: Meter, calendar: Calendar, *, at: datetime, now: datetime
) -> Fate:
    """Return what becomes of usage from a segment that holds `at`; `lateness.MAY_BE_SENT` in words.

    The segment has been cut at every boundary there is.
    """
    if held is not None:
        return HELD_FATES[held]
    ended = calendar.ended_since(at, now=now)
    if any(boundary.closed_at is not None for boundary in ended):
        return Fate.HELD_LATE
    if meter.blocked:
        return Fate.WAITS_FOR_METER
    if any(
        boundary.at <= now - periods.UNASKED
        and (boundary.open_until is None or boundary.open_until <= now)
        for boundary in ended
    ):
        return Fate.WAITS_FOR_STRIPE
    return Fate.BILLED


def _running_held(group: running.Group, meter: Meter, calendar: Calendar) -> HeldReason | None:
    if group.customer_id is None:
        return HeldReason.UNKNOWN_CUSTOMER
    if not calendar.is_at_stripe:
        return HeldReason.CUSTOMER_NOT_AT_STRIPE
    return None if meter.stripe_meter_id else HeldReason.METER_NOT_AT_STRIPE


def _billed_on(
    customer_id: int | None,
    calendars: Mapping[int, Calendar],
    at: datetime,
    meter_id: int,
    now: datetime,
) -> BilledOn:
    if customer_id is None:
        return BilledOn(
            None, period_invoices.NONE_YET, "No customer has this external id, so nobody is billed."
        )
    return calendars[customer_id].billed_on(at, meter_id=meter_id, now=now)


def _hour(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)
