"""Work for a person: a reason, an amount, an owner and a deadline."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone

from billing.enums import CaseKind


class Case(models.Model):
    """Something software must not decide alone. One open case per kind and reference."""

    kind = models.CharField(max_length=20, choices=CaseKind)
    reference = models.CharField(max_length=255, help_text="what it is about, as staff search it")
    reason = models.TextField()
    quantity = models.DecimalField(
        max_digits=30, decimal_places=0, null=True, blank=True, help_text="in the meter's units"
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        help_text="empty: the team on duty",
    )
    opened_at = models.DateTimeField(default=timezone.now)
    deadline_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)
    resolution = models.TextField(blank=True)

    class Meta:
        ordering = ("closed_at", "deadline_at")
        constraints = [
            models.UniqueConstraint(
                fields=("kind", "reference"),
                condition=models.Q(closed_at__isnull=True),
                name="billing_case_one_open",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.reference}"
