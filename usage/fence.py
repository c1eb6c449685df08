"""The dispatch fence: nothing is sent from a database that may have forgotten what it sent.

Deployment, mode, cluster and timeline are stored when sending begins. When one of them differs, or
the row is gone while calls are on record, sending stops by itself; taking usage in goes on. Only
`lift`, with a reason and a name, lets it go on. A copy of the disk that comes back as the same
cluster on the same timeline shows no difference: whoever restores one calls `close` first.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import connection

from billing import cases, steps
from billing.enums import Aggregation, CaseKind
from usage import flush, holding
from usage.lifecycle import State
from usage.models import Attempt, Fence, SubmissionState

log = structlog.get_logger(__name__)

REFERENCE = "sending"
CASE_HOURS = 4
"""Every hour of waiting is usage that gets nearer to the end of its period."""
RECOUNT_HOURS = 36
"""How long after the last call that may have been forgotten Stripe's total is sure to show it."""
ADDITIVE = (Aggregation.SUM, Aggregation.COUNT)
"""Meters whose submissions add up at Stripe. A running value is told anew, under a later second."""


class NotLifted(Exception):
    """The quarantine stays: something about the request to lift it is missing or wrong."""


FORGOTTEN = (State.READY, State.RETRY, State.IN_DOUBT, State.ACCEPTED, State.UNPROVEN)
"""States in which a submission may have been sent, or be believed, by calls that are forgotten."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What this process is and which database it writes to."""

    deployment: str
    live_mode: bool
    cluster: str
    timeline: str


@dataclass(frozen=True, slots=True)
class Lift:
    """What lifting did: runs flushed, held rows released, submissions left to Stripe's total."""

    flushed_runs: int
    released_rows: int
    unproven_count: int


@dataclass(frozen=True, slots=True)
class Loss:
    """Calls begun after `since` are forgotten; Stripe's totals have them by `countable_from`."""

    since: datetime
    countable_from: datetime


