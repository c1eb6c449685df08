"""Billing in the admin: what staff may make goes through the operations, the rest is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe
from django.utils.timesince import timesince, timeuntil
from unfold.decorators import action, display
from unfold.paginator import InfinitePaginator
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextInputWidget

from billing import authentication, cases
from billing.admin_base import (
    CASE_LINKS,
    CUSTOMER_FIGURES,
    Admin,
    OperationAdmin,
    ReadOnlyAdmin,
    ReadOnlyInline,
)
from billing.catalogue.amounts import minor, text
from billing.customers import CustomerConflict, CustomerRefused, create_customer
from billing.enums import Arrival, CaseKind, Scope, WebhookState
from billing.models import (
    ApiKey,
    Case,
    Customer,
    Invoice,
    ItemPrice,
    Meter,
    MeterVersion,
    PeriodBoundary,
    Plan,
    Price,
    Source,
    Subscription,
    SubscriptionItem,
    WebhookEvent,
    WebhookSweep,
)
from billing.subscriptions import SubscriptionPending, SubscriptionRefused, subscribe
from billing.webhooks import inbox

STATUS_COLOURS = {
    "creating": "info",
    "incomplete": "warning",
    "trialing": "info",
    "active": "success",
    "past_due": "warning",
    "unpaid": "danger",
    "paused": "warning",
    "canceled": "default",
    "incomplete_expired": "default",
    "draft": "info",
    "open": "warning",
    "paid": "success",
    "void": "default",
    "uncollectible": "danger",
    "deleted": "default",
}
WEBHOOK_COLOURS = {
    WebhookState.PENDING: "info",
    WebhookState.PROCESSED: "success",
    WebhookState.IGNORED: "default",
    WebhookState.FAILED: "danger",
}
ARRIVAL_COLOURS = {"webhook": "default", "sweep": "info"}
LINK = '<a href="{}" class="text-primary-600 dark:text-primary-500">{}</a>'


# --- customers ------------------------------------------------------------------------------------


class SubscriptionInline(ReadOnlyInline):
    model = Subscription
    fields = ("plan", "status", "stripe_subscription_id", "cancel_at", "ended_at")
    show_change_link = True


class BoundaryInline(ReadOnlyInline):
    model = PeriodBoundary
    fields = ("at",)


@admin.register(Customer)
class CustomerAdmin(OperationAdmin):
    """Customers, created here and at Stripe in one go."""

    add_fields = ("external_id", "email", "name")
    refusals = (CustomerConflict, CustomerRefused)
    list_display = ("external_id", "name", "email", "stripe_customer_id", "at_stripe", "created_at")
    list_filter = (("stripe_customer_id", admin.EmptyFieldListFilter),)
    search_fields = ("external_id", "=email", "=stripe_customer_id")
    search_help_text = "external id, email or Stripe id"
    fields = (
        "external_id",
        "name",
        "email",
        "stripe_customer_id",
        "created_at",
        "usage",
        "cost_to_date",
    )
    readonly_fields = ("usage", "cost_to_date")
    inlines = (SubscriptionInline, BoundaryInline)

    def operate(self, request: HttpRequest, data: dict[str, Any]) -> Customer:
        customer, _ = create_customer(**data)
        if customer.stripe_customer_id is None:
            self.message_user(
                request,
                "Stripe has not answered yet. Usage is taken; the customer is created there later.",
                messages.WARNING,
            )
        return customer

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return self.inlines if obj is not None else ()

    @display(description="at Stripe", label={"yes": "success", "not yet": "warning"})
    def at_stripe(self, customer: Customer) -> str:
        return "not yet" if customer.stripe_customer_id is None else "yes"

    @display(description="usage")
    def usage(self, customer: Customer) -> str:
        events = reverse("admin:usage_usageevent_changelist")
        submissions = reverse("admin:usage_submission_changelist")
        return format_html(
            LINK + " · " + LINK,
            f"{events}?q={customer.external_id}",
            "events",
            f"{submissions}?q={customer.external_id}",
            "submissions",
        )

    @display(description="cost to date")
    def cost_to_date(self, customer: Customer) -> str:
        return format_html_join("", "{}", [(figure(customer),) for figure in CUSTOMER_FIGURES])


class ItemInline(ReadOnlyInline):
    model = SubscriptionItem
    fields = ("price", "stripe_item_id", "current_period_start", "current_period_end")


class ItemPriceInline(ReadOnlyInline):
    model = ItemPrice
    verbose_name_plural = "prices over time"
    fields = ("price", "stripe_item_id", "since", "until")


@admin.register(Subscription)
class SubscriptionAdmin(OperationAdmin):
    """Subscriptions as Stripe last told them. Adding one subscribes the customer."""

    add_fields = ("customer", "plan")
    refusals = (SubscriptionRefused, SubscriptionPending)
    autocomplete_fields = ("customer",)
    list_display = (
        "customer",
        "plan",
        "state",
        "stripe_subscription_id",
        "cancel_at",
        "ended_at",
        "created_at",
    )
    list_filter = ("status", "plan")
    list_select_related = ("customer", "plan")
    search_fields = ("=customer__external_id", "=stripe_subscription_id")
    search_help_text = "customer's external id or Stripe id"
    fields = (
        "customer",
        "plan",
        "status",
        "stripe_subscription_id",
        "cancel_at",
        "ended_at",
        "created_at",
        "mirrored_at",
    )
    inlines = (ItemInline, ItemPriceInline)

    def operate(self, request: HttpRequest, data: dict[str, Any]) -> Subscription:
        subscribed = subscribe(**data)
        if subscribed.payment_secret:
            self.message_user(request, "The first invoice waits for its payment.", messages.WARNING)
        return subscribed.subscription

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return self.inlines if obj is not None else ()

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def state(self, subscription: Subscription) -> str:
        return subscription.status


@admin.register(Invoice)
class InvoiceAdmin(ReadOnlyAdmin):
    """Invoices as Stripe last told them."""

    list_display = (
        "stripe_invoice_id",
        "customer",
        "state",
        "total",
        "currency",
        "created_at",
        "automatically_finalizes_at",
    )
    list_filter = ("status", "currency")
    list_select_related = ("customer", "subscription")
    search_fields = ("=stripe_invoice_id", "=customer__external_id")
    search_help_text = "Stripe id or customer's external id"
    date_hierarchy = "created_at"

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def state(self, invoice: Invoice) -> str:
        return invoice.status


# --- catalogue ------------------------------------------------------------------------------------


class VersionInline(ReadOnlyInline):
    model = MeterVersion
    fields = (
        "event_type",
        "value_property",
        "required",
        "measures",
        "effective_from",
        "effective_until",
    )


@admin.register(Meter)
class MeterAdmin(ReadOnlyAdmin):
    """Meters and how they read events. The catalogue file is where they change."""

    list_display = (
        "slug",
        "display_name",
        "event_name",
        "aggregation",
        "unit",
        "at_stripe",
        "checked_at",
        "blocked",
    )
    list_filter = ("aggregation", ("blocked", admin.EmptyFieldListFilter))
    search_fields = ("slug", "event_name", "=stripe_meter_id")
    search_help_text = "slug, event name or Stripe id"
    inlines = (VersionInline,)

    @display(
        description="at Stripe",
        label={"yes": "success", "blocked": "danger", "not checked": "warning"}
        | {"not yet": "warning"},
    )
    def at_stripe(self, meter: Meter) -> str:
        if meter.stripe_meter_id is None:
            return "not yet"
        if meter.blocked:
            return "blocked"
        return "not checked" if meter.checked_at is None else "yes"


class PriceInline(ReadOnlyInline):
    model = Price
    fields = ("name", "kind", "meter", "costs", "interval", "stripe_price_id", "active")
    readonly_fields = ("costs",)
    ordering = ("-active", "lookup_key", "-id")

    @display(description="costs")
    def costs(self, price: Price) -> str:
        """Say the price in words, in the currency's main unit, one line a tier."""
        return format_html_join(mark_safe("<br>"), "{}", ((line,) for line in _in_words(price)))


