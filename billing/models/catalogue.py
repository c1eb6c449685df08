"""What is metered and what it costs: meters, their definitions over time, plans and prices."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from billing.enums import Aggregation, PriceKind


class Meter(models.Model):
    """One quantity billed at Stripe. Aggregation and event name never change."""

    slug = models.SlugField(max_length=50, unique=True)
    display_name = models.CharField(max_length=250)
    event_name = models.CharField(
        max_length=100, unique=True, help_text="the string that routes to the meter at Stripe"
    )
    aggregation = models.CharField(max_length=10, choices=Aggregation)
    unit = models.CharField(max_length=30, help_text="the word for one unit, such as token")
    scale = models.PositiveSmallIntegerField(
        default=0, help_text="decimals of the unit; Stripe is sent whole numbers of 10^-scale"
    )
    stripe_meter_id = models.CharField(
        max_length=255,
        unique=True,
        null=True,
        blank=True,
        help_text="empty until synced; usage is held until then",
    )
    checked_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="when it was last compared with Stripe's; empty: never, so nothing is sent to it",
    )
    blocked = models.TextField(
        blank=True, help_text="why nothing is sent to it; its submissions wait meanwhile"
    )

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.slug


class MeterVersion(models.Model):
    """How a meter reads events, for `occurred_at` from `effective_from` until `effective_until`.

    A flush run records the versions it used, and recorded totals are computed with those.
    """

    meter = models.ForeignKey(Meter, on_delete=models.PROTECT, related_name="versions")
    event_type = models.CharField(max_length=200, db_collation="C")
    value_property = models.CharField(
        max_length=100, blank=True, help_text="the key of `data` that is read; empty for count"
    )
    required = models.BooleanField(
        default=True, help_text="whether an event without the property is refused"
    )
    measures = ArrayField(
        models.CharField(max_length=100),
        help_text="the kinds of usage counted; meters of one plan must not share any",
    )
    effective_from = models.DateTimeField(help_text="included")
    effective_until = models.DateTimeField(null=True, blank=True, help_text="not included")

    class Meta:
        ordering = ("meter", "effective_from")
        constraints = [
            models.UniqueConstraint(
                fields=("meter",),
                condition=models.Q(effective_until__isnull=True),
                name="billing_meterversion_one_in_force",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.meter} from {self.effective_from:%Y-%m-%d %H:%M}"


class Plan(models.Model):
    """A set of prices a customer subscribes to."""

    slug = models.SlugField(max_length=50, unique=True)
    name = models.CharField(max_length=200)
    active = models.BooleanField(default=True, help_text="whether new subscriptions may use it")

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.slug


class Price(models.Model):
    """One price of a plan. A changed price is a new row; the lookup key moves to it."""

    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="prices")
    lookup_key = models.CharField(max_length=200)
    name = models.CharField(max_length=200, help_text="what an invoice line is called")
    kind = models.CharField(max_length=10, choices=PriceKind)
    meter = models.ForeignKey(
        Meter, on_delete=models.PROTECT, null=True, blank=True, related_name="prices"
    )
    currency = models.CharField(max_length=3)
    interval = models.CharField(max_length=5)
    rule = models.JSONField(
        help_text="Stripe's price rule: unit_amount_decimal, or with transform_quantity, or tiers"
    )
    stripe_price_id = models.CharField(max_length=255, unique=True)
    stripe_product_id = models.CharField(max_length=255)
    active = models.BooleanField(default=True)

    class Meta:
        ordering = ("plan", "lookup_key", "-id")
        constraints = [
            models.UniqueConstraint(
                fields=("lookup_key",),
                condition=models.Q(active=True),
                name="billing_price_one_active_per_lookup_key",
            ),
            models.CheckConstraint(
                condition=models.Q(kind="metered", meter__isnull=False)
                | models.Q(kind="base", meter__isnull=True),
                name="billing_price_metered_has_meter",
            ),
        ]

    def __str__(self) -> str:
        return self.lookup_key
