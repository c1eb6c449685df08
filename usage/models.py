"""Usage's tables: facts that are only inserted, and the small rows that move."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.utils import timezone

from billing.models import Customer, Meter, Source
from usage.enums import STATE_CHOICES, HeldReason, Outcome
from usage.lifecycle import State


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

    class Meta:
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(fields=("source", "event_id"), name="usage_event_once"),
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


class Submission(models.Model):
    """One Stripe meter event, frozen before the first attempt. Insert-only.

    The cell is customer x meter x hour from `window_start`, cut again at `segment_start`, the
    latest billing-period boundary inside that hour (or the hour's start).
    """

    identifier = models.CharField(max_length=100, unique=True)
    run = models.ForeignKey(FlushRun, on_delete=models.PROTECT, related_name="submissions")
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    meter = models.ForeignKey(Meter, on_delete=models.PROTECT)
    window_start = models.DateTimeField(help_text="start of the UTC hour, included")
    segment_start = models.DateTimeField(help_text="start of the cell within that hour, included")
    part = models.PositiveIntegerField(
        default=0, help_text="a total beyond 15 digits is split into parts"
    )
    event_count = models.PositiveIntegerField()
    value = models.DecimalField(
        max_digits=15, decimal_places=0, help_text="in the meter's smallest unit"
    )
    timestamp = models.DateTimeField(
        help_text="the latest `occurred_at` among its events, in whole seconds"
    )
    stripe_customer_id = models.CharField(max_length=255)
    event_name = models.CharField(max_length=100)
    payload = models.TextField(help_text="the request as sent, in JSON")
    payload_hash = models.CharField(max_length=64, help_text="SHA-256 of `payload`")
    live_mode = models.BooleanField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(
                fields=("run", "customer", "meter", "segment_start", "part"),
                name="usage_submission_once_per_run_and_cell",
            ),
        ]
        indexes = [
            models.Index(
                fields=("customer", "meter", "window_start"), name="usage_submission_cell"
            ),
        ]

    def __str__(self) -> str:
        return self.identifier


class SubmissionState(models.Model):
    """Where a submission stands: the small row that moves, by the moves of `lifecycle` only."""

    submission = models.OneToOneField(
        Submission, on_delete=models.PROTECT, primary_key=True, related_name="standing"
    )
    # The pair is repeated here so that one index can hold "one call in flight per pair".
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, db_index=False)
    meter = models.ForeignKey(Meter, on_delete=models.PROTECT, db_index=False)
    state = models.CharField(max_length=12, choices=STATE_CHOICES, default=State.READY.value)
    attempt_count = models.PositiveIntegerField(default=0)
    lease_until = models.DateTimeField(null=True, help_text="while sending: when the claim ends")
    doubt_since = models.DateTimeField(
        null=True, help_text="start of the earliest attempt whose outcome is unknown"
    )
    next_action_at = models.DateTimeField(
        null=True, default=timezone.now, help_text="empty in final states and in a person's hands"
    )
    reason = models.TextField(blank=True)
    changed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=("customer", "meter"),
                condition=models.Q(state="sending"),
                name="usage_one_call_in_flight_per_pair",
            ),
        ]
        indexes = [
            models.Index(
                fields=("next_action_at",),
                condition=models.Q(state__in=("ready", "retry", "in_doubt", "sending")),
                name="usage_state_due",
            ),
            models.Index(
                fields=("customer", "meter"),
                condition=~models.Q(state__in=("settled", "superseded", "written_off")),
                name="usage_state_open_pair",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.submission_id} {self.state}"


class Attempt(models.Model):
    """One call made for a submission. Committed before its first byte leaves."""

    submission = models.ForeignKey(Submission, on_delete=models.PROTECT, related_name="attempts")
    number = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=12, choices=Outcome, null=True)  # noqa: DJ001 - NULL is a fact: no outcome known
    http_status = models.PositiveSmallIntegerField("HTTP status", null=True)
    code = models.CharField(max_length=100, blank=True)
    message = models.TextField(blank=True)
    request_id = models.CharField(max_length=100, blank=True)

    class Meta:
        ordering = ("submission", "number")
        constraints = [
            models.UniqueConstraint(fields=("submission", "number"), name="usage_attempt_once"),
        ]

    def __str__(self) -> str:
        return f"{self.submission_id} attempt {self.number}"


class HeldUsage(models.Model):
    """Usage of one run and cell that cannot become a submission yet. It stores no payload.

    Release folds the events of that run and cell again under today's mapping and boundaries and
    closes this row in the same transaction.
    """

    run = models.ForeignKey(FlushRun, on_delete=models.PROTECT, related_name="held")
    subject = models.TextField(db_collation="C")
    meter = models.ForeignKey(Meter, on_delete=models.PROTECT)
    window_start = models.DateTimeField()
    event_count = models.PositiveIntegerField()
    reason = models.CharField(max_length=30, choices=HeldReason)
    held_at = models.DateTimeField(default=timezone.now)
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "held usage"
        constraints = [
            models.UniqueConstraint(
                fields=("run", "subject", "meter", "window_start"),
                condition=models.Q(released_at__isnull=True),
                name="usage_held_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=("subject",),
                condition=models.Q(released_at__isnull=True),
                name="usage_held_open",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.subject} {self.meter_id} {self.window_start:%Y-%m-%d %H:%M}"


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