@admin.register(Plan)
class PlanAdmin(ReadOnlyAdmin):
    """Plans and their prices. The catalogue file is where they change."""

    list_display = ("slug", "name", "active", "price_count", "subscriber_count")
    list_filter = ("active",)
    search_fields = ("slug", "name", "=prices__stripe_price_id", "prices__lookup_key")
    search_help_text = "slug, name, or a price's lookup key or Stripe id"
    inlines = (PriceInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Plan]:
        queryset: QuerySet[Plan] = super().get_queryset(request)
        return queryset.annotate(
            prices_offered=Count("prices", filter=Q(prices__active=True), distinct=True),
            subscribers=Count(
                "subscriptions", filter=Q(subscriptions__ended_at=None), distinct=True
            ),
        )

    @display(description="prices")
    def price_count(self, plan: Any) -> int:
        return int(plan.prices_offered)

    @display(description="subscriptions")
    def subscriber_count(self, plan: Any) -> int:
        return int(plan.subscribers)


# --- operations -----------------------------------------------------------------------------------


@admin.register(WebhookEvent)
class WebhookEventAdmin(ReadOnlyAdmin):
    """The inbox. Bodies stay as they were signed, or as Stripe listed them."""

    # Counting all of a large table costs more than the page it stands on.
    paginator = InfinitePaginator
    show_full_result_count = False
    list_display = (
        "type",
        "standing",
        "received_at",
        "arrived",
        "tries",
        "object_id",
    )
    list_filter = ("state", "kind", "arrived_by")
    search_fields = ("=stripe_event_id", "=object_id")
    search_help_text = "Stripe's id of the event or of its object"
    actions = ("handle_again",)

    @display(description="state", ordering="state", label=WEBHOOK_COLOURS)
    def standing(self, event: WebhookEvent) -> tuple[str, str]:
        return event.state, WebhookState(event.state).label

    @display(description="arrived by", ordering="arrived_by", label=ARRIVAL_COLOURS)
    def arrived(self, event: WebhookEvent) -> str:
        return event.arrived_by

    @display(description="tries", ordering="attempt_count")
    def tries(self, event: WebhookEvent) -> int:
        return event.attempt_count

    @action(description="Handle again", permissions=["rerun"])
    def handle_again(self, request: HttpRequest, queryset: QuerySet[WebhookEvent]) -> None:
        """Put events back in line, such as those that failed for a day."""
        for event in queryset:
            inbox.handle_again(event, now=timezone.now())
            self.log_change(request, event, "Put back in line.")
        self.message_user(request, f"Put {len(queryset)} back in line.", messages.SUCCESS)

    def has_rerun_permission(self, request: HttpRequest, _: Any = None) -> bool:
        return bool(request.user.has_perm("billing.change_webhookevent"))


