"""POST /api/v1/backfills: late usage, with a dry run that tells what would become of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from django.conf import settings
from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import Field

from billing.api import caller_of
from billing.key_limits import OverLimit, spend
from billing.problems import problem
from usage import backfilling
from usage.api.corrections import REASON_MOST, author_of
from usage.api.openapi import BATCH_SCHEMA
from usage.api.records import InvoiceOut, PeriodOut, invoice_out, period_out, unit_of
from usage.backfilling import Fate, Part, Report
from usage.clock import database_clock
from usage.cloud_events import read_event
from usage.ingestion import units_of
from usage.reports import CONFLICT, Outcome, Refusal

router = Router(tags=["corrections"])


class BackfillIn(msgspec.Struct, forbid_unknown_fields=True):
    """The body. Events stay as they were sent, so that no number is read as a float."""

    events: list[msgspec.Raw]
    reason: str
    dry_run: bool = True


class HourOut(Schema):
    hour: datetime = Field(description="Start of the UTC hour, included.")
    segment_start: datetime = Field(description="Later than the hour after a period boundary.")
    units: str | None
    event_count: int


class PartOut(Schema):
    customer: str
    meter: str
    unit: str = Field(description="What one of `units` is.")
    period: PeriodOut
    invoice: InvoiceOut
    outcome: Fate
    meaning: str
    units: str | None = Field(
        description="A whole number of the meter's smallest unit; null for a meter whose units do"
        " not add up."
    )
    event_count: int
    hours: list[HourOut]


class BackfilledOut(Schema):
    index: int
    outcome: str = Field(description="`accepted`, `duplicate`, `conflict` or `refused`.")
    field: str | None
    reason: str | None = Field(description="Why it was refused; null for what is stored.")


class BackfillOut(Schema):
    dry_run: bool
    backfill: int | None = Field(description="Number of the record; null when nothing was stored.")
    meaning: str
    accepted: int
    duplicates: int
    conflicts: int
    refused: int
    parts: list[PartOut]
    events: list[BackfilledOut]


_BODY = msgspec.json.Decoder(BackfillIn)
_REQUEST = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["events", "reason"],
                    "additionalProperties": False,
                    "properties": {
                        "events": BATCH_SCHEMA,
                        "reason": {"type": "string", "minLength": 1, "maxLength": REASON_MOST},
                        "dry_run": {
                            "type": "boolean",
                            "default": True,
                            "description": "Whether nothing is stored and only told.",
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "/backfills",
    response=BackfillOut,
    summary="Bring in late usage",
    openapi_extra=_REQUEST,
)
def make_backfill(request: HttpRequest) -> Any:
    """Store late usage, or with `dry_run`, as by default, tell what would become of it.

    Each event is judged as by `POST /events`: the valid ones are stored, a refused one is named.
    Repeating it finds duplicates and changes nothing, but counts against the key's limits again.
    """
    caller = caller_of(request)
    try:
        body = _BODY.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _invalid(*_at_fault(error))
    if not body.reason.strip() or "\0" in body.reason or len(body.reason) > REASON_MOST:
        return _invalid("reason", f"must say why, in at most {REASON_MOST:,} characters")
    if not 1 <= len(body.events) <= settings.USAGE_EVENTS_PER_REQUEST:
        return _invalid("events", f"must be 1 to {settings.USAGE_EVENTS_PER_REQUEST:,} events")
    reports = [read_event(bytes(event)) for event in body.events]
    now = database_clock()
    if not body.dry_run:
        try:
            spend(caller, events=len(reports), units=units_of(reports), now=now)
        except OverLimit as error:
            return _over_limit(error)
    report = backfilling.backfill(
        source_id=caller.source_id,
        reports=reports,
        author=author_of(caller),
        reason=body.reason,
        now=now,
        dry_run=body.dry_run,
        customers=caller.limits.customers,
    )
    return told(report)


def told(report: Report) -> BackfillOut:
    """Tell what a backfill did, or would do."""
    return BackfillOut(
        dry_run=report.dry_run,
        backfill=None if report.backfill is None else report.backfill.pk,
        meaning=report.sentence,
        accepted=report.accepted_count,
        duplicates=report.duplicate_count,
        conflicts=report.conflict_count,
        refused=report.refused_count,
        parts=[_part(part) for part in report.parts],
        events=_outcomes(report.outcomes),
    )


def _part(part: Part) -> PartOut:
    return PartOut(
        customer=part.subject,
        meter=part.meter.slug,
        unit=unit_of(part.meter),
        period=period_out(part.period),
        invoice=invoice_out(part.billed_on),
        outcome=part.fate,
        meaning=part.fate.sentence,
        units=None if part.units is None else f"{part.units:f}",
        event_count=part.event_count,
        hours=[
            HourOut(
                hour=hour.start,
                segment_start=hour.segment_start,
                units=None if hour.units is None else f"{hour.units:f}",
                event_count=hour.event_count,
            )
            for hour in part.hours
        ],
    )


def _outcomes(outcomes: Sequence[Outcome]) -> list[BackfilledOut]:
    return [
        BackfilledOut(
            index=index,
            outcome="conflict" if outcome == CONFLICT else "refused",
            field=outcome.field or None,
            reason=outcome.reason,
        )
        if isinstance(outcome, Refusal)
        else BackfilledOut(index=index, outcome=outcome.value, field=None, reason=None)
        for index, outcome in enumerate(outcomes)
    ]


def _over_limit(error: OverLimit) -> Any:
    if error.retry_after_seconds is None:
        return problem(413, "Too much for this key", f"{error} Nothing is stored; send less.")
    refused = problem(429, "Too much for now", f"{error} Nothing is stored; send it later.")
    refused["Retry-After"] = str(error.retry_after_seconds)
    return refused


def _at_fault(error: Exception) -> tuple[str, str]:
    """Return the field and the reason of what the decoder objected to."""
    sentence, _, path = str(error).partition(" - at `$")
    missing = "Object missing required field `"
    if sentence.startswith(missing):
        return sentence.removeprefix(missing).rstrip("`"), "is required"
    return path.strip("`.") or "body", sentence[:1].lower() + sentence[1:]


def _invalid(field: str, reason: str) -> Any:
    return problem(
        422, "Invalid request", f"{field}: {reason}", errors=[{"field": field, "reason": reason}]
    )
