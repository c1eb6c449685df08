"""Who may call us: sources of events and the keys that speak for them."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from billing.enums import Scope


class Source(models.Model):
    """A producer of events. Event ids are unique within it; it comes from the key alone."""

    name = models.CharField(max_length=100, unique=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class ApiKey(models.Model):
    """A caller's key: 256 random bits of which only the hash is kept."""

    source = models.ForeignKey(Source, on_delete=models.PROTECT, related_name="keys")
    prefix = models.CharField(max_length=12, unique=True, help_text="the part that may be shown")
    secret_hash = models.BinaryField(max_length=32, help_text="SHA-256 of the whole key")
    scopes = ArrayField(models.CharField(max_length=10, choices=Scope))
    customers = ArrayField(
        models.CharField(max_length=200),
        null=True,
        blank=True,
        help_text="external ids of the only customers it may report, read or change; empty: all",
    )
    events_per_minute = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="how many events it may report in a minute; empty: any number",
    )
    units_per_minute = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        help_text="how many units all values of these events may come to; empty: any number",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        verbose_name = "API key"
        constraints = [
            # An empty list would be read as no limit by the one and as nobody by the other.
            models.CheckConstraint(
                condition=models.Q(customers=None) | models.Q(customers__len__gt=0),
                name="billing_apikey_customers_named",
            ),
            models.CheckConstraint(
                condition=(
                    (models.Q(events_per_minute=None) | models.Q(events_per_minute__gt=0))
                    & (models.Q(units_per_minute=None) | models.Q(units_per_minute__gt=0))
                ),
                name="billing_apikey_limits_positive",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.prefix}… of {self.source}"


class KeySpending(models.Model):
    """What a key with a limit has reported in the last minute in which it did. One row a key."""

    key_prefix = models.CharField(max_length=12, unique=True)
    minute = models.DateTimeField(help_text="start of the UTC minute")
    event_count = models.PositiveBigIntegerField()
    units = models.DecimalField(max_digits=40, decimal_places=15)

    class Meta:
        verbose_name_plural = "key spending"

    def __str__(self) -> str:
        return f"{self.key_prefix} at {self.minute:%Y-%m-%d %H:%M}"
