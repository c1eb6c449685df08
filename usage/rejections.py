"""Rejections: what Stripe says it refused after it had taken it.

A report counts everything and names samples. What it names is decided here at once; the unsampled
rest is found by reading Stripe's totals, which is reconciliation's: what it may mean is due to be
looked at from then on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import IntegrityError
from django.db.models import Count, Exists, Min, OuterRef, QuerySet, Sum

from billing import cases, meter_checks, steps
from billing.enums import CaseKind
from billing.gateway import notifications, values
from billing.models import Meter
from billing.webhooks.inbox import Received
from usage.clock import database_clock
from usage.enums import Outcome, ReportEffect
from usage.lifecycle import State
from usage.models import (
    Attempt,
    ErrorReport,
    ErrorReportSample,
    ErrorReportType,
    Submission,
    SubmissionState,
)

log = structlog.get_logger(__name__)

VALIDATED_WITHIN = timedelta(minutes=15)
"""How long after a call began Stripe may still validate what it brought (A3)."""
CLOCKS_WITHIN = timedelta(minutes=2)
"""How far Stripe's clock may be from ours (A5)."""
CASE_HOURS = 72
"""Stripe's longest wait before an invoice is final, for a person to decide and a check to end."""
NO_ACTIVE_METER = frozenset({"no_meter", "archived_meter"})
"""Codes that speak of the meter and would meet its next event, too. Source: Stripe's reference."""
OPEN = (
    State.READY,
    State.SENDING,
    State.RETRY,
    State.IN_DOUBT,
    State.ACCEPTED,
    State.UNPROVEN,
)
"""States in which it is not known yet what became of a submission. Of the others a case tells."""
KNOWN_ABSENT = frozenset({Outcome.NOT_ACCEPTED, Outcome.REJECTED})
"""How a call ends that Stripe is known not to have taken."""
MOVED = {
    ReportEffect.REJECTED: (State.REJECTED, CaseKind.REJECTED),
    ReportEffect.UNPROVEN: (State.UNPROVEN, CaseKind.UNPROVEN),
}
NO_METER_FOUND = "v1.billing.meter.no_meter_found"
REPORTS_PER_PASS = 500
KEY_SEPARATOR = "."
"""An idempotency key may be a submission's identifier, this, and something new per attempt."""


class StillSending(Exception):
    """A submission that a report names is being sent just now; the report is handled later."""


def error_report(received: Received) -> bool:
    """Fetch a report that a webhook told of, and record it; return whether it concerns us.

    The delivery is never data: what it names is fetched under our own key. A repetition, in
    whatever order, changes nothing.

    Raises:
        GatewayError: it cannot be fetched now; the inbox tries again.
        StillSending: a call it names is not over; the inbox tries again.
    """
    if ErrorReport.objects.filter(stripe_event_id=received.event_id).exists():
        return True
    with steps.call("usage.error_report.fetch"):
        event = notifications.fetch_thin_event(received.event_id)
    return record(notifications.error_report(event), now=database_clock())


def record(report: values.ErrorReport, *, now: datetime) -> bool:
    """Store a report once and move the submissions it names; return whether it concerns us.

    All of it is one transaction. Effects depend on the submissions alone, never on the order in
    which reports come. A report of a meter that is not ours and of nobody's event of ours leaves no
    trace.

    Raises:
        StillSending: a submission it names is in a call; nothing was written.
    """
    try:
        with steps.commit("usage.rejections.record"):
            row = _record(report, now=now)
    except IntegrityError:
        if not ErrorReport.objects.filter(stripe_event_id=report.event_id).exists():
            raise
        # Another worker was handling the same event and was first.
        return True
    if row is None:
        return False
    log.info(
        "usage.rejections.report_recorded",
        report=report.event_id,
        errors=row.error_count,
        named=row.named_count,
        foreign=row.foreign_count,
        unsampled=row.unsampled_count,
    )
    return True


