"""What we keep of Stripe's subscriptions and invoices: only the facts we decide on."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from billing.models.catalogue import Plan, Price
from billing.models.customer import Customer


class Subscription(models.Model):
    """A customer's subscription to a plan, as Stripe last told it."""

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="subscriptions")
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="subscriptions")
    stripe_subscription_id = models.CharField(max_length=255, unique=True, null=True, blank=True)
    status = models.CharField(
        max_length=30, default="creating", help_text="Stripe's word; `creating` before its answer"
    )
    billing_anchor = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="what Stripe counts its billing periods from; empty until it is next asked",
    )
    cancel_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    stripe_asked_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="when Stripe was last asked to create it; nobody else asks for a while",
    )
    mirrored_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="when Stripe was asked for what stands here; an older answer changes nothing",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("-id",)
        constraints = [
            models.UniqueConstraint(
                fields=("customer", "plan"),
                condition=~models.Q(status__in=("canceled", "incomplete_expired")),
                name="billing_subscription_one_live_per_plan",
            ),
        ]
        indexes = [
            models.Index(
                fields=("id",),
                condition=models.Q(stripe_subscription_id__isnull=True),
                name="billing_subscription_unlinked",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.customer} on {self.plan}"


class SubscriptionItem(models.Model):
    """One price of a subscription with its current period, start included, end not."""

    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="items")
    price = models.ForeignKey(Price, on_delete=models.PROTECT)
    stripe_item_id = models.CharField(max_length=255, unique=True)
    quantity = models.PositiveBigIntegerField(
        default=1, help_text="how many of a base fee; a metered price has none and stays at 1"
    )
    current_period_start = models.DateTimeField()
    current_period_end = models.DateTimeField()

    class Meta:
        ordering = ("subscription", "id")

    def __str__(self) -> str:
        return self.stripe_item_id


class ForeignItem(models.Model):
    """An item of a subscription of ours whose price is none of ours. Gone with the item."""

    subscription = models.ForeignKey(
        Subscription, on_delete=models.CASCADE, related_name="foreign_items"
    )
    stripe_item_id = models.CharField(max_length=255, unique=True)
    stripe_price_id = models.CharField(max_length=255)
    stripe_meter_id = models.CharField(
        max_length=255, blank=True, help_text="the meter it bills at Stripe; empty: none"
    )
    current_period_start = models.DateTimeField()
    current_period_end = models.DateTimeField()

    class Meta:
        ordering = ("subscription", "id")

    def __str__(self) -> str:
        return self.stripe_item_id


class ItemPrice(models.Model):
    """A price that an item of a subscription has or had, from `since` until `until`.

    Stays when the item is gone, so that what a customer paid can be told later. Stripe does not say
    when a price was put on an item: both instants are when we found it there, at the latest.
    """

    subscription = models.ForeignKey(
        Subscription, on_delete=models.CASCADE, related_name="item_prices"
    )
    stripe_item_id = models.CharField(max_length=255)
    price = models.ForeignKey(Price, on_delete=models.PROTECT, related_name="item_prices")
    since = models.DateTimeField(help_text="included")
    until = models.DateTimeField(
        null=True, blank=True, help_text="not included; empty while the item has it"
    )

    class Meta:
        ordering = ("stripe_item_id", "since", "id")
        constraints = [
            models.UniqueConstraint(
                fields=("stripe_item_id",),
                condition=models.Q(until__isnull=True),
                name="billing_itemprice_one_in_force",
            ),
            models.CheckConstraint(
                condition=models.Q(until__isnull=True) | models.Q(until__gte=models.F("since")),
                name="billing_itemprice_not_backwards",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.price} from {self.since:%Y-%m-%d %H:%M:%S}"


class PeriodBoundary(models.Model):
    """An instant at which a billing period of a customer starts or ends; cells are cut there.

    Once it is past, usage from before it may be sent only while the invoice of the period that
    ended there can still take it: `periods` learns that and keeps it here.
    """

    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="boundaries")
    at = models.DateTimeField()
    closed_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="when we learned that the invoice of the period that ended here is final",
    )
    open_until = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="until when Stripe is known to go on counting usage from before it",
    )
    asked_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="when Stripe was last asked about it"
    )
    recut_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="when what was folded before it was known was cut again; empty: not yet",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("customer", "at")
        verbose_name_plural = "period boundaries"
        constraints = [
            models.UniqueConstraint(fields=("customer", "at"), name="billing_boundary_once"),
        ]
        indexes = [
            models.Index(
                fields=("customer", "at"),
                condition=models.Q(recut_at__isnull=True),
                name="billing_boundary_not_recut",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.customer} at {self.at:%Y-%m-%d %H:%M:%S}"


class Invoice(models.Model):
    """An invoice's status as Stripe last told it."""

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="invoices")
    subscription = models.ForeignKey(
        Subscription, on_delete=models.PROTECT, null=True, blank=True, related_name="invoices"
    )
    stripe_invoice_id = models.CharField(max_length=255, unique=True)
    status = models.CharField(max_length=20)
    currency = models.CharField(max_length=3)
    total = models.BigIntegerField(help_text="in the currency's minor unit")
    period_start = models.DateTimeField(
        null=True, blank=True, help_text="start of the invoice's own period, included"
    )
    period_end = models.DateTimeField(
        null=True, blank=True, help_text="end of the invoice's own period, not included"
    )
    automatically_finalizes_at = models.DateTimeField(null=True, blank=True)
    finalized_at = models.DateTimeField(
        null=True, blank=True, help_text="when it became final; empty for a draft"
    )
    mirrored_at = models.DateTimeField(
        help_text="when Stripe was asked for what stands here; an older answer changes nothing"
    )
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return self.stripe_invoice_id