def identity() -> Identity:
    """Return who we are now; the cluster and timeline as the server itself tells them."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8)"
            " FROM pg_control_system()"
        )
        cluster, timeline = cursor.fetchone()
    return Identity(settings.DEPLOYMENT, settings.STRIPE_LIVE_MODE, str(cluster), timeline)


def is_open() -> bool:
    """Return whether sending is allowed. Asked inside the transaction that claims (I22)."""
    return Fence.objects.filter(quarantined_at=None, **asdict(identity())).exists()


def inspect(now: datetime) -> bool:
    """Record the fence before the very first call, or stop sending; return whether it is allowed.

    Stopping writes the quarantine and opens a case. A repetition brings the case up to date, and
    opens a new one if somebody closed it while sending still stands.
    """
    here = identity()
    stored = Fence.objects.first()
    if stored is not None and stored.quarantined_at is None and not _differences(stored, here):
        return True
    if stored is None and not Attempt.objects.exists():
        with steps.commit("usage.fence.first"):
            # Another worker may be first; what it wrote is compared at the next look.
            Fence.objects.bulk_create(
                [_fence(here, now=now, reason="the first call of this database")],
                ignore_conflicts=True,
            )
        return is_open()
    if stored is None:
        reason = "Calls are on record, but not which database made them."
    else:
        reason = stored.quarantine_reason or " ".join(_differences(stored, here))
    close(reason=reason, now=now)
    return False


def close(*, reason: str, now: datetime) -> None:
    """Stop sending, with a case. Closed already, it keeps the instant and the reason it has."""
    with steps.commit("usage.fence.quarantine"):
        Fence.objects.bulk_create(
            [_fence(identity(), now=now, reason="sending was stopped before it began")],
            ignore_conflicts=True,
        )
        if Fence.objects.filter(quarantined_at=None).update(
            quarantined_at=now, quarantine_reason=reason
        ):
            log.error("usage.fence.closed", reason=reason)
        cases.open_case(
            kind=CaseKind.QUARANTINE,
            reference=REFERENCE,
            reason=f"{reason.rstrip(' .')}. Nothing is sent until `manage.py lift_quarantine`.",
            deadline_at=now + timedelta(hours=CASE_HOURS),
        )


def loss() -> Loss | None:
    """Return the loss that was admitted when the quarantine was lifted last; None if nothing was.

    None, too, while sending is stopped: the next lift says anew what is missing.
    """
    stored = Fence.objects.filter(quarantined_at=None, lost_since__isnull=False).first()
    if stored is None or stored.lost_since is None:
        return None
    return Loss(stored.lost_since, stored.recorded_at + timedelta(hours=RECOUNT_HOURS))


def lift(*, reason: str, by: str, lost_since: datetime | None, now: datetime) -> Lift:
    """Let this deployment send from this database again, and record who decided so and why.

    `lost_since` is the instant the database was brought back to; None says that nothing it ever
    committed is missing. With a loss, all that waits is flushed and released first, so that it is
    submissions, and none that is not final is believed any more: each is UNPROVEN, to be counted
    anew, so that Stripe's total decides once the last call that may be forgotten shows in it.
    Moving them and recording the fence is one transaction: a crash before it leaves the fence
    closed, and a repetition starts over.

    Raises:
        NotLifted: a name or a reason is missing, or the loss lies in the future.
    """
    if not reason.strip() or not by.strip():
        raise NotLifted("A quarantine is lifted by somebody, for a reason: give both.")
    if lost_since is not None and lost_since > now:
        raise NotLifted("Nothing can be missing from an instant that is still to come.")
    flushed = released = unproven = 0
    if lost_since is not None:
        flushed = sum(1 for _ in flush.flush_waiting(clock=lambda: now, seconds=float("inf")))
        released = holding.release_waiting(clock=lambda: now, seconds=float("inf"))
    with steps.commit("usage.fence.lift"):
        if lost_since is not None:
            with connection.cursor() as cursor:
                # A long outage's rows at once: half of them believed would be worse than slow.
                cursor.execute("SET LOCAL statement_timeout = 0")
            unproven = _doubt_everything(now)
        _fence(
            identity(), now=now, reason=reason.strip(), by=by.strip(), lost_since=lost_since
        ).save()
        cases.close_case(CaseKind.QUARANTINE, REFERENCE, f"{by.strip()}: {reason.strip()}")
    log.warning("usage.fence.lifted", by=by, reason=reason, unproven=unproven)
    return Lift(flushed, released, unproven)


def _doubt_everything(now: datetime) -> int:
    """Leave every submission that is not final to Stripe's total; return how many.

    Not only those written or tried since the loss: an older one may have been tried in the time
    that is missing. `doubt_since` becomes `now`, because the calls that count from there on are
    the forgotten ones, whatever else is on record. Running values are not left to a total: each
    is superseded by the present one at the next upkeep, since its identifier may be used up.
    """
    additive = SubmissionState.objects.filter(meter__aggregation__in=ADDITIVE)
    running = SubmissionState.objects.exclude(meter__aggregation__in=ADDITIVE)
    doubted = {
        "recount": True,
        "doubt_since": now,
        "lease_until": None,
        "next_action_at": now + timedelta(hours=RECOUNT_HOURS),
        "reason": "the database was restored; Stripe's total tells whether it was counted",
        "changed_at": now,
    }
    anew = doubted | {
        "recount": False,
        "next_action_at": now,
        "reason": "the database was restored; the present value is sent in its place",
    }
    counts = []
    for standings, changes in ((additive, doubted), (running, anew)):
        # A worker that still holds a claim finds it gone and writes nothing.
        standings.filter(state=State.SENDING).update(state=State.IN_DOUBT, **changes)
        # What was unproven already may have been decided, and replaced, in the time missing.
        forgotten = standings.filter(state__in=FORGOTTEN)
        counts.append(forgotten.update(state=State.UNPROVEN, **changes))
    return counts[0]


def _fence(
    here: Identity,
    *,
    now: datetime,
    reason: str,
    by: str = "",
    lost_since: datetime | None = None,
) -> Fence:
    return Fence(
        pk=1,
        recorded_at=now,
        recorded_by=by,
        reason=reason,
        lost_since=lost_since,
        **asdict(here),
    )


def _differences(stored: Fence, here: Identity) -> list[str]:
    """Say in a sentence each what is not as it was when sending was last allowed."""
    return [
        f"The {name.replace('_', ' ')} is {value} and was {was}."
        for name, value in asdict(here).items()
        if (was := getattr(stored, name)) != value
    ]