def close_resolved(*, now: datetime) -> int:
    """Close the reports whose suspects have all come to an end; return how many.

    While any stays open for 72 hours there is a case for its meter. A repetition closes what has
    ended since, and brings the cases up to date.
    """
    closed = 0
    for report in ErrorReport.objects.filter(closed_at__isnull=True).order_by("id"):
        # A call by a clock that is behind may still join the suspects until then.
        if report.attempts_until > now or _suspected(report).exists():
            continue
        if closed == REPORTS_PER_PASS:
            break
        closed += _close(report, now=now)
    _tell_overdue(now=now)
    return closed


# --- recording ------------------------------------------------------------------------------------


def _record(report: values.ErrorReport, *, now: datetime) -> ErrorReport | None:
    ours = _ours(report)
    meter = Meter.objects.filter(stripe_meter_id=report.meter_id).first()
    row = _row(report, meter, ours, now=now)
    if not ours and meter is None and not (row.unsampled_count and _may_be_ours(row)):
        return None
    row.save(force_insert=True)
    effects = _decide(report, ours, row, now=now)
    _write_samples(report, ours, effects, row)
    _stop_meters(report, meter, ours, now=now)
    if row.closed_at is None:
        _hurry(row, now=now)
    return row


def _ours(report: values.ErrorReport) -> dict[str, Submission]:
    """Return our submissions by what the report calls them.

    Stripe says it names the request's key and is seen to name the event's identifier. Keys are new
    per attempt and not stored: a v1 key begins with the identifier it is sent for, and a stream
    request's stands for a hundred events, so it could not tell which one is meant.
    """
    names = {sample.identifier for each in report.types for sample in each.samples}
    wanted = {name: {name, name.partition(KEY_SEPARATOR)[0]} for name in names if name}
    found = {
        submission.identifier: submission
        for submission in Submission.objects.filter(
            identifier__in=set().union(*wanted.values())
        ).select_related("meter")
    }
    return {
        name: found[identifier]
        for name, identifiers in wanted.items()
        for identifier in identifiers
        if identifier in found
    }


def _row(
    report: values.ErrorReport,
    meter: Meter | None,
    ours: Mapping[str, Submission],
    *,
    now: datetime,
) -> ErrorReport:
    names = {sample.identifier for each in report.types for sample in each.samples} - {""}
    named = len({submission.pk for submission in ours.values()})
    foreign = len(names - ours.keys())
    # A report that names more than it counts counts what it names.
    unsampled = max(report.error_count - named - foreign, 0)
    return ErrorReport(
        stripe_event_id=report.event_id,
        type=report.type,
        meter=meter,
        created_at=report.created_at,
        received_at=now,
        validation_start=report.validation_start,
        validation_end=report.validation_end,
        attempts_from=report.validation_start - VALIDATED_WITHIN - CLOCKS_WITHIN,
        attempts_until=report.validation_end + CLOCKS_WITHIN,
        summary=report.summary,
        error_count=named + foreign + unsampled,
        named_count=named,
        foreign_count=foreign,
        unsampled_count=unsampled,
        closed_at=None if unsampled else now,
        resolution="" if unsampled else "it names every event it counts",
    )


def _decide(
    report: values.ErrorReport,
    ours: Mapping[str, Submission],
    row: ErrorReport,
    *,
    now: datetime,
) -> dict[int, ReportEffect]:
    """Move what the report names and open the cases; return the effects by submission."""
    refusals: dict[int, str] = {}
    for each in report.types:
        for sample in each.samples:
            if sample.identifier in ours and not _is_duplicate(each.code):
                said = sample.message or each.code
                refusals.setdefault(ours[sample.identifier].pk, said)
    standings = list(
        SubmissionState.objects.filter(pk__in=refusals)
        .select_related("submission")
        .order_by("pk")
        .select_for_update(of=("self",))
    )
    # After the lock: an attempt begins only by moving the row.
    outcomes = _outcomes(refusals)
    effects = {}
    for standing in standings:
        effect = _effect(standing, outcomes[standing.pk])
        effects[standing.pk] = effect
        _apply(standing, effect, refusals[standing.pk], row, now=now)
    return effects


