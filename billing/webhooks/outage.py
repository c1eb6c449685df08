"""Telling staff that webhooks do not arrive, and that they do again."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Count

from billing.cases import close_case, open_case
from billing.enums import Arrival, CaseKind
from billing.gateway.errors import GatewayError
from billing.models import Case, WebhookEvent, WebhookSweep

FEW = 5
"""So many missing events may be bad luck, such as a deploy in mid-delivery; more are an outage."""
CASE_DEADLINE = timedelta(days=1)
"""Until it is mended we learn once a day what Stripe would tell at once; no usage is lost."""
REFERENCE = "events"


def judge(sweep: WebhookSweep, *, now: datetime) -> None:
    """Open, renew or close the cases a finished sweep speaks of, in the caller's transaction."""
    close_case(CaseKind.MISCONFIGURED, REFERENCE, "Stripe has listed its events.")
    if sweep.missing_count > FEW:
        open_case(
            kind=CaseKind.WEBHOOKS_MISSING,
            reference=REFERENCE,
            reason=_reason(sweep),
            deadline_at=now + CASE_DEADLINE,
        )
    elif not sweep.missing_count and _arrive_again():
        close_case(CaseKind.WEBHOOKS_MISSING, REFERENCE, "They arrive again: none was missing.")


def report_refusal(error: GatewayError, *, now: datetime) -> None:
    """Open a case for a list that Stripe refuses: nobody would notice what is missing."""
    open_case(
        kind=CaseKind.MISCONFIGURED,
        reference=REFERENCE,
        reason=f"Stripe refuses to list its events: {error.message}",
        deadline_at=now + CASE_DEADLINE,
    )


def _reason(sweep: WebhookSweep) -> str:
    fetched = WebhookEvent.objects.filter(
        arrived_by=Arrival.SWEEP, received_at__gte=sweep.started_at
    )
    counts = fetched.order_by("type").values_list("type").annotate(events=Count("pk"))
    types = ", ".join(f"{count:,} {type_}" for type_, count in counts)
    return (
        f"{sweep.missing_count:,} of the {sweep.listed_count:,} events Stripe made from"
        f" {sweep.since:%Y-%m-%d %H:%M} to {sweep.until:%Y-%m-%d %H:%M} UTC did not arrive and"
        f" were fetched instead: {types}. Check the endpoints at Stripe: are they enabled, do"
        " address, types and secrets agree with ours, and what did we answer?"
    )


def _arrive_again() -> bool:
    """Return whether a webhook came since the case was opened: a quiet night proves nothing."""
    case = Case.objects.filter(
        kind=CaseKind.WEBHOOKS_MISSING, reference=REFERENCE, closed_at=None
    ).first()
    return (
        case is not None
        and WebhookEvent.objects.filter(
            arrived_by=Arrival.WEBHOOK, received_at__gt=case.opened_at
        ).exists()
    )
