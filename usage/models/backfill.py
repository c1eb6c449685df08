"""Late usage that a person brought in, by whom and why."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from billing.models import Source


class Backfill(models.Model):
    """One request or file of late usage that stored something. Insert-only.

    What became of its events is told by its batches, as of any other events.
    """

    source = models.ForeignKey(Source, on_delete=models.PROTECT, help_text="of its events")
    author = models.CharField(max_length=150)
    reason = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)
    batches = ArrayField(models.BigIntegerField(), help_text="ids of the batches it stored")
    event_count = models.PositiveIntegerField(help_text="events stored by it")
    duplicate_count = models.PositiveIntegerField(help_text="events that were stored before")
    conflict_count = models.PositiveIntegerField(
        help_text="events whose id was stored before with another payload"
    )
    refused_count = models.PositiveIntegerField(help_text="events refused for another reason")

    class Meta:
        ordering = ("-id",)
        constraints = [
            models.CheckConstraint(
                condition=models.Q(author__regex=r"\S", reason__regex=r"\S"),
                name="usage_backfill_explained",
            ),
        ]

    def __str__(self) -> str:
        return f"backfill {self.pk}"
