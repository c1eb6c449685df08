"""Where Stripe delivers: verify, store, commit, answer 200. Nothing is acted on here."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from billing import tasks
from billing.enums import WebhookKind
from billing.gateway import notifications
from billing.problems import problem
from billing.webhooks import inbox

log = structlog.get_logger()

NUDGE_EXPIRE_SECONDS = 30
"""The periodic pass comes as often; an older nudge would find nothing to do."""


@csrf_exempt
@require_POST
def snapshot(request: HttpRequest) -> HttpResponse:
    """Take an event that carries a copy of its object."""
    return _take(request, WebhookKind.SNAPSHOT, settings.STRIPE_WEBHOOK_SECRETS)


@csrf_exempt
@require_POST
def thin(request: HttpRequest) -> HttpResponse:
    """Take an event that only names what to fetch."""
    return _take(request, WebhookKind.THIN, settings.STRIPE_THIN_WEBHOOK_SECRETS)


def _take(request: HttpRequest, kind: WebhookKind, secrets: Sequence[str]) -> HttpResponse:
    now = timezone.now()
    body = request.body
    try:
        notification = notifications.verify(
            body=body,
            signature=request.headers.get("Stripe-Signature", ""),
            secrets=secrets,
            kind=kind,
            now=now,
        )
    except notifications.NotGenuine as refusal:
        log.warning("billing.webhook.refused", kind=kind.value, reason=str(refusal))
        return problem(400, "Not a genuine webhook", str(refusal))
    if inbox.record(notification, kind=kind, body=body, now=now):
        _nudge()
    return HttpResponse(status=200)


def _nudge() -> None:
    """Wake a worker. The event is stored already, so a silent broker costs seconds and no event."""
    try:
        tasks.process_webhooks.apply_async(retry=False, expires=NUDGE_EXPIRE_SECONDS)
    except Exception as error:  # noqa: BLE001 - whatever the broker's trouble is, Stripe gets its 200
        log.warning("billing.webhook.nudge_failed", error=str(error))
