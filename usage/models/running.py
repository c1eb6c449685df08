"""Running values: what a billing period of a customer and meter has come to so far."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from billing.models import Customer, Meter


class RunningValue(models.Model):
    """The value of a max, unique or latest meter in one billing period of a customer.

    The period is half-open, from the customer's boundary `period_start` (or the epoch, before the
    first) until the next one. The value moves with each flush; what Stripe is told of it are
    submissions. A stale row is counted again from the events.
    """

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, db_index=False)
    meter = models.ForeignKey(Meter, on_delete=models.PROTECT, db_index=False)
    period_start = models.DateTimeField(help_text="included; the epoch before the first boundary")
    value = models.DecimalField(
        max_digits=15,
        decimal_places=0,
        default=0,
        help_text="in the meter's smallest unit; 0 without events",
    )
    latest_at = models.DateTimeField(
        null=True, help_text="`occurred_at` of its latest event; empty without events"
    )
    latest_event_id = models.BigIntegerField(
        null=True, help_text="id of that event, which decides among those of one instant"
    )
    reached_at = models.DateTimeField(
        null=True, help_text="the latest instant that an event or submission of it has"
    )
    stale = models.BooleanField(
        default=False, help_text="to be counted again: an event was taken back, or the period cut"
    )
    changed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("customer", "meter", "period_start")
        constraints = [
            models.UniqueConstraint(
                fields=("customer", "meter", "period_start"), name="usage_running_once"
            ),
        ]
        indexes = [
            models.Index(
                fields=("id",), condition=models.Q(stale=True), name="usage_running_stale"
            ),
        ]

    def __str__(self) -> str:
        return (
            f"{self.customer_id} {self.meter_id} {self.period_start:%Y-%m-%d %H:%M}: {self.value}"
        )


class RunningName(models.Model):
    """One of the different ones a unique meter has counted in a period."""

    pk = models.CompositePrimaryKey("running_id", "digest")
    running = models.ForeignKey(
        RunningValue, on_delete=models.CASCADE, related_name="names", db_index=False
    )
    digest = models.BinaryField(max_length=16, help_text="of the name's text")

    def __str__(self) -> str:
        return f"{self.running_id} {bytes(self.digest).hex()}"