def _swept_link(_: Case) -> str:
    address = reverse("admin:billing_webhookevent_changelist")
    return format_html(LINK, f"{address}?arrived_by__exact={Arrival.SWEEP}", "what was fetched")


CASE_LINKS[CaseKind.WEBHOOKS_MISSING].append(_swept_link)


@admin.register(WebhookSweep)
class WebhookSweepAdmin(ReadOnlyAdmin):
    """Sweeps over Stripe's list of events, and what had not arrived."""

    list_display = ("started_at", "standing", "since", "until", "listed_count", "missing_count")
    list_filter = ("live_mode", ("finished_at", admin.EmptyFieldListFilter))

    @display(
        description="state",
        label={"finished": "success", "under way": "info", "not answered": "warning"},
    )
    def standing(self, sweep: WebhookSweep) -> str:
        if sweep.finished_at is not None:
            return "finished"
        return "not answered" if sweep.last_error else "under way"


LIMITS = ("customers", "events_per_minute", "units_per_minute")


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """What an issued key is for."""

    source_name = forms.CharField(
        max_length=100,
        label="Source",
        help_text="The producer of events. One of this name is made when there is none.",
        widget=UnfoldAdminTextInputWidget,
    )
    scopes = forms.TypedMultipleChoiceField(
        choices=Scope.choices, coerce=Scope, widget=UnfoldAdminCheckboxSelectMultipleWidget
    )

    class Meta:
        model = ApiKey
        fields = ("expires_at", *LIMITS)

    def clean_customers(self) -> list[str] | None:
        """Take an empty field for everybody."""
        return self.cleaned_data["customers"] or None