def _is_duplicate(code: str) -> bool:
    """Return whether a code says that the identifier is known: proof of presence, no refusal."""
    return "duplicate" in code.lower()


def _outcomes(submission_ids: Iterable[int]) -> dict[int, list[str | None]]:
    outcomes: defaultdict[int, list[str | None]] = defaultdict(list)
    for submission_id, outcome in Attempt.objects.filter(
        submission_id__in=submission_ids
    ).values_list("submission_id", "outcome"):
        outcomes[submission_id].append(outcome)
    return outcomes


def _effect(standing: SubmissionState, outcomes: Sequence[str | None]) -> ReportEffect:
    """Return what a refusal means for a submission whose attempts ended like `outcomes`.

    Raises:
        StillSending: the end of one is not known yet.
    """
    if standing.state == State.SENDING:
        raise StillSending(f"{standing.submission.identifier} is being sent")
    if standing.state == State.ACCEPTED:
        # A call known not to have been taken cannot have been counted either; one whose end nobody
        # knows can, and so can one a restored database does not remember.
        arrived = [each for each in outcomes if each not in KNOWN_ABSENT]
        is_only_one = arrived == [Outcome.ACCEPTED] and not standing.recount
        return ReportEffect.REJECTED if is_only_one else ReportEffect.UNPROVEN
    if standing.state == State.IN_DOUBT or (
        standing.state == State.RETRY and standing.doubt_since is not None
    ):
        return ReportEffect.UNPROVEN
    if standing.state in {State.SETTLED, State.READY}:
        return ReportEffect.CONTRADICTED
    return ReportEffect.UNCHANGED


def _apply(
    standing: SubmissionState, effect: ReportEffect, said: str, row: ErrorReport, *, now: datetime
) -> None:
    submission = standing.submission
    reason = f"{said} (error report {row.stripe_event_id})"
    if effect in MOVED:
        state, kind = MOVED[effect]
        if effect == ReportEffect.UNPROVEN:
            reason = f"an earlier call may be counted, but one was refused: {reason}"
        SubmissionState.objects.filter(pk=standing.pk).update(
            state=state, next_action_at=None, reason=reason, changed_at=now
        )
    elif effect == ReportEffect.CONTRADICTED:
        kind = CaseKind.ERROR_REPORT
        reason = f"it is {State(standing.state).label}, and yet Stripe refused it: {reason}"
    else:
        return
    cases.open_case(
        kind=kind,
        reference=submission.identifier,
        reason=reason,
        quantity=submission.value,
        deadline_at=now + timedelta(hours=CASE_HOURS),
    )


def _write_samples(
    report: values.ErrorReport,
    ours: Mapping[str, Submission],
    effects: Mapping[int, ReportEffect],
    row: ErrorReport,
) -> None:
    for each in report.types:
        named = {ours[sample.identifier].pk for sample in each.samples if sample.identifier in ours}
        stored = ErrorReportType.objects.create(
            report=row, code=each.code, error_count=each.error_count, named_count=len(named)
        )
        samples = []
        for sample in each.samples:
            submission = ours.get(sample.identifier)
            if submission is None:
                effect = ReportEffect.FOREIGN
            elif _is_duplicate(each.code):
                effect = ReportEffect.DUPLICATE
            else:
                effect = effects[submission.pk]
            samples.append(
                ErrorReportSample(
                    type=stored,
                    identifier=sample.identifier,
                    message=sample.message,
                    submission=submission,
                    effect=effect,
                )
            )
        ErrorReportSample.objects.bulk_create(samples)


