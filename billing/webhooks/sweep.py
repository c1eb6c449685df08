"""The nightly sweep: events that Stripe lists and whose webhooks never came go into the inbox.

So an outage of our endpoint repairs itself, however long it was within Stripe's thirty days. An
event is stored under its own id, as its webhook would be; what is done about it asks Stripe for
the present state anyway. Progress is a row: a sweep goes on from its last whole page, whoever
was interrupted, and of two passes at once each page counts for one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog
from django.conf import settings
from django.db.models import F, QuerySet

from billing import rate_limits, steps, wakeups
from billing.clock import Clock
from billing.enums import Endpoint, WebhookKind
from billing.gateway import events
from billing.gateway.errors import GatewayError, Misconfigured, Rejected
from billing.gateway.values import EventPage
from billing.models import WebhookSweep
from billing.webhooks import inbox, outage
from billing.webhooks.inbox import Routes

log = structlog.get_logger(__name__)

UNDER_WAY = timedelta(minutes=10)
"""Events younger than this are left alone: their webhooks may still be coming."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """How far a pass came. It `may_go_on` when only its time was up."""

    sweep_id: int | None = None
    listed: int = 0
    missing: int = 0
    is_finished: bool = True
    may_go_on: bool = False
    error: str = ""


@dataclass(slots=True)
class _Pass:
    """One pass at a sweep, whose row is as this pass last saw it."""

    row: WebhookSweep
    queries: Sequence[str]
    clock: Clock
    listed: int = 0
    missing: int = 0
    is_overtaken: bool = False
    error: GatewayError | None = None
    begun_again: set[str] = field(default_factory=set)

    @property
    def is_over(self) -> bool:
        return self.is_overtaken or self.error is not None or self.row.finished_at is not None


def queries(routes: Routes) -> Sequence[str]:
    """Return what Stripe is asked to list: the routes' types, in order.

    A thin type whose change has a routed snapshot event, too, is left out. Stripe lists both, and
    of the one to which no endpoint listens none ever arrives.
    """
    return sorted(
        key
        for key in routes
        if kind_of(key) is WebhookKind.SNAPSHOT
        or inbox.handler_for(routes, key.partition(".")[2]) is None
    )


def kind_of(type_: str) -> WebhookKind:
    """Return how events of a type are told: thin types begin with their version."""
    return WebhookKind.THIN if type_.startswith(("v1.", "v2.")) else WebhookKind.SNAPSHOT


def sweep_nightly(*, routes: Routes, clock: Clock, seconds: float) -> PassResult:
    """Go on with the sweep under way, or begin today's, for about `seconds`.

    One begins on each UTC day; a night that was missed is made up for at the next call.
    """
    midnight = clock().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    under_way = _of_this_mode().filter(finished_at=None).exists()
    if not under_way and _of_this_mode().filter(started_at__gte=midnight).exists():
        return PassResult()
    return sweep(routes=routes, clock=clock, seconds=seconds)


def sweep(
    *, routes: Routes, clock: Clock, seconds: float, since: datetime | None = None
) -> PassResult:
    """Go on with the sweep under way, or begin one, for about `seconds`.

    It lists the days of `BILLING_WEBHOOK_SWEEP_DAYS`, what no sweep has seen before them, and all
    from `since` on; one under way that does not reach as far begins anew. Stripe has no more than
    thirty days.
    """
    under_way = _Pass(row=_begun(since=since, now=clock()), queries=queries(routes), clock=clock)
    give_up_at = time.monotonic() + seconds
    while not under_way.is_over and _may_read(give_up_at, clock):
        _go_on(under_way)
    if under_way.error is not None:
        _fail(under_way.row, under_way.error, now=clock())
    return PassResult(
        sweep_id=under_way.row.pk,
        listed=under_way.listed,
        missing=under_way.missing,
        is_finished=under_way.row.finished_at is not None,
        may_go_on=not under_way.is_over,
        error="" if under_way.error is None else under_way.error.message,
    )


def _of_this_mode() -> QuerySet[WebhookSweep]:
    return WebhookSweep.objects.filter(live_mode=settings.STRIPE_LIVE_MODE)


def _begun(*, since: datetime | None, now: datetime) -> WebhookSweep:
    """Return the sweep under way, or a new one."""
    until = (now - UNDER_WAY).replace(microsecond=0)
    with steps.commit("billing.webhook_sweep.begin"):
        wanted = _since(since, until=until, now=now)
        row, created = WebhookSweep.objects.select_for_update().get_or_create(
            live_mode=settings.STRIPE_LIVE_MODE,
            finished_at=None,
            defaults={"since": wanted, "until": until, "started_at": now},
        )
        if not created and since is not None and wanted < row.since:
            row.since, row.until, row.query, row.cursor = wanted, until, "", ""
            row.save(update_fields=["since", "until", "query", "cursor"])
    return row


def _since(asked: datetime | None, *, until: datetime, now: datetime) -> datetime:
    """Return from when on to list: as far back as anybody has a reason to, within what is kept."""
    reasons = [until - timedelta(days=settings.BILLING_WEBHOOK_SWEEP_DAYS)]
    if asked is not None:
        reasons.append(asked)
    last = _of_this_mode().exclude(finished_at=None).order_by("-until").first()
    if last is not None:
        reasons.append(last.until)
    return max(min(reasons), now - events.KEPT).replace(microsecond=0)


def _may_read(give_up_at: float, clock: Clock) -> bool:
    """Wait for one read below Stripe's limits; return False when the time is up before."""
    while (left := give_up_at - time.monotonic()) > 0:
        if rate_limits.take(Endpoint.READS, want=1, now=clock()):
            return True
        time.sleep(min(left, rate_limits.wait_seconds(Endpoint.READS, now=clock())))
    return False


