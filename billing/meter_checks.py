"""Whether Stripe's meters can take what we would send them; a meter that cannot is blocked.

A `count` meter given an hour's total would bill one unit for it, a `last` meter a fragment, and
one under another payload key nothing at all, each without an error. So a meter is compared with
Stripe's before its first send, every night, and when Stripe refuses it. Usage of a blocked meter
waits as it is: nothing is rejected, and it is sent once the meter is mended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db.models import Q

from billing import steps
from billing.cases import close_case, open_case
from billing.enums import CaseKind
from billing.gateway import catalogue as gateway
from billing.gateway import errors
from billing.gateway.names import CUSTOMER_KEY, VALUE_KEY
from billing.gateway.values import StripeMeter
from billing.models import Meter

log = structlog.get_logger(__name__)

FORMULAS = {"sum": "sum", "count": "sum", "max": "last", "unique": "last", "latest": "last"}
"""By our aggregation, the formula Stripe's meter must have: deltas add up, running values stand."""
CHECK_AGAIN = timedelta(days=1)
LOOK_AGAIN = timedelta(minutes=5)
"""How soon a blocked meter is looked at again: its usage waits for whoever mends it."""
CASE_HOURS = 24
CONNECTION_REFERENCE = "meters"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How many meters were compared, which of them are blocked, and whether Stripe answered."""

    checked_count: int = 0
    blocked: tuple[str, ...] = ()
    answered: bool = True


def check_due(now: datetime) -> CheckResult:
    """Check linked meters never checked, checked over a day ago, or blocked five minutes ago.

    Asks Stripe only when there are any, with one list. When Stripe does not answer everything
    stays as it was, and the next call tries again.
    """
    return _check(
        Meter.objects.filter(
            Q(checked_at=None)
            | Q(checked_at__lte=now - CHECK_AGAIN)
            | ~Q(blocked="") & Q(checked_at__lte=now - LOOK_AGAIN),
            stripe_meter_id__isnull=False,
        ),
        now,
    )


def check_all(now: datetime) -> CheckResult:
    """Check every linked meter, however short ago it was checked."""
    return _check(Meter.objects.filter(stripe_meter_id__isnull=False), now)


def block(meter_id: int, reason: str, now: datetime) -> None:
    """Send nothing more to a meter Stripe refused, until a check finds it mended."""
    with steps.commit("billing.meter_checks.block"):
        _write(Meter.objects.get(pk=meter_id), reason, now)


def objection(meter: Meter, at_stripe: Mapping[str, StripeMeter]) -> str:
    """Return a sentence saying why nothing may be sent to a meter, or "" when it may.

    `at_stripe` holds all meters of our key's mode by event name, the string that routes to them.
    """
    found = at_stripe.get(meter.event_name)
    if found is None:
        mode = "live" if settings.STRIPE_LIVE_MODE else "test"
        return f"Stripe has no meter for {meter.event_name} in {mode} mode."
    if found.id != meter.stripe_meter_id:
        return f"Stripe routes {meter.event_name} to {found.id}, not to {meter.stripe_meter_id}."
    formula, keys = FORMULAS[meter.aggregation], (found.customer_key, found.value_key)
    objections = {
        "is of the other mode than our key": found.is_live != settings.STRIPE_LIVE_MODE,
        "is deactivated": not found.is_active,
        f"has the formula {found.formula}; a meter of {meter.aggregation} needs {formula}": (
            found.formula != formula
        ),
        f"keeps one event of each {found.event_time_window} and drops the others": bool(
            found.event_time_window
        ),
        f"reads {' and '.join(keys)} of an event; we send {CUSTOMER_KEY} and {VALUE_KEY}": (
            keys != (CUSTOMER_KEY, VALUE_KEY)
        ),
    }
    raised = (what for what, applies in objections.items() if applies)
    return next((f"Stripe's meter {found.id} {what}." for what in raised), "")


def _check(due: Iterable[Meter], now: datetime) -> CheckResult:
    meters = list(due)
    if not meters:
        return CheckResult()
    try:
        with steps.call("billing.meter_checks.list"):
            at_stripe = gateway.meters()
    except errors.GatewayError as error:
        log.warning("billing.meters.not_checked", error=error.message)
        if isinstance(error, errors.Misconfigured):
            _report_refusal(error, now)
        return CheckResult(answered=False)
    blocked = []
    with steps.commit("billing.meter_checks.record"):
        for meter in meters:
            reason = objection(meter, at_stripe)
            _write(meter, reason, now)
            if reason:
                blocked.append(meter.slug)
        close_case(CaseKind.MISCONFIGURED, CONNECTION_REFERENCE, "Stripe has listed its meters.")
    return CheckResult(checked_count=len(meters), blocked=tuple(blocked))


def _write(meter: Meter, reason: str, now: datetime) -> None:
    Meter.objects.filter(pk=meter.pk).update(checked_at=now, blocked=reason)
    if reason:
        log.error("billing.meter.blocked", meter=meter.slug, reason=reason)
        open_case(
            kind=CaseKind.METER,
            reference=meter.slug,
            reason=f"{reason} Its usage waits.",
            deadline_at=now + timedelta(hours=CASE_HOURS),
        )
    else:
        close_case(CaseKind.METER, meter.slug, "Stripe's meter is as it should be.")


def _report_refusal(error: errors.GatewayError, now: datetime) -> None:
    # Without a check nothing is sent, so no call of delivery's would tell of the key.
    with steps.commit("billing.meter_checks.refused"):
        open_case(
            kind=CaseKind.MISCONFIGURED,
            reference=CONNECTION_REFERENCE,
            reason=f"Stripe refuses to list its meters: {error.message}",
            deadline_at=now + timedelta(hours=CASE_HOURS),
        )
