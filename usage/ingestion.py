"""Accepting usage events: judge each, store those that can be billed, tell each one's outcome.

How events arrive over HTTP is `usage.api`'s, how they are written `storing`'s, and what becomes of
them `flush`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.utils import timezone

from billing import steps
from billing.authentication import source_named
from billing.queries import ValueRule, value_rules
from usage import storing
from usage.cloud_events import read_event
from usage.names import InvalidName, check_name
from usage.quantities import MAX_VALUE, InvalidQuantity, read_quantity
from usage.reports import CONFLICT, Outcome, Refusal, ReportedEvent, Row, Stored, row_of


class Refused(ValueError):
    """An event was not stored: the field at fault and the reason."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.field or 'the event'} {refusal.reason}")
        self.field = refusal.field
        self.reason = refusal.reason


def record(  # noqa: PLR0913 - the attributes of an event
    *,
    source: str,
    event_id: str,
    type: str,  # noqa: A002 - the attribute's name
    customer: str,
    data: Mapping[str, Any],
    occurred_at: datetime | None = None,
) -> Stored:
    """Store one event that occurred in this very process, judged as one that comes over HTTP.

    It joins the transaction its caller has open, and is billed if that commits; with none open it
    is durable on return. `customer` is the external id, `source` the name of the producer, made
    when new; `occurred_at` is aware, and now when left out. A repetition is a duplicate.

    Raises:
        Refused: it cannot be billed, or its id is known with another payload.
        SourceReserved: the source is one of our own.
    """
    told: dict[str, Any] = {"id": event_id, "type": type, "subject": customer, "data": dict(data)}
    if occurred_at is not None:
        told["time"] = occurred_at.isoformat()
    try:
        report = read_event(json.dumps(told, default=_decimal_text).encode())
    except TypeError as error:
        raise Refused(Refusal("data", f"must hold JSON values only: {error}")) from error
    [outcome] = accept(source_id=source_named(source).pk, reports=[report], now=timezone.now())
    if isinstance(outcome, Refusal):
        raise Refused(outcome)
    return outcome


def _decimal_text(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{value!r} is none")


def accept(
    *, source_id: int, reports: Sequence[ReportedEvent | Refusal], now: datetime
) -> list[Outcome]:
    """Store the valid events of one source and return every event's outcome, in order.

    A refused event leaves no trace and its neighbours are stored. The same call again finds only
    duplicates. An id known with another payload is refused and kept as a conflict for staff; its
    first payload stays. All is one transaction: it is durable once the caller's outermost commit
    returns.
    """
    judge = _Judge.at(now)
    outcomes: list[Outcome] = [Stored.ACCEPTED] * len(reports)
    rows: dict[int, Row] = {}
    firsts: dict[str, int] = {}
    for index, report in enumerate(reports):
        if isinstance(report, Refusal):
            outcomes[index] = report
            continue
        refusal = judge.refusal(report)
        if refusal is not None:
            outcomes[index] = refusal
            continue
        rows[index] = row_of(report)
        firsts.setdefault(report.event_id, index)
    with steps.commit("usage.ingestion.accept", savepoint=False):
        new = [rows[index] for index in firsts.values()]
        stored = storing.insert(source_id=source_id, rows=new, now=now)
        if len(stored) == len(rows):
            return outcomes
        before = storing.digests(source_id, firsts.keys() - stored)
        conflicts: list[Row] = []
        for index, row in rows.items():
            first = firsts[row.event_id]
            if index == first and row.event_id in stored:
                continue
            if row.digest == before.get(row.event_id, rows[first].digest):
                outcomes[index] = Stored.DUPLICATE
            else:
                outcomes[index] = CONFLICT
                conflicts.append(row)
        storing.record_conflicts(source_id=source_id, rows=conflicts, now=now)
    return outcomes


def units_of(reports: Iterable[ReportedEvent | Refusal]) -> Decimal:
    """Return what all values of these events that a meter reads come to, each in its own unit.

    What is no quantity counts nothing: it will be refused.
    """
    total = Decimal(0)
    rules = value_rules()
    for report in reports:
        if isinstance(report, ReportedEvent):
            # A property several meters read is one value.
            scales = {
                rule.value_property: rule.scale
                for rule in rules.get(report.type, ())
                if not rule.is_name
            }
            for name, scale in scales.items():
                with suppress(InvalidQuantity):
                    total += Decimal(read_quantity(report.data.get(name), scale=scale)).scaleb(
                        -scale
                    )
    return total


@dataclass(frozen=True, slots=True)
class _Judge:
    """What is asked of an event at one moment."""

    rules: Mapping[str, Sequence[ValueRule]]
    now: datetime
    oldest: datetime
    newest: datetime

    @classmethod
    def at(cls, now: datetime) -> _Judge:
        return cls(
            rules=value_rules(),
            now=now,
            oldest=now - timedelta(days=settings.USAGE_LATE_DAYS),
            newest=now + timedelta(seconds=settings.USAGE_AHEAD_SECONDS),
        )

    def refusal(self, report: ReportedEvent) -> Refusal | None:
        rules = self.rules.get(report.type)
        if rules is None:
            return Refusal("type", f"{report.type!r} is read by no meter of the catalogue")
        occurred_at = report.occurred_at
        if occurred_at is not None:
            if occurred_at > self.newest:
                ahead = settings.USAGE_AHEAD_SECONDS
                return Refusal("time", f"is more than {ahead} s in the future")
            if occurred_at < self.oldest:
                return Refusal("time", f"is more than {settings.USAGE_LATE_DAYS} days in the past")
        data = report.data
        for rule in rules:
            value = data.get(rule.value_property)
            # What nearly every value is, before anything that costs more is asked.
            if type(value) is int and 0 <= value <= MAX_VALUE and not rule.scale:
                continue
            if not rule.binds(occurred_at or self.now):
                continue
            reason = _value_refused(value, rule)
            if reason:
                return Refusal(f"data.{rule.value_property}", reason)
        return None


def _value_refused(value: Any, rule: ValueRule) -> str:
    """Return why a rule's property may not hold `value`; empty when it may."""
    if value is None:
        return f"is required by {rule.meter}" if rule.required else ""
    try:
        if rule.is_name:
            check_name(value)
        else:
            read_quantity(value, scale=rule.scale)
    except (InvalidName, InvalidQuantity) as error:
        return str(error)
    return ""
