"""Stripe's reports of meter events it refused after it had taken them."""

from __future__ import annotations

from django.db import models

from billing.models import Meter
from usage.enums import ReportEffect
from usage.models.submission import Submission


class ErrorReport(models.Model):
    """One report, under Stripe's own event id. Its counts are complete; it names but a few.

    What it counts is what it names of ours and of others, and the unsampled rest (I20). While that
    rest can be ours the report is open; closing it is the only change it ever sees.
    """

    stripe_event_id = models.CharField(max_length=255, unique=True)
    type = models.CharField(max_length=200)
    meter = models.ForeignKey(
        Meter, on_delete=models.PROTECT, null=True, help_text="empty where Stripe found none"
    )
    created_at = models.DateTimeField(help_text="when Stripe made it")
    received_at = models.DateTimeField(help_text="when we stored it")
    validation_start = models.DateTimeField(help_text="Stripe's clock")
    validation_end = models.DateTimeField(help_text="Stripe's clock")
    attempts_from = models.DateTimeField(
        help_text="calls begun since then may be meant; our clock, included"
    )
    attempts_until = models.DateTimeField(help_text="our clock, not included")
    summary = models.TextField(blank=True, help_text="Stripe's own sentence")
    error_count = models.PositiveIntegerField(help_text="events refused")
    named_count = models.PositiveIntegerField(help_text="submissions of ours it names")
    foreign_count = models.PositiveIntegerField(help_text="events it names that are not ours")
    unsampled_count = models.PositiveIntegerField(help_text="events it counts and does not name")
    closed_at = models.DateTimeField(null=True, blank=True)
    resolution = models.TextField(blank=True, help_text="how it was cleared up")

    class Meta:
        ordering = ("-id",)
        constraints = [
            models.CheckConstraint(
                condition=models.Q(
                    error_count=models.F("named_count")
                    + models.F("foreign_count")
                    + models.F("unsampled_count")
                ),
                name="usage_errorreport_counts_all",
            ),
        ]
        indexes = [
            models.Index(
                fields=("received_at",),
                condition=models.Q(closed_at__isnull=True),
                name="usage_errorreport_open",
            ),
        ]

    def __str__(self) -> str:
        return self.stripe_event_id


class ErrorReportType(models.Model):
    """How many events of a report were refused for one reason. Insert-only."""

    report = models.ForeignKey(ErrorReport, on_delete=models.PROTECT, related_name="types")
    code = models.CharField(max_length=200)
    error_count = models.PositiveIntegerField()
    named_count = models.PositiveIntegerField(help_text="submissions of ours it names")

    class Meta:
        ordering = ("report", "code")
        constraints = [
            models.UniqueConstraint(fields=("report", "code"), name="usage_errorreporttype_once"),
        ]

    def __str__(self) -> str:
        return self.code


class ErrorReportSample(models.Model):
    """One event a report names, and what became of it. Insert-only."""

    type = models.ForeignKey(ErrorReportType, on_delete=models.PROTECT, related_name="samples")
    identifier = models.CharField(max_length=255, help_text="as Stripe names it")
    message = models.TextField(blank=True)
    submission = models.ForeignKey(
        Submission,
        on_delete=models.PROTECT,
        null=True,
        related_name="named_by",
        help_text="empty for an event that is not ours",
    )
    effect = models.CharField(max_length=12, choices=ReportEffect)

    class Meta:
        ordering = ("type", "id")

    def __str__(self) -> str:
        return self.identifier
