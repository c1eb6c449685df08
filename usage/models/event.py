"""What callers reported: events, the batches they came in, the runs that folded them, conflicts."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.utils import timezone

from billing.models import Source


class FlushRun(models.Model):
    """One transaction that claimed batches and froze the submissions made of their events."""

    started_at = models.DateTimeField(default=timezone.now)
    batch_count = models.PositiveIntegerField()
    event_count = models.PositiveIntegerField()
    meter_versions = ArrayField(
        models.BigIntegerField(), help_text="the meter versions in force at this run"
    )

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"run {self.pk}"


class IngestBatch(models.Model):
    """One accepted request. "Not yet flushed" is `run IS NULL`, a stored state and no cursor."""

    source = models.ForeignKey(Source, on_delete=models.PROTECT, db_index=False)
    received_at = models.DateTimeField()
    event_count = models.PositiveIntegerField()
    checksum = models.BigIntegerField(
        help_text="exclusive or of the first 8 bytes of its events' digests"
    )
    run = models.ForeignKey(
        FlushRun, on_delete=models.PROTECT, null=True, blank=True, related_name="batches"
    )

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "ingest batches"
        indexes = [
            models.Index(
                fields=("id",),
                condition=models.Q(run__isnull=True),
                name="usage_batch_unflushed",
            ),
        ]

    def __str__(self) -> str:
        return f"batch {self.pk}"


class UsageEvent(models.Model):
    """One fact a client reported. Insert-only: the database refuses changes.

    Unique on (source, event_id) without the time, for ever, so a replay adds nothing. The index
    of that key is the only B-tree: `id` and `batch` grow with the heap, where a BRIN is enough,
    and an enforced foreign key would cost as much as the insert itself.
    """

    source = models.ForeignKey(
        Source, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False
    )
    event_id = models.TextField(db_collation="C", help_text="the caller's id")
    digest = models.BinaryField(
        max_length=16, help_text="of type, subject, time and data as reported; tells conflicts"
    )
    type = models.TextField(db_collation="C")
    subject = models.TextField(db_collation="C", help_text="the customer's external id")
    occurred_at = models.DateTimeField(help_text="when the use happened")
    received_at = models.DateTimeField(help_text="when we accepted it")
    data = models.JSONField()
    batch = models.ForeignKey(
        IngestBatch,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="events",
    )
    voids = models.BigIntegerField(
        null=True,
        help_text="id of the event this one takes back: it counts with sign -1; else empty",
    )

    class Meta:
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(fields=("source", "event_id"), name="usage_event_once"),
            models.UniqueConstraint(
                fields=("voids",),
                condition=models.Q(voids__isnull=False),
                name="usage_event_voided_once",
            ),
        ]
        indexes = [
            BrinIndex(fields=("id",), name="usage_event_id_brin", autosummarize=True),
            BrinIndex(fields=("batch",), name="usage_event_batch_brin", autosummarize=True),
        ]

    def __str__(self) -> str:
        return self.event_id


class EventConflict(models.Model):
    """A known event id that came again with another payload. The first payload stays."""

    source = models.ForeignKey(Source, on_delete=models.PROTECT, db_index=False)
    event_id = models.TextField(db_collation="C")
    received_at = models.DateTimeField(default=timezone.now)
    digest = models.BinaryField(max_length=16, help_text="of the refused payload")
    payload = models.JSONField(help_text="the refused payload")

    class Meta:
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(
                fields=("source", "event_id", "digest"), name="usage_conflict_once"
            ),
        ]

    def __str__(self) -> str:
        return self.event_id
