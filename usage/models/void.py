"""Events taken back, by whom and why, and the submissions taken back with them."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from billing.models import Source
from usage.models.submission import Submission


class Void(models.Model):
    """Who took an event back, when and why. Insert-only, one for each void event (I21)."""

    void_event_id = models.BigIntegerField(
        unique=True, help_text="id of the event that counts with sign -1"
    )
    original_event_id = models.BigIntegerField(
        unique=True, help_text="id of the event it takes back"
    )
    # Repeated here, so that a list of voids reads none of the large table.
    source = models.ForeignKey(
        Source, on_delete=models.PROTECT, help_text="of the event it takes back"
    )
    event_id = models.TextField(
        db_collation="C", help_text="the caller's id of the event it takes back"
    )
    author = models.CharField(max_length=150)
    reason = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-id",)
        constraints = [
            models.CheckConstraint(
                condition=models.Q(author__regex=r"\S", reason__regex=r"\S"),
                name="usage_void_explained",
            ),
        ]

    def __str__(self) -> str:
        return self.event_id


class Cancellation(models.Model):
    """A negative submission that is delivered by cancelling, at Stripe, what it takes back.

    Insert-only. How far that came is told by the negative submission's own state and attempts.
    """

    submission = models.OneToOneField(
        Submission,
        on_delete=models.PROTECT,
        related_name="cancellation",
        help_text="the negative one",
    )
    original = models.OneToOneField(
        Submission,
        on_delete=models.PROTECT,
        related_name="cancelled_by",
        help_text="the one whose identifier is cancelled",
    )
    possible_until = models.DateTimeField(
        help_text="not included: from then on it is sent as a negative meter event"
    )
    author = models.CharField(max_length=150)
    reason = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"cancellation of {self.original_id}"
