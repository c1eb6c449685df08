"""Reconciliation in the admin: runs, and the hours in which the two books differ."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.timesince import timesince
from unfold.decorators import display

from billing.admin_base import ReadOnlyAdmin
from reconciliation.comparison import Reason
from reconciliation.discrepancies import number
from reconciliation.models import Discrepancy, ReconciliationRun
from reconciliation.runs import RESUMED_WITHIN
from usage.admin import link
from usage.cells import cell_name


@admin.register(ReconciliationRun)
class ReconciliationRunAdmin(ReadOnlyAdmin):
    """What each run compared, and what came of it."""

    list_display = (
        "run",
        "outcome",
        "hours",
        "started_at",
        "took",
        "cells",
        "equal",
        "waiting",
        "differing",
        "settled",
        "errors",
    )
    list_filter = ("with_unsettled", "only_doubtful", "every_pair")
    ordering = ("-id",)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("run", "outcome"),
                    "hours",
                    ("started_at", "finished_at"),
                    ("scope", "whose"),
                )
            },
        ),
        (
            "Compared",
            {
                "fields": (
                    ("pairs", "cells", "calls"),
                    ("equal", "waiting", "differing"),
                    ("settled", "errors"),
                    "error",
                )
            },
        ),
    )

    @display(description="run", ordering="id")
    def run(self, run: ReconciliationRun) -> str:
        return f"#{run.pk}"

    @display(
        description="outcome",
        label={
            "equal": "success",
            "differs": "danger",
            "incomplete": "warning",
            "under way": "info",
            "interrupted": "danger",
        },
    )
    def outcome(self, run: ReconciliationRun) -> str:
        """Say in a word what came of it."""
        if run.finished_at is None:
            is_young = run.started_at > timezone.now() - RESUMED_WITHIN
            return "under way" if is_young and not run.error else "interrupted"
        if run.discrepancy_count:
            return "differs"
        return "incomplete" if run.error_count else "equal"

    @display(description="hours (UTC)", ordering="window_start")
    def hours(self, run: ReconciliationRun) -> str:
        if run.only_doubtful:
            return "those with something in doubt"
        return f"{run.window_start:%Y-%m-%d %H:%M} to {run.window_end:%Y-%m-%d %H:%M}"

    @display(description="took")
    def took(self, run: ReconciliationRun) -> str:
        if run.finished_at is None:
            return "unfinished"
        seconds = (run.finished_at - run.started_at).total_seconds()
        return f"{seconds:.1f} s" if seconds < 60 else timesince(run.started_at, run.finished_at)  # noqa: PLR2004 - a minute

    @display(description="older cells")
    def scope(self, run: ReconciliationRun) -> str:
        if run.only_doubtful:
            return "only those in doubt"
        return "those not settled yet, too" if run.with_unsettled else "left alone"

    @display(description="customers and meters")
    def whose(self, run: ReconciliationRun) -> str:
        return "all of them" if run.every_pair else "those with usage"

    @display(description="pairs", ordering="pair_count")
    def pairs(self, run: ReconciliationRun) -> str:
        return f"{run.pair_count:,}"

    @display(description="reads at Stripe", ordering="call_count")
    def calls(self, run: ReconciliationRun) -> str:
        return f"{run.call_count:,}"

    @display(description="cells", ordering="cell_count")
    def cells(self, run: ReconciliationRun) -> str:
        return f"{run.cell_count:,}"

    @display(description="equal", ordering="equal_count")
    def equal(self, run: ReconciliationRun) -> str:
        return f"{run.equal_count:,}"

    @display(description="waiting", ordering="waiting_count")
    def waiting(self, run: ReconciliationRun) -> str:
        return f"{run.waiting_count:,}"

    @display(description="differing", ordering="discrepancy_count")
    def differing(self, run: ReconciliationRun) -> str:
        if not run.discrepancy_count:
            return "0"
        return link(
            "reconciliation_discrepancy", f"{run.discrepancy_count:,}", run__id__exact=run.pk
        )

    @display(description="settled", ordering="settled_count")
    def settled(self, run: ReconciliationRun) -> str:
        return f"{run.settled_count:,}"

    @display(description="errors", ordering="error_count")
    def errors(self, run: ReconciliationRun) -> str:
        return f"{run.error_count:,}"


class OpenFilter(admin.SimpleListFilter):
    """Discrepancies that are open, or that were resolved."""

    title = "state"
    parameter_name = "state"

    def lookups(self, _request: HttpRequest, _admin: Any) -> Sequence[tuple[str, str]]:
        return [("open", "open"), ("resolved", "resolved")]

    def queryset(
        self, _request: HttpRequest, queryset: QuerySet[Discrepancy]
    ) -> QuerySet[Discrepancy]:
        if self.value() is None:
            return queryset
        return queryset.filter(resolved_at__isnull=self.value() == "open")


@admin.register(Discrepancy)
class DiscrepancyAdmin(ReadOnlyAdmin):
    """Hours in which Stripe's total is not ours, with both figures."""

    list_display = (
        "hour",
        "customer",
        "meter",
        "state",
        "ours_",
        "stripe_",
        "difference_",
        "why",
        "open_for",
        "see",
    )
    list_filter = (OpenFilter, "meter", "reason")
    list_select_related = ("customer", "meter", "run")
    search_fields = ("=customer__external_id", "=customer__stripe_customer_id")
    search_help_text = "a customer's external id or Stripe id"
    date_hierarchy = "window_start"
    fieldsets = (
        (None, {"fields": (("hour", "customer", "meter"), ("state", "why"))}),
        ("Both books", {"fields": (("ours_", "stripe_", "difference_"), ("submissions", "case"))}),
        ("Seen", {"fields": (("found_at", "resolved_at", "open_for"), "run")}),
    )

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        return lookup == "run__id__exact" or super().lookup_allowed(lookup, value, request)

    @display(description="hour (UTC)", ordering="window_start")
    def hour(self, discrepancy: Discrepancy) -> str:
        return f"{discrepancy.window_start:%Y-%m-%d %H:%M}"

    @display(description="state", label={"open": "danger", "resolved": "success"})
    def state(self, discrepancy: Discrepancy) -> str:
        return "open" if discrepancy.resolved_at is None else "resolved"

    @display(description="ours", ordering="ours")
    def ours_(self, discrepancy: Discrepancy) -> str:
        return number(discrepancy.ours)

    @display(description="Stripe's", ordering="stripe")
    def stripe_(self, discrepancy: Discrepancy) -> str:
        return number(discrepancy.stripe)

    @display(description="difference")
    def difference_(self, discrepancy: Discrepancy) -> str:
        difference: Decimal = discrepancy.difference
        return number(difference, signed=True)

    @display(description="why", ordering="reason")
    def why(self, discrepancy: Discrepancy) -> str:
        return Reason(discrepancy.reason).label

    @display(description="open for")
    def open_for(self, discrepancy: Discrepancy) -> str:
        """Show how long it has been open, or was."""
        return timesince(discrepancy.found_at, discrepancy.resolved_at or timezone.now(), depth=1)

    @display(description="submissions")
    def submissions(self, discrepancy: Discrepancy) -> str:
        """Link to what we sent for that hour."""
        return link(
            "usage_submission",
            "submissions",
            customer__external_id=discrepancy.customer.external_id,
            meter__id__exact=discrepancy.meter_id,
            window_start=discrepancy.window_start.isoformat(),
        )

    @display(description="see")
    def see(self, discrepancy: Discrepancy) -> str:
        """Show both links in one column."""
        return format_html("{} · {}", self.submissions(discrepancy), self.case(discrepancy))

    @display(description="case")
    def case(self, discrepancy: Discrepancy) -> str:
        """Link to the work it made for a person."""
        return link(
            "billing_case",
            "case",
            q=cell_name(
                customer_id=discrepancy.customer_id,
                customer=discrepancy.customer.external_id,
                meter=discrepancy.meter.slug,
                hour=discrepancy.window_start,
            ),
        )
