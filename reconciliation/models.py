"""Reconciliation's tables: runs, and the cells in which the two books differ."""

from __future__ import annotations

from decimal import Decimal

from django.db import models
from django.utils import timezone

from billing.models import Customer, Meter
from reconciliation.enums import REASON_CHOICES


class ReconciliationRun(models.Model):
    """One comparison of every cell with usage in [`window_start`, `window_end`).

    The row is the run's progress: customers and meters are compared in the order of their ids, and
    the last pair done is kept, so that the next wake-up goes on behind it.
    """

    window_start = models.DateTimeField(help_text="start of a UTC hour, included")
    window_end = models.DateTimeField(help_text="start of a UTC hour, not included")
    with_unsettled = models.BooleanField(
        default=False, help_text="whether older cells are compared that are not settled yet"
    )
    only_doubtful = models.BooleanField(
        default=False,
        help_text="whether only cells are compared of which Stripe may have what we do not know of",
    )
    every_pair = models.BooleanField(
        default=False,
        help_text="whether pairs are compared, too, that are not known to have usage there",
    )
    started_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(
        null=True, blank=True, help_text="empty while it goes on, or when it was interrupted"
    )
    last_customer_id = models.BigIntegerField(
        default=0, help_text="customer of the last pair compared; 0 before the first"
    )
    last_meter_id = models.BigIntegerField(default=0, help_text="meter of the last pair compared")
    pair_count = models.PositiveIntegerField(
        default=0, help_text="customer and meter pairs compared"
    )
    cell_count = models.PositiveIntegerField(default=0)
    equal_count = models.PositiveIntegerField(default=0)
    waiting_count = models.PositiveIntegerField(
        default=0, help_text="cells still open with us or still settling at Stripe"
    )
    discrepancy_count = models.PositiveIntegerField(default=0)
    settled_count = models.PositiveIntegerField(default=0, help_text="submissions it settled")
    call_count = models.PositiveIntegerField(default=0, help_text="reads made at Stripe")
    error_count = models.PositiveIntegerField(
        default=0, help_text="pairs that could not be compared"
    )
    error = models.TextField(blank=True, help_text="the last pair's that could not be compared")

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
    ours = models.DecimalField(
        max_digits=30,
        decimal_places=0,
        help_text="what Stripe is known to have taken, in the meter's smallest unit",
    )
    stripe = models.DecimalField(
        max_digits=40, decimal_places=12, help_text="what Stripe's summary says"
    )
    reason = models.CharField(max_length=20, choices=REASON_CHOICES)
    found_at = models.DateTimeField(default=timezone.now)
    resolved_at = models.DateTimeField(
        null=True, blank=True, help_text="when a run found the cell equal again"
    )

    class Meta:
        ordering = (models.F("resolved_at").desc(nulls_first=True), "-id")
        verbose_name_plural = "discrepancies"
        constraints = [
            models.UniqueConstraint(
                fields=("customer", "meter", "window_start"),
                condition=models.Q(resolved_at__isnull=True),
                name="reconciliation_one_open_discrepancy_per_cell",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.customer}, {self.meter}, {self.window_start:%Y-%m-%d %H:%M}"

    @property
    def difference(self) -> Decimal:
        """How much more Stripe has than we expect; negative when it has less."""
        return self.stripe - self.ours