@admin.register(ApiKey)
class ApiKeyAdmin(OperationAdmin):
    """API keys. A new one is shown once, and stored nowhere."""

    add_form = ApiKeyForm
    add_fields = ("source_name", "scopes", "expires_at", *LIMITS)
    refusals = (authentication.SourceReserved,)
    list_display = ("prefix", "source", "allows", "standing", "created_at", "expires_at")
    list_filter = ("source", ("revoked_at", admin.EmptyFieldListFilter))
    list_select_related = ("source",)
    search_fields = ("=prefix", "source__name")
    search_help_text = "prefix or source"
    fields = (
        "prefix",
        "source",
        "allows",
        ("customers", "events_per_minute", "units_per_minute"),
        ("created_at", "expires_at", "revoked_at"),
    )
    readonly_fields = ("allows",)
    actions = ("revoke",)

    def get_form(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        if obj is None:
            kwargs |= {"form": self.add_form, "fields": ("expires_at", *LIMITS)}
        return super().get_form(request, obj, **kwargs)

    def operate(self, request: HttpRequest, data: dict[str, Any]) -> ApiKey:
        key, plain = authentication.issue(
            data["source_name"],
            data["scopes"],
            data.get("expires_at"),
            authentication.Limits(
                customers=frozenset(data["customers"]) if data.get("customers") else None,
                events_per_minute=data.get("events_per_minute"),
                units_per_minute=data.get("units_per_minute"),
            ),
        )
        self.message_user(request, f"Shown this once, store it now: {plain}", messages.WARNING)
        return key

    @display(description="scopes")
    def allows(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @display(
        description="state",
        label={"in force": "success", "expired": "default", "revoked": "danger"},
    )
    def standing(self, key: ApiKey) -> str:
        if key.revoked_at is not None:
            return "revoked"
        return "expired" if _is_past(key.expires_at) else "in force"

    @action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        """Revoke keys for good."""
        revoked = 0
        for key in queryset:
            if authentication.revoke(key.prefix, now=timezone.now()):
                self.log_change(request, key, "Revoked.")
                revoked += 1
        self.message_user(request, f"Revoked {revoked}.", messages.SUCCESS)

    def has_revoke_permission(self, request: HttpRequest, _: Any = None) -> bool:
        return bool(request.user.has_perm("billing.change_apikey"))


@admin.register(Source)
class SourceAdmin(ReadOnlyAdmin):
    """Producers of events. They come into being with their first key."""

    list_display = ("name",)
    search_fields = ("name",)


class OpenCaseFilter(admin.SimpleListFilter):
    """Open cases unless others are asked for."""

    title = "state"
    parameter_name = "state"

    def lookups(self, _request: HttpRequest, _admin: Any) -> Sequence[tuple[str, str]]:
        return [("all", "all"), ("closed", "closed")]

    def choices(self, changelist: Any) -> Any:
        for choice in super().choices(changelist):
            yield choice | ({"display": "open"} if choice["query_string"] == "?" else {})

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Case]) -> QuerySet[Case]:
        if self.value() == "all":
            return queryset
        return queryset.filter(closed_at__isnull=self.value() != "closed")