def _go_on(under_way: _Pass) -> None:
    """List one page and record it."""
    row = under_way.row
    # The type begun, or the one behind it if nobody handles that any more.
    query = next((each for each in under_way.queries if each >= row.query), "")
    if not query:
        _record(under_way, "", EventPage((), ""), next_query="")
        return
    after = row.cursor if query == row.query else ""
    try:
        with steps.call("billing.webhook_sweep.list"):
            page = events.page(
                kind=kind_of(query), type_=query, since=row.since, until=row.until, after=after
            )
    except GatewayError as error:
        if isinstance(error, Rejected) and after and query not in under_way.begun_again:
            # What the page was to follow may be forgotten by now.
            under_way.begun_again.add(query)
            _record(under_way, query, EventPage((), ""), next_query=query)
        else:
            under_way.error = error
        return
    later = next((each for each in under_way.queries if each > query), "")
    _record(under_way, query, page, next_query=query if page.next else later)


def _record(under_way: _Pass, query: str, page: EventPage, *, next_query: str) -> None:
    """Store what is missing of a page and move on, unless another pass already has."""
    row, now = under_way.row, under_way.clock()
    with steps.commit("billing.webhook_sweep.record"):
        moved = WebhookSweep.objects.filter(
            pk=row.pk, finished_at=None, since=row.since, query=row.query, cursor=row.cursor
        ).update(
            query=next_query,
            cursor=page.next,
            listed_count=F("listed_count") + len(page.events),
            finished_at=None if next_query else now,
            last_error="",
        )
        if not moved:
            under_way.is_overtaken = True
            return
        missing = inbox.record_missing(page.events, kind=kind_of(query), now=now)
        if missing:
            WebhookSweep.objects.filter(pk=row.pk).update(
                missing_count=F("missing_count") + missing
            )
            wakeups.after_commit("billing.process_webhooks")
        row.refresh_from_db()
        if row.finished_at is not None:
            outage.judge(row, now=now)
    under_way.listed += len(page.events)
    under_way.missing += missing


def _fail(row: WebhookSweep, error: GatewayError, *, now: datetime) -> None:
    log.warning("billing.webhook_sweep.failed", sweep=row.pk, error=error.message)
    with steps.commit("billing.webhook_sweep.fail"):
        WebhookSweep.objects.filter(pk=row.pk, finished_at=None).update(last_error=error.message)
        if isinstance(error, Misconfigured | Rejected):
            outage.report_refusal(error, now=now)
