"""Reconciliation's tables: runs, and the cells in which the two books differ."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from billing.models import Customer, Meter


class ReconciliationRun(models.Model):
    """One comparison of every cell with usage in [`window_start`, `window_end`)."""

    window_start = models.DateTimeField()
    window_end = models.DateTimeField(help_text="not included")
    started_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)
    cell_count = models.PositiveIntegerField(default=0)
    equal_count = models.PositiveIntegerField(default=0)
    waiting_count = models.PositiveIntegerField(
        default=0, help_text="cells still open with us or still settling at Stripe"
    )
    discrepancy_count = models.PositiveIntegerField(default=0)
    call_count = models.PositiveIntegerField(default=0, help_text="reads made at Stripe")
    error = models.TextField(blank=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"reconciliation {self.pk}"


class Discrepancy(models.Model):
    """An hour of a customer and meter in which Stripe's total is not ours. One open row a cell."""

    run = models.ForeignKey(
        ReconciliationRun,
        on_delete=models.PROTECT,
        related_name="discrepancies",
        help_text="the run that saw it last",
    )
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    meter = models.ForeignKey(Meter, on_delete=models.PROTECT)
    window_start = models.DateTimeField(help_text="start of the UTC hour, included")
    ours = models.DecimalField(max_digits=30, decimal_places=0)
    stripe = models.DecimalField(max_digits=40, decimal_places=12)
    found_at = models.DateTimeField(default=timezone.now)
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("resolved_at", "-id")
        verbose_name_plural = "discrepancies"
        constraints = [
            models.UniqueConstraint(
                fields=("customer", "meter", "window_start"),
                condition=models.Q(resolved_at__isnull=True),
                name="reconciliation_one_open_discrepancy_per_cell",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.customer_id} {self.meter_id} {self.window_start:%Y-%m-%d %H:%M}"
