"""How far a sweep over Stripe's list of events has come."""

from __future__ import annotations

from django.db import models


class WebhookSweep(models.Model):
    """One pass over all events made in [`since`, `until`) whose types we handle."""

    live_mode = models.BooleanField()
    since = models.DateTimeField()
    until = models.DateTimeField()
    query = models.CharField(
        max_length=200,
        blank=True,
        help_text="the type being listed; those before it in the alphabet are done",
    )
    cursor = models.TextField(blank=True, help_text="where the next page of that type begins")
    listed_count = models.PositiveIntegerField(default=0, help_text="events Stripe listed")
    missing_count = models.PositiveIntegerField(
        default=0, help_text="of them, those whose webhook had not come"
    )
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    last_error = models.TextField(blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(
                fields=("live_mode",),
                condition=models.Q(finished_at__isnull=True),
                name="billing_webhooksweep_one_under_way",
            ),
        ]

    def __str__(self) -> str:
        return f"events since {self.since:%Y-%m-%d %H:%M}"
