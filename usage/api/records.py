"""Submissions and held usage as the API tells them: one row's words, and everything on file."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from ninja import Schema
from pydantic import Field

from billing.models import Meter
from billing.period_invoices import BilledOn, Period
from usage import meanings
from usage.enums import HeldReason, Outcome, ReplacementKind
from usage.lifecycle import State
from usage.models import Attempt, Cancellation, HeldUsage, Submission
from usage.submission_records import SubmissionRecord


class PeriodOut(Schema):
    start: datetime | None = Field(description="Included; null when no boundary is known before.")
    end: datetime | None = Field(description="Not included; null when none is known after.")


class InvoiceOut(Schema):
    id: str | None = Field(description="Stripe's id; null when no invoice is known yet.")
    status: str = Field(description="Stripe's word; `none yet` without an invoice.")
    reason: str | None = Field(description="Why there is none; null with an invoice.")


class SubmissionOut(Schema):
    identifier: str
    customer: str
    meter: str
    unit: str = Field(description="What one of `value` is.")
    hour: datetime = Field(description="Start of the UTC hour, included.")
    segment_start: datetime = Field(
        description="Start of its part of the hour: later than the hour after a period boundary."
    )
    value: str = Field(description="A whole number of the meter's smallest unit.")
    event_count: int
    timestamp: datetime = Field(description="As sent to Stripe.")
    run: int = Field(description="The flush run that folded it.")
    created_at: datetime
    state: State
    meaning: str = Field(description="The state in one sentence.")
    reason: str | None = Field(description="What brought it there, where there is more to say.")
    since: datetime = Field(description="When it last changed.")
    attempt_count: int
    next_action_at: datetime | None = Field(description="Null when nothing is due by itself.")


class AttemptOut(Schema):
    number: int
    wire: str
    started_at: datetime
    finished_at: datetime | None
    outcome: Outcome | None = Field(description="Null while it is not known.")
    meaning: str
    http_status: int | None
    code: str | None
    message: str | None
    request_id: str | None


class ProofOut(Schema):
    observed_at: datetime
    hour: datetime
    expected: str
    observed: str


class HeldOut(Schema):
    customer: str
    meter: str
    unit: str
    hour: datetime = Field(description="Start of the UTC hour, included.")
    segment_start: datetime
    value: str = Field(description="A whole number of the meter's smallest unit.")
    event_count: int
    run: int
    reason: HeldReason
    meaning: str
    held_at: datetime
    released_at: datetime | None = Field(description="Null while it is held.")


class SupersededOut(Schema):
    kind: ReplacementKind
    meaning: str
    reason: str
    decided_at: datetime
    credited: str = Field(
        description="How much of all that was superseded with it Stripe was seen to hold."
    )
    stand_ins: list[str] = Field(description="Identifiers of what stands for it.")
    held_count: int = Field(description="Held rows that stand for it.")


class CancellationOut(Schema):
    author: str
    reason: str
    created_at: datetime
    original: str = Field(description="Identifier of what is taken back.")
    negative: str = Field(description="Identifier of the submission that takes it back.")
    meaning: str


class SubmissionRecordOut(SubmissionOut):
    attempts: list[AttemptOut]
    settled: bool
    settled_by: ProofOut | None = Field(
        description="The total of Stripe's that proved it; null while it is not settled."
    )
    superseded: SupersededOut | None
    replaces: str | None = Field(description="What it stands in for, in one sentence.")
    cancellation: CancellationOut | None


def unit_of(meter: Meter) -> str:
    """Return the meter's smallest unit in words."""
    if meter.scale == 0:
        return meter.unit
    return f"{Decimal(1).scaleb(-meter.scale):f} {meter.unit}"


def period_out(period: Period) -> PeriodOut:
    """Tell a billing period."""
    return PeriodOut(start=period.start, end=period.end)


def invoice_out(billed_on: BilledOn) -> InvoiceOut:
    """Tell an invoice, or why there is none."""
    return InvoiceOut(
        id=billed_on.invoice, status=billed_on.status, reason=billed_on.reason or None
    )


