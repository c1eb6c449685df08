"""Who is billed: one customer of ours, one customer at Stripe."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone


class Customer(models.Model):
    """A customer. Its row is committed before Stripe is asked for its twin."""

    external_id = models.CharField(
        max_length=200,
        unique=True,
        db_collation="C",
        help_text="the caller's own id; the `subject` of usage events",
    )
    email = models.EmailField(blank=True)
    name = models.CharField(max_length=200, blank=True)
    stripe_customer_id = models.CharField(
        max_length=255,
        unique=True,
        null=True,
        blank=True,
        help_text="empty until Stripe has answered; usage is held until then",
    )
    former_stripe_ids = ArrayField(
        models.CharField(max_length=255),
        default=list,
        blank=True,
        editable=False,
        help_text="whom it was tied to at Stripe before, oldest first; kept by the database",
    )
    deleted_stripe_id = models.CharField(
        max_length=255,
        blank=True,
        # Of the database, so that a process of the release before can still insert.
        db_default="",
        editable=False,
        help_text="the Stripe id that was found to be deleted there, for good; empty: none was",
    )
    stripe_asked_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="when Stripe was last asked to create it; nobody else asks for a while",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("external_id",)
        indexes = [
            models.Index(
                fields=("id",),
                condition=models.Q(stripe_customer_id__isnull=True),
                name="billing_customer_unlinked",
            ),
        ]

    def __str__(self) -> str:
        return self.external_id
