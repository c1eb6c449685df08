"""Where Stripe delivers: verify, store, commit, answer 200. Nothing is acted on here."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from billing import wakeups
from billing.enums import WebhookKind
from billing.gateway import notifications
from billing.problems import problem
from billing.webhooks import inbox

log = structlog.get_logger()


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
    limit = settings.BILLING_WEBHOOK_BODY_BYTES
    # A body without a length is not read; a chunked one was given its own before it came here.
    length = request.META.get("CONTENT_LENGTH") or "0"
    if length.isdecimal() and int(length) > limit:
        return problem(413, "Too large", f"A webhook has at most {limit} bytes.")
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
        wakeups.after_commit("billing.process_webhooks")
    return HttpResponse(status=200)
