"""Usage that is stored and cannot be sent: who, what hour, how much, and why."""

from __future__ import annotations

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.utils import timezone

from billing.models import Meter
from usage.enums import HeldReason
from usage.models.event import FlushRun
from usage.models.replacement import Replacement


class HeldUsage(models.Model):
    """Usage of one run and cell that cannot become a submission yet. It stores no payload.

    Release folds the events of that run and cell again under today's mapping and boundaries and
    closes this row in the same transaction.
    """

    run = models.ForeignKey(FlushRun, on_delete=models.PROTECT, related_name="held")
    subject = models.TextField(db_collation="C")
    meter = models.ForeignKey(Meter, on_delete=models.PROTECT)
    window_start = models.DateTimeField(help_text="start of the UTC hour, included")
    segment_start = models.DateTimeField(help_text="start of the cell within that hour, included")
    event_count = models.PositiveIntegerField()
    quantity = models.DecimalField(
        max_digits=30, decimal_places=0, help_text="in the meter's smallest unit"
    )
    reason = models.CharField(max_length=30, choices=HeldReason)
    held_at = models.DateTimeField(default=timezone.now)
    released_at = models.DateTimeField(null=True, blank=True)
    replaces = models.ForeignKey(
        Replacement,
        on_delete=models.PROTECT,
        null=True,
        related_name="held",
        help_text="the decision this stands in for; empty for what a run folded",
    )

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "held usage"
        constraints = [
            models.UniqueConstraint(
                fields=("run", "subject", "meter", "segment_start"),
                condition=models.Q(released_at__isnull=True, replaces__isnull=True),
                name="usage_held_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=("subject",),
                condition=models.Q(released_at__isnull=True),
                name="usage_held_open",
            ),
            # Lists: what waits, and all there ever was of a customer, newest first.
            models.Index(
                fields=("id",),
                condition=models.Q(released_at__isnull=True),
                name="usage_held_waiting",
            ),
            models.Index(fields=("subject", "id"), name="usage_held_newest"),
            BrinIndex(fields=("window_start",), name="usage_held_hour_brin", autosummarize=True),
        ]

    def __str__(self) -> str:
        return f"{self.subject} {self.meter_id} {self.window_start:%Y-%m-%d %H:%M}"