def submission_out(submission: Submission) -> dict[str, Any]:
    """Tell one submission and where it stands, by the names of `SubmissionOut`."""
    standing = submission.standing
    state = State(standing.state)
    return {
        "identifier": submission.identifier,
        "customer": submission.customer.external_id,
        "meter": submission.meter.slug,
        "unit": unit_of(submission.meter),
        "hour": submission.window_start,
        "segment_start": submission.segment_start,
        "value": f"{submission.value:f}",
        "event_count": submission.event_count,
        "timestamp": submission.timestamp,
        "run": submission.run_id,
        "created_at": submission.created_at,
        "state": state,
        "meaning": meanings.of_state(state, wire=standing.wire),
        "reason": standing.reason or None,
        "since": standing.changed_at,
        "attempt_count": standing.attempt_count,
        "next_action_at": standing.next_action_at,
    }


def held_out(held: HeldUsage) -> HeldOut:
    """Tell one held row."""
    reason = HeldReason(held.reason)
    return HeldOut(
        customer=held.subject,
        meter=held.meter.slug,
        unit=unit_of(held.meter),
        hour=held.window_start,
        segment_start=held.segment_start,
        value=f"{held.quantity:f}",
        event_count=held.event_count,
        run=held.run_id,
        reason=reason,
        meaning=meanings.of_held(reason, is_released=held.released_at is not None),
        held_at=held.held_at,
        released_at=held.released_at,
    )


def record_out(record: SubmissionRecord) -> SubmissionRecordOut:
    """Tell everything on file about one submission."""
    submission = record.submission
    proof = record.proof
    return SubmissionRecordOut(
        **submission_out(submission),
        attempts=[_attempt(attempt) for attempt in record.attempts],
        settled=record.state == State.SETTLED,
        settled_by=None
        if proof is None
        else ProofOut(
            observed_at=proof.observed_at,
            hour=proof.window_start,
            expected=exact(proof.expected),
            observed=exact(proof.observed),
        ),
        superseded=_superseded(record),
        replaces=None
        if submission.replaces is None
        else meanings.DECISIONS[ReplacementKind(submission.replaces.kind)],
        cancellation=_cancellation(record),
    )


def exact(value: Decimal) -> str:
    """Write a number with no idle zeros behind the point and no exponent."""
    whole = value.to_integral_value()
    return f"{whole if whole == value else value.normalize():f}"


def _attempt(attempt: Attempt) -> AttemptOut:
    outcome = None if attempt.outcome is None else Outcome(attempt.outcome)
    return AttemptOut(
        number=attempt.number,
        wire=attempt.wire,
        started_at=attempt.started_at,
        finished_at=attempt.finished_at,
        outcome=outcome,
        meaning=meanings.OUTCOMES[outcome],
        http_status=attempt.http_status,
        code=attempt.code or None,
        message=attempt.message or None,
        request_id=attempt.request_id or None,
    )


def _superseded(record: SubmissionRecord) -> SupersededOut | None:
    decision = record.submission.standing.replaced_by
    if decision is None:
        return None
    kind = ReplacementKind(decision.kind)
    return SupersededOut(
        kind=kind,
        meaning=meanings.DECISIONS[kind],
        reason=decision.reason,
        decided_at=decision.decided_at,
        credited=f"{decision.credit:f}",
        stand_ins=[stand_in.identifier for stand_in in record.stand_ins],
        held_count=len(record.held),
    )


def _cancellation(record: SubmissionRecord) -> CancellationOut | None:
    if record.takes_back is not None:
        return cancellation_out(
            record.takes_back,
            original=record.takes_back.original.identifier,
            negative=record.submission.identifier,
        )
    if record.taken_back is not None:
        return cancellation_out(
            record.taken_back,
            original=record.submission.identifier,
            negative=record.taken_back.submission.identifier,
        )
    return None


def cancellation_out(
    cancellation: Cancellation, *, original: str, negative: str
) -> CancellationOut:
    """Tell who had a submission cancelled; how far that came is the negative's to tell."""
    return CancellationOut(
        author=cancellation.author,
        reason=cancellation.reason,
        created_at=cancellation.created_at,
        original=original,
        negative=negative,
        meaning="Its events are taken back, and Stripe is asked to cancel it under its identifier;"
        " how far that came is told by the negative submission.",
    )
