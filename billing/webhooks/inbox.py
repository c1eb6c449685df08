"""The inbox: each of Stripe's events once, handled until it is done.

Which handler a type belongs to is told by whoever runs the inbox; handlers of usage and
reconciliation are none of this package's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import IntegrityError
from django.utils import timezone

from billing import steps
from billing.cases import close_case, open_case
from billing.enums import Arrival, CaseKind, WebhookKind, WebhookState
from billing.gateway.errors import GatewayError
from billing.gateway.values import Notification, PastEvent
from billing.models import WebhookEvent

log = structlog.get_logger()

LEASE_SECONDS = 120
"""How long a claim lasts: well above the few calls of at most 25 s a handler makes."""
BACKOFF_SECONDS = 15
"""The wait after a first failure; it doubles with each one."""
BACKOFF_MOST_SECONDS = 3_600
ATTEMPTS_MOST = 32
"""A day of trying. Then a person is asked, and may have it handled again from the admin."""
CASE_DEADLINE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Received:
    """A stored event as handlers see it.

    The body says what once was; a handler asks Stripe for what is, and does the same however often
    and in whatever order it is called.
    """

    event_id: str
    kind: WebhookKind
    type: str
    object_id: str
    body: str


Handler = Callable[[Received], bool]
"""Handles an event; returns whether it concerned us."""
Routes = Mapping[str, Handler]
"""Handlers by event type. A key may end in `.*` for all types that begin like it."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """How a pass over the inbox went."""

    processed: int
    ignored: int
    failed: int


@dataclass(frozen=True, slots=True)
class _Claim:
    row_id: int
    attempt: int
    live_mode: bool
    received: Received


def record(notification: Notification, *, kind: WebhookKind, body: bytes, now: datetime) -> bool:
    """Store a verified event; return False when it had been stored before."""
    try:
        with steps.commit("billing.inbox.record"):
            WebhookEvent.objects.create(
                stripe_event_id=notification.event_id,
                kind=kind,
                type=notification.type,
                object_id=notification.object_id,
                live_mode=notification.live_mode,
                body=body.decode(),
                received_at=now,
                next_attempt_at=now,
            )
    except IntegrityError:
        return False
    return True


def record_missing(events: Iterable[PastEvent], *, kind: WebhookKind, now: datetime) -> int:
    """Store those of Stripe's listed events that never arrived; return how many there were.

    Takes part in the caller's transaction. A webhook of one that comes later changes nothing.
    """
    listed = {event.notification.event_id: event for event in events}
    stored = WebhookEvent.objects.filter(stripe_event_id__in=listed)
    for event_id in stored.values_list("stripe_event_id", flat=True):
        del listed[event_id]
    WebhookEvent.objects.bulk_create(
        [
            WebhookEvent(
                stripe_event_id=event.notification.event_id,
                kind=kind,
                type=event.notification.type,
                object_id=event.notification.object_id,
                live_mode=event.notification.live_mode,
                body=event.body,
                arrived_by=Arrival.SWEEP,
                received_at=now,
                next_attempt_at=now,
            )
            for event in listed.values()
        ],
        # Its webhook may come just now.
        ignore_conflicts=True,
    )
    return WebhookEvent.objects.filter(stripe_event_id__in=listed, arrived_by=Arrival.SWEEP).count()


def process_due(*, routes: Routes, limit: int, seconds: float) -> PassResult:
    """Handle due events, longest due first, at most `limit` and within a budget of `seconds`.

    Any number of passes may run at once: each event is claimed for a lease. A handler that fails is
    logged and tried again later, and the pass goes on.
    """
    counts = dict.fromkeys(WebhookState, 0)
    give_up_at = time.monotonic() + seconds
    for _ in range(limit):
        if time.monotonic() > give_up_at:
            break
        claim = _claim(now=timezone.now())
        if claim is None:
            break
        counts[_handle(claim, routes)] += 1
    return PassResult(
        processed=counts[WebhookState.PROCESSED],
        ignored=counts[WebhookState.IGNORED],
        failed=counts[WebhookState.PENDING] + counts[WebhookState.FAILED],
    )


def handle_again(event: WebhookEvent, *, now: datetime) -> None:
    """Have an event handled once more, whatever became of it."""
    with steps.commit("billing.inbox.handle_again"):
        WebhookEvent.objects.filter(pk=event.pk).update(
            state=WebhookState.PENDING, attempt_count=0, next_attempt_at=now, processed_at=None
        )


def handler_for(routes: Routes, event_type: str) -> Handler | None:
    """Return the handler of a type: its own, or that of the longest beginning."""
    if event_type in routes:
        return routes[event_type]
    parts = event_type.split(".")
    for length in range(len(parts) - 1, 0, -1):
        handler = routes.get(".".join(parts[:length]) + ".*")
        if handler is not None:
            return handler
    return None


def _claim(*, now: datetime) -> _Claim | None:
    with steps.commit("billing.inbox.claim"):
        event = (
            WebhookEvent.objects.select_for_update(skip_locked=True)
            .filter(state=WebhookState.PENDING, next_attempt_at__lte=now)
            .order_by("next_attempt_at", "id")
            .first()
        )
        if event is None:
            return None
        event.attempt_count += 1
        event.next_attempt_at = now + timedelta(seconds=LEASE_SECONDS)
        event.save(update_fields=["attempt_count", "next_attempt_at"])
    return _Claim(
        row_id=event.pk,
        attempt=event.attempt_count,
        live_mode=event.live_mode,
        received=Received(
            event_id=event.stripe_event_id,
            kind=WebhookKind(event.kind),
            type=event.type,
            object_id=event.object_id,
            body=event.body,
        ),
    )


def _handle(claim: _Claim, routes: Routes) -> WebhookState:
    received = claim.received
    handler = handler_for(routes, received.type)
    if handler is None or claim.live_mode != settings.STRIPE_LIVE_MODE:
        return _finish(claim, WebhookState.IGNORED)
    try:
        concerned = handler(received)
    except GatewayError as error:
        log.warning("billing.webhook.failed", webhook=received.event_id, error=error.message)
        return _fail(claim, f"{type(error).__name__}: {error.message}")
    except Exception as error:
        log.exception("billing.webhook.failed", webhook=received.event_id)
        return _fail(claim, f"{type(error).__name__}: {error}")
    return _finish(claim, WebhookState.PROCESSED if concerned else WebhookState.IGNORED)


def _finish(claim: _Claim, state: WebhookState) -> WebhookState:
    with steps.commit("billing.inbox.finish"):
        # Naming the attempt: after an overrun lease the event belongs to whoever claimed it next.
        WebhookEvent.objects.filter(
            pk=claim.row_id, state=WebhookState.PENDING, attempt_count=claim.attempt
        ).update(state=state, next_attempt_at=None, processed_at=timezone.now(), last_error="")
        close_case(CaseKind.WEBHOOK, claim.received.event_id, "It has been handled.")
    return state


def _fail(claim: _Claim, error: str) -> WebhookState:
    now = timezone.now()
    is_last = claim.attempt >= ATTEMPTS_MOST
    state = WebhookState.FAILED if is_last else WebhookState.PENDING
    backoff = min(BACKOFF_SECONDS * 2 ** min(claim.attempt - 1, 10), BACKOFF_MOST_SECONDS)
    with steps.commit("billing.inbox.fail"):
        WebhookEvent.objects.filter(
            pk=claim.row_id, state=WebhookState.PENDING, attempt_count=claim.attempt
        ).update(
            state=state,
            next_attempt_at=None if is_last else now + timedelta(seconds=backoff),
            last_error=error,
        )
        if is_last:
            open_case(
                kind=CaseKind.WEBHOOK,
                reference=claim.received.event_id,
                reason=f"{claim.received.type} failed {claim.attempt} times, at last with {error}",
                deadline_at=now + CASE_DEADLINE,
            )
    return state
