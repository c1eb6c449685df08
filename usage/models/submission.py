"""What is sent to Stripe: submissions, where each stands, and every call made for one."""

from __future__ import annotations

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.utils import timezone

from billing.models import Customer, Meter
from usage.enums import STATE_CHOICES, Outcome, Wire
from usage.lifecycle import State
from usage.models.event import FlushRun
from usage.models.replacement import Replacement


class Submission(models.Model):
    """One Stripe meter event, frozen before the first attempt. Insert-only.

    The cell is customer x meter x hour from `window_start`, cut again at `segment_start`, the
    latest billing-period boundary inside that hour (or the hour's start).
    """

    identifier = models.CharField(max_length=100, unique=True)
    run = models.ForeignKey(FlushRun, on_delete=models.PROTECT, related_name="submissions")
    # Both indexes of a customer's submissions begin with it.
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, db_index=False)
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
    replaces = models.ForeignKey(
        Replacement,
        on_delete=models.PROTECT,
        null=True,
        related_name="replacements",
        help_text="the decision this one stands in for; empty for what a run folded",
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(
                fields=("run", "customer", "meter", "segment_start", "part"),
                condition=models.Q(replaces__isnull=True),
                name="usage_submission_once_per_run_and_cell",
            ),
        ]
        indexes = [
            models.Index(
                fields=("customer", "meter", "window_start"), name="usage_submission_cell"
            ),
            # Lists go through a customer's newest first, and look for an hour of anybody's.
            models.Index(fields=("customer", "id"), name="usage_submission_newest"),
            BrinIndex(
                fields=("window_start",), name="usage_submission_hour_brin", autosummarize=True
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
    wire = models.CharField(
        max_length=6,
        choices=Wire,
        blank=True,
        help_text="what the first attempt used and every repeat will, or the only one it may use;"
        " empty while any will do",
    )
    attempt_count = models.PositiveIntegerField(default=0)
    lease_until = models.DateTimeField(null=True, help_text="while sending: when the claim ends")
    doubt_since = models.DateTimeField(
        null=True, help_text="start of the earliest attempt whose outcome is unknown"
    )
    next_action_at = models.DateTimeField(
        null=True, default=timezone.now, help_text="empty in final states and in a person's hands"
    )
    reason = models.TextField(blank=True)
    recount = models.BooleanField(
        default=False,
        help_text="after a restore: whatever part of it Stripe's total holds is credited",
    )
    replaced_by = models.ForeignKey(
        Replacement,
        on_delete=models.PROTECT,
        null=True,
        db_index=False,
        related_name="superseded_states",
        help_text="the decision that superseded it; empty in every other state",
    )
    changed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=("customer", "meter"),
                condition=models.Q(state="sending", wire="v1"),
                name="usage_one_call_in_flight_per_pair",
            ),
        ]
        indexes = [
            models.Index(
                fields=("wire", "next_action_at", "submission"),
                condition=models.Q(state__in=("ready", "retry", "in_doubt")),
                name="usage_state_due",
            ),
            models.Index(
                fields=("replaced_by",),
                condition=models.Q(replaced_by__isnull=False),
                name="usage_state_replaced",
            ),
            models.Index(
                fields=("lease_until",),
                condition=models.Q(state="sending"),
                name="usage_state_leased",
            ),
            models.Index(
                fields=("doubt_since",),
                condition=models.Q(doubt_since__isnull=False),
                name="usage_state_doubted",
            ),
            models.Index(
                fields=("submission",),
                condition=models.Q(state="accepted"),
                name="usage_state_accepted",
            ),
            models.Index(
                fields=("customer", "meter"),
                condition=models.Q(state="unproven"),
                name="usage_state_unproven_pair",
            ),
            # Lists of what is out of the ordinary; nothing that goes well is ever in it.
            models.Index(
                fields=("submission",),
                condition=models.Q(
                    state__in=(
                        "retry",
                        "in_doubt",
                        "unproven",
                        "rejected",
                        "superseded",
                        "expired",
                        "written_off",
                    )
                ),
                name="usage_state_extraordinary",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.submission_id} {self.state}"


class Attempt(models.Model):
    """One call made for a submission. Committed before its first byte leaves."""

    # Its numbers' unique index begins with the submission. No constraint: submissions are never
    # deleted, and to look would lock, and so write, each submission's row with every attempt.
    submission = models.ForeignKey(
        Submission,
        on_delete=models.PROTECT,
        db_constraint=False,
        db_index=False,
        related_name="attempts",
    )
    number = models.PositiveIntegerField()
    wire = models.CharField(max_length=6, choices=Wire)
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
        indexes = [
            BrinIndex(fields=("started_at",), name="usage_attempt_begun", autosummarize=True),
        ]

    def __str__(self) -> str:
        return f"{self.submission_id} attempt {self.number}"
