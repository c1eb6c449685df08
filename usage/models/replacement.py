"""Why a submission was taken out of the running, and what stands in its place."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from billing.models import Customer, Meter
from usage.enums import ReplacementKind


class Replacement(models.Model):
    """One decision that superseded submissions of a pair's hour. Insert-only.

    What they amounted to is in three places from then on: `credit`, which Stripe's own total was
    seen to hold; new submissions that name this row as what they replace; and held usage that
    does. The three add up to the superseded values (I4), except for the running values of a
    meter, where a newer value stands for the older one.
    """

    kind = models.CharField(max_length=10, choices=ReplacementKind)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    meter = models.ForeignKey(Meter, on_delete=models.PROTECT)
    window_start = models.DateTimeField(help_text="start of the UTC hour, included")
    superseded = models.DecimalField(
        max_digits=30, decimal_places=0, help_text="sum of the values taken out of the running"
    )
    credit = models.DecimalField(
        max_digits=30,
        decimal_places=0,
        default=0,
        help_text="how much of it Stripe's total was seen to hold",
    )
    reason = models.TextField()
    decided_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(
                fields=("customer", "meter", "window_start"), name="usage_replacement_cell"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.pk}"
