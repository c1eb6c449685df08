"""What Stripe said it counted."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from billing.models import Customer, Meter


class Observation(models.Model):
    """What Stripe's summary said of a cell's hour, and what we expected, at one moment."""

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    meter = models.ForeignKey(Meter, on_delete=models.PROTECT)
    window_start = models.DateTimeField()
    window_end = models.DateTimeField(help_text="not included")
    expected = models.DecimalField(max_digits=30, decimal_places=0)
    observed = models.DecimalField(max_digits=40, decimal_places=12)
    observed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(
                fields=("customer", "meter", "window_start"), name="usage_observation_cell"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.observed} at {self.observed_at:%Y-%m-%d %H:%M}"