def _stop_meters(
    report: values.ErrorReport,
    meter: Meter | None,
    ours: Mapping[str, Submission],
    *,
    now: datetime,
) -> None:
    """Send nothing more to meters of ours that Stripe does not find active."""
    codes = sorted({each.code for each in report.types} & NO_ACTIVE_METER)
    if not codes:
        return
    concerned = {submission.meter for submission in ours.values()} | ({meter} - {None})
    for each in sorted(filter(None, concerned), key=lambda found: found.pk):
        meter_checks.block(
            each.pk,
            f"Stripe refuses events of {each.event_name}: {', '.join(codes)}"
            f" (error report {report.event_id}).",
            now,
        )


# --- the unsampled rest ---------------------------------------------------------------------------


def _suspected(row: ErrorReport) -> QuerySet[SubmissionState]:
    """Return the standings not yet at an end whose calls may be what the report counts."""
    return _sent_within(row).filter(state__in=OPEN)


def _sent_within(row: ErrorReport) -> QuerySet[SubmissionState]:
    begun = Attempt.objects.filter(
        submission=OuterRef("pk"),
        started_at__gte=row.attempts_from,
        started_at__lt=row.attempts_until,
    )
    standings = SubmissionState.objects.filter(Exists(begun))
    return standings if row.meter_id is None else standings.filter(meter_id=row.meter_id)


def _may_be_ours(row: ErrorReport) -> bool:
    """Return whether a report of no meter can count events of ours: we were sending just then.

    Of a meter that is not ours it cannot, whatever we sent.
    """
    return row.type == NO_METER_FOUND and _suspected(row).exists()


def _hurry(row: ErrorReport, *, now: datetime) -> None:
    """Let the totals that can tell the unsampled rest be read now, and not in a day and a half.

    Only for what Stripe took: the others come to their next action by themselves, and a wait
    between two calls is there for a reason.
    """
    due = list(
        _suspected(row)
        .filter(state=State.ACCEPTED, next_action_at__gt=now)
        .order_by("pk")
        # Whoever holds one of them is at it already.
        .select_for_update(of=("self",), skip_locked=True)
        .values_list("pk", flat=True)
    )
    SubmissionState.objects.filter(pk__in=due).update(next_action_at=now)


def _close(row: ErrorReport, *, now: datetime) -> int:
    ended = (
        _sent_within(row).order_by("state").values_list("state").annotate(submissions=Count("pk"))
    )
    counts = ", ".join(f"{count:,} {State(state).label}" for state, count in ended)
    resolution = f"of what was sent then: {counts or 'nothing'}"
    with steps.commit("usage.rejections.close"):
        return ErrorReport.objects.filter(pk=row.pk, closed_at__isnull=True).update(
            closed_at=now, resolution=resolution
        )


def _tell_overdue(*, now: datetime) -> None:
    """Open a case for each meter of which a report stays open too long, or close it."""
    overdue: dict[int | None, Any] = {
        row["meter"]: row
        for row in ErrorReport.objects.filter(
            closed_at__isnull=True, received_at__lte=now - timedelta(hours=CASE_HOURS)
        )
        .order_by()
        .values("meter")
        .annotate(
            reports=Count("pk"), unsampled=Sum("unsampled_count"), example=Min("stripe_event_id")
        )
    }
    slugs: dict[int | None, str] = {None: "no meter"}
    slugs.update(Meter.objects.values_list("pk", "slug"))
    with steps.commit("usage.rejections.overdue"):
        for meter_id, slug in slugs.items():
            row = overdue.get(meter_id)
            if row is None:
                cases.close_case(CaseKind.ERROR_REPORT, slug, "its reports are all closed")
                continue
            cases.open_case(
                kind=CaseKind.ERROR_REPORT,
                reference=slug,
                reason=f"{row['unsampled']:,} events that Stripe refused are not found after"
                f" {CASE_HOURS} h: {row['reports']:,} open reports, such as {row['example']}",
                deadline_at=now + timedelta(hours=24),
            )