@admin.register(Case)
class CaseAdmin(Admin):
    """Work for a person: take it, do it, say what was done."""

    list_display = ("reference", "about", "reason_", "quantity_", "owner", "due", "opened_at")
    list_filter = (OpenCaseFilter, "kind", "owner")
    list_select_related = ("owner",)
    search_fields = ("reference", "reason")
    search_help_text = "what it is about, or words of its reason"
    readonly_fields = (
        "kind",
        "reference",
        "reason",
        "see",
        "quantity_",
        "opened_at",
        "deadline_at",
        "closed_at",
    )
    fieldsets = (
        (None, {"fields": ("kind", "reference", "reason", "see", "quantity_")}),
        (None, {"fields": (("opened_at", "deadline_at", "closed_at"),)}),
        (
            "Your part",
            {
                "fields": ("owner", "resolution"),
                "description": "Saving with a resolution closes the case.",
            },
        ),
    )
    actions = ("take",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is not None and obj.closed_at is not None:
            return False
        return bool(super().has_change_permission(request, obj))

    def save_model(self, request: HttpRequest, obj: Case, form: Any, change: bool) -> None:
        Case.objects.filter(pk=obj.pk).update(owner=obj.owner)
        if obj.resolution.strip():
            cases.close_case(CaseKind(obj.kind), obj.reference, obj.resolution)

    @display(description="kind", ordering="kind")
    def about(self, case: Case) -> str:
        return case.get_kind_display()

    @display(description="see")
    def see(self, case: Case) -> str:
        """Link to what the case is about."""
        links = [(link,) for make in CASE_LINKS[CaseKind(case.kind)] if (link := make(case))]
        return format_html_join(", ", "{}", links) or "-"

    @display(description="units", ordering="quantity")
    def quantity_(self, case: Case) -> str:
        return "" if case.quantity is None else f"{case.quantity:,f}"

    @display(description="reason")
    def reason_(self, case: Case) -> str:
        """Show as much as two lines of a phone take."""
        return case.reason if len(case.reason) <= 72 else f"{case.reason[:71]}…"  # noqa: PLR2004

    @display(
        description="due",
        ordering="deadline_at",
        label={"open": "info", "late": "danger", "closed": "success"},
    )
    def due(self, case: Case) -> tuple[str, str]:
        if case.closed_at is not None:
            return "closed", "closed"
        if _is_past(case.deadline_at):
            return "late", f"{timesince(case.deadline_at, depth=1)} late"
        return "open", f"in {timeuntil(case.deadline_at, depth=1)}"

    @action(description="Take as mine", permissions=["change"])
    def take(self, request: HttpRequest, queryset: QuerySet[Case]) -> None:
        """Make the one who asks the owner."""
        taken = queryset.filter(closed_at__isnull=True)
        for case in taken:
            self.log_change(request, case, f"Taken by {request.user}.")
        self.message_user(request, f"Took {taken.update(owner=request.user)}.", messages.SUCCESS)


def _in_words(price: Price) -> list[str]:
    def amount(minor_amount: str) -> str:
        return f"{text(Decimal(minor_amount) / minor(Decimal(1), price.currency))} {price.currency}"

    rule = price.rule
    if "tiers" not in rule:
        package = rule.get("transform_quantity")
        per = f" per {package['divide_by']:,}, rounded {package['round']}" if package else ""
        each = "" if price.meter_id is None else " each"
        return [amount(rule["unit_amount_decimal"]) + (per or each)]
    lines = [f"{rule['tiers_mode']}:"]
    for tier in rule["tiers"]:
        reach = "above" if tier["up_to"] == "inf" else f"up to {tier['up_to']:,}"
        flat = tier["flat_amount_decimal"]
        fee = "" if flat == "0" else f" and {amount(flat)} at once"
        lines.append(f"{reach}: {amount(tier['unit_amount_decimal'])} each{fee}")
    return lines


def _is_past(moment: datetime | None) -> bool:
    return moment is not None and moment <= timezone.now()
