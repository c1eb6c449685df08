"""The webhook inbox: each of Stripe's events once, raw, before anything is done about it."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from billing.enums import Arrival, WebhookKind, WebhookState


class WebhookEvent(models.Model):
    """One event, delivered or listed by Stripe. The body is kept; states follow its handling."""

    stripe_event_id = models.CharField(max_length=255, unique=True)
    kind = models.CharField(max_length=10, choices=WebhookKind)
    type = models.CharField(max_length=200)
    live_mode = models.BooleanField()
    object_id = models.CharField(max_length=255, blank=True)
    body = models.TextField(
        help_text="the raw body whose signature was verified; of an event that came by sweep, its"
        " JSON from Stripe's list, which has no signature because we fetched it ourselves"
    )
    arrived_by = models.CharField(
        max_length=10,
        choices=Arrival,
        default=Arrival.WEBHOOK.value,
        help_text="sweep: its webhook had not come, and Stripe's list of events had it",
    )
    received_at = models.DateTimeField(default=timezone.now)
    state = models.CharField(
        max_length=10, choices=WebhookState, default=WebhookState.PENDING.value
    )
    attempt_count = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(default=timezone.now, null=True)
    last_error = models.TextField(blank=True)
    processed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(
                fields=("next_attempt_at",),
                condition=models.Q(state="pending"),
                name="billing_webhook_due",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.stripe_event_id}"
