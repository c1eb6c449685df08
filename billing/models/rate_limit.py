"""How much may be asked of Stripe right now: one bucket for all workers and hosts."""

from __future__ import annotations

from django.db import models

from billing.enums import Endpoint


class RateLimit(models.Model):
    """The bucket of one limit and mode. Rate and capacity are settings, never stored here."""

    endpoint = models.CharField(max_length=20, choices=Endpoint)
    live_mode = models.BooleanField()
    millionths = models.BigIntegerField(
        help_text="millionths of a unit in the bucket at `refilled_at`; below 0 is a debt"
    )
    refilled_at = models.DateTimeField()

    class Meta:
        ordering = ("endpoint", "live_mode")
        constraints = [
            models.UniqueConstraint(
                fields=("endpoint", "live_mode"), name="billing_ratelimit_one_bucket"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.endpoint} {'live' if self.live_mode else 'test'}"
