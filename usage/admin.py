"""Usage in the admin: ledgers to search and read, from an event to its submission's calls."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.html import format_html, format_html_join
from django.utils.timesince import timesince
from unfold.decorators import display
from unfold.paginator import InfinitePaginator

from billing.admin_base import CASE_LINKS, CUSTOMER_FIGURES, ReadOnlyAdmin, ReadOnlyInline
from billing.enums import CaseKind
from billing.models import Case, Customer, Source
from usage.admin_costs import cost_in_words
from usage.admin_voids import CancelsSubmissions, VoidsEvents
from usage.enums import STATE_CHOICES
from usage.lifecycle import State
from usage.models import (
    Attempt,
    Backfill,
    ErrorReport,
    ErrorReportSample,
    ErrorReportType,
    EventConflict,
    Fence,
    FlushRun,
    HeldUsage,
    Submission,
    UsageEvent,
    Void,
)

STATE_COLOURS = {
    State.READY.label: "info",
    State.SENDING.label: "info",
    State.RETRY.label: "warning",
    State.IN_DOUBT.label: "warning",
    State.ACCEPTED.label: "info",
    State.SETTLED.label: "success",
    State.UNPROVEN.label: "danger",
    State.REJECTED.label: "danger",
    State.SUPERSEDED.label: "default",
    State.EXPIRED.label: "danger",
    State.WRITTEN_OFF.label: "default",
}


def link(viewname: str, text: str, **query: Any) -> str:
    """Return a link to a changelist narrowed by `query`."""
    return format_html(
        '<a href="{}?{}" class="text-primary-600 dark:text-primary-500">{}</a>',
        reverse(f"admin:{viewname}_changelist"),
        urlencode(query),
        text,
    )


def thousands(number: Any) -> str:
    """Return a whole number with its thousands apart."""
    return number_format(number, decimal_pos=0, use_l10n=True, force_grouping=True)


class Ledger(ReadOnlyAdmin):
    """A large insert-only table: its pages are never counted."""

    paginator = InfinitePaginator
    show_full_result_count = False


@admin.register(UsageEvent)
class UsageEventAdmin(VoidsEvents, Ledger):
    """Events as their callers reported them, and the voids of some."""

    actions = ("void",)

    list_display = ("event_id", "subject", "type", "values", "occurred_at", "source")
    list_filter = ("source",)
    list_select_related = ("source",)
    search_fields = ("event_id",)
    search_help_text = "a whole event id, or a customer's external id"
    fieldsets = (
        (None, {"fields": ("event_id", "source", "type", "subject", "occurred_at", "data")}),
        ("What became of it", {"fields": ("received_at", "batch", "became", "taken_back")}),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[UsageEvent], search_term: str
    ) -> tuple[QuerySet[UsageEvent], bool]:
        """Look an id up through the index of (source, event id); else take it for a customer."""
        if not search_term:
            return queryset, False
        sources = list(Source.objects.values_list("pk", flat=True))
        by_id = queryset.filter(source_id__in=sources, event_id=search_term)
        return (by_id if by_id.exists() else queryset.filter(subject=search_term)), False

    @display(description="data")
    def values(self, event: UsageEvent) -> str:
        """Show the first values of `data`, with a minus sign where the event takes them back."""
        shown = ", ".join(f"{key} {value}" for key, value in list(event.data.items())[:4])
        sign = "" if event.voids is None else "\N{MINUS SIGN} "
        return format_html(
            '<span style="display: inline-block; min-width: 16rem">{}{}</span>', sign, shown[:90]
        )

    @display(description="submissions")
    def became(self, event: UsageEvent) -> str:
        """Link to the submissions its run made for its customer, or say what it waits for."""
        run = event.batch.run
        if run is None:
            return "waits for the next flush"
        if not Customer.objects.filter(external_id=event.subject).exists():
            return link("usage_heldusage", f"held by {run}: no such customer", q=event.subject)
        return link(
            "usage_submission",
            f"of {run}",
            run__id__exact=run.pk,
            customer__external_id=event.subject,
        )

    @display(description="taken back")
    def taken_back(self, event: UsageEvent) -> str:
        """Say who took it back and why, or which event it takes back itself."""
        wanted = (
            {"original_event_id": event.pk} if event.voids is None else {"void_event_id": event.pk}
        )
        row = Void.objects.filter(**wanted).first()
        if row is None:
            return "no"
        what = "by" if event.voids is None else f"it takes back {row.event_id}, by"
        return f"{what} {row.author}, {row.created_at:%Y-%m-%d %H:%M}: {row.reason}"


@admin.register(Void)
class VoidAdmin(Ledger):
    """Events taken back: by whom, when and why."""

    list_display = ("event_id", "source", "author", "reason_", "created_at")
    list_filter = ("source",)
    list_select_related = ("source",)
    search_fields = ("=event_id", "=author")
    search_help_text = "the whole id of the event taken back, or an author"

    @display(description="reason")
    def reason_(self, void: Void) -> str:
        return void.reason[:120]


@admin.register(Backfill)
class BackfillAdmin(Ledger):
    """Late usage that was brought in: by whom, when and why."""

    list_display = ("id", "source", "author", "reason_", "events_", "created_at")
    list_filter = ("source",)
    list_select_related = ("source",)
    search_fields = ("=author",)
    search_help_text = "an author"

    @display(description="reason")
    def reason_(self, row: Backfill) -> str:
        return row.reason[:120]

    @display(description="events", ordering="event_count")
    def events_(self, row: Backfill) -> str:
        return thousands(row.event_count)


@admin.register(EventConflict)
class EventConflictAdmin(Ledger):
    """Known ids that came again with another payload."""

    list_display = ("event_id", "source", "received_at", "payload")
    list_filter = ("source",)
    list_select_related = ("source",)
    search_fields = ("=event_id",)
    exclude = ("digest",)


@admin.register(FlushRun)
class FlushRunAdmin(Ledger):
    """Flush runs and what each made."""

    list_display = ("id", "started_at", "batches_", "events_", "made")
    ordering = ("-id",)
    fields = ("started_at", "batches_", "events_", "meter_versions", "made")

    @display(description="batches", ordering="batch_count")
    def batches_(self, run: FlushRun) -> str:
        return thousands(run.batch_count)

    @display(description="events", ordering="event_count")
    def events_(self, run: FlushRun) -> str:
        return thousands(run.event_count)

    @display(description="made")
    def made(self, run: FlushRun) -> str:
        return link("usage_submission", "submissions", run__id__exact=run.pk)


class AttemptInline(ReadOnlyInline):
    model = Attempt
    fields = ("number", "started_at", "finished_at", "outcome", "http_status", "message")
    readonly_fields = fields


class StateFilter(admin.SimpleListFilter):
    """Submissions by where they stand."""

    title = "state"
    parameter_name = "state"

    def lookups(self, _request: HttpRequest, _admin: Any) -> Sequence[tuple[str, str]]:
        return STATE_CHOICES

    def queryset(
        self, _request: HttpRequest, queryset: QuerySet[Submission]
    ) -> QuerySet[Submission]:
        return queryset.filter(standing__state=self.value()) if self.value() else queryset


@admin.register(Submission)
class SubmissionAdmin(CancelsSubmissions, Ledger):
    """What was frozen for Stripe, and where each stands."""

    actions = ("cancel",)

    list_display = (
        "identifier",
        "customer",
        "meter",
        "hour",
        "value_",
        "events_",
        "state",
        "since",
        "reason",
    )
    list_filter = (StateFilter, "meter")
    list_select_related = ("customer", "meter", "standing", "run")
    search_fields = ("=identifier", "=customer__external_id", "=stripe_customer_id")
    search_help_text = "an identifier, a customer's external id or Stripe id"
    inlines = (AttemptInline,)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "identifier",
                    ("state", "since", "reason"),
                    ("doubt_since", "next_action_at"),
                )
            },
        ),
        (
            "Cell",
            {
                "fields": (
                    ("customer", "meter"),
                    ("window_start", "segment_start", "part"),
                    ("value_", "events_", "run"),
                )
            },
        ),
        ("As frozen", {"fields": ("timestamp", "event_name", "stripe_customer_id", "payload")}),
    )

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        allowed = {"customer__external_id", "run__id__exact", "window_start"}
        return lookup in allowed or super().lookup_allowed(lookup, value, request)

    @display(description="hour (UTC)", ordering="window_start")
    def hour(self, submission: Submission) -> str:
        return f"{submission.window_start:%Y-%m-%d %H:%M}"

    @display(description="value", ordering="value")
    def value_(self, submission: Submission) -> str:
        return thousands(submission.value)

    @display(description="events", ordering="event_count")
    def events_(self, submission: Submission) -> str:
        return thousands(submission.event_count)

    @display(description="state", label=STATE_COLOURS)
    def state(self, submission: Submission) -> str:
        return State(submission.standing.state).label

    @display(description="for")
    def since(self, submission: Submission) -> str:
        """Show how long it has stood there."""
        return timesince(submission.standing.changed_at, timezone.now(), depth=1)

    @display(description="reason")
    def reason(self, submission: Submission) -> str:
        return submission.standing.reason[:120]

    @display(description="in doubt since")
    def doubt_since(self, submission: Submission) -> Any:
        return submission.standing.doubt_since

    @display(description="next action")
    def next_action_at(self, submission: Submission) -> Any:
        return submission.standing.next_action_at


class OpenFilter(admin.SimpleListFilter):
    """Held rows that wait, or that were released."""

    title = "held"
    parameter_name = "held"

    def lookups(self, _request: HttpRequest, _admin: Any) -> Sequence[tuple[str, str]]:
        return [("open", "still held"), ("released", "released")]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[HeldUsage]) -> QuerySet[HeldUsage]:
        if self.value() is None:
            return queryset
        return queryset.filter(released_at__isnull=self.value() == "open")


@admin.register(HeldUsage)
class HeldUsageAdmin(Ledger):
    """Usage that waits, with the reason. It is released by itself once the reason is gone."""

    list_display = ("subject", "meter", "window_start", "events_", "reason", "state", "held_for")
    list_filter = (OpenFilter, "reason", "meter")
    list_select_related = ("meter",)
    search_fields = ("=subject",)
    search_help_text = "a customer's external id"

    @display(description="events", ordering="event_count")
    def events_(self, held: HeldUsage) -> str:
        return thousands(held.event_count)

    @display(description="state", label={"held": "warning", "released": "success"})
    def state(self, held: HeldUsage) -> str:
        return "held" if held.released_at is None else "released"

    @display(description="held for")
    def held_for(self, held: HeldUsage) -> str:
        return timesince(held.held_at, held.released_at or timezone.now() + timedelta(seconds=1))


class OpenReportFilter(admin.SimpleListFilter):
    """Reports whose unsampled rest is still looked for, or that are closed."""

    title = "state"
    parameter_name = "state"

    def lookups(self, _request: HttpRequest, _admin: Any) -> Sequence[tuple[str, str]]:
        return [("open", "open"), ("closed", "closed")]

    def queryset(
        self, _request: HttpRequest, queryset: QuerySet[ErrorReport]
    ) -> QuerySet[ErrorReport]:
        if self.value() is None:
            return queryset
        return queryset.filter(closed_at__isnull=self.value() == "open")


class ErrorReportTypeInline(ReadOnlyInline):
    """What a report counts, by reason."""

    model = ErrorReportType
    fields = ("code", "error_count", "named_count")
    readonly_fields = fields


@admin.register(ErrorReport)
class ErrorReportAdmin(Ledger):
    """Stripe's reports of events it refused after it had taken them."""

    list_display = (
        "stripe_event_id",
        "about",
        "error_count",
        "named_count",
        "foreign_count",
        "open_count",
        "state",
        "received_at",
    )
    list_filter = (OpenReportFilter, "meter")
    list_select_related = ("meter",)
    search_fields = ("=stripe_event_id", "=types__samples__submission__identifier")
    search_help_text = "Stripe's id of the report, or a submission's identifier"
    inlines = (ErrorReportTypeInline,)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("stripe_event_id", "type", "about"),
                    "summary",
                    ("error_count", "named_count", "foreign_count", "unsampled_count"),
                    ("state", "resolution"),
                )
            },
        ),
        (
            "When",
            {
                "fields": (
                    ("validation_start", "validation_end"),
                    ("attempts_from", "attempts_until"),
                    ("created_at", "received_at", "closed_at"),
                )
            },
        ),
        ("Named", {"fields": ("named",)}),
    )

    @display(description="meter", ordering="meter")
    def about(self, report: ErrorReport) -> str:
        return "none found" if report.meter is None else report.meter.slug

    @display(description="open", ordering="unsampled_count")
    def open_count(self, report: ErrorReport) -> str:
        """Show how many refused events are still looked for."""
        return thousands(report.unsampled_count) if report.closed_at is None else "0"

    @display(description="state", label={"open": "warning", "closed": "success"})
    def state(self, report: ErrorReport) -> str:
        return "open" if report.closed_at is None else "closed"

    @display(description="events")
    def named(self, report: ErrorReport) -> str:
        """Link to the submissions it names, with what became of each."""
        samples = ErrorReportSample.objects.filter(type__report=report).select_related(
            "submission", "type"
        )
        return format_html_join(
            "",
            "<div>{} · {} · {} · {}</div>",
            (
                (
                    sample.identifier
                    if sample.submission is None
                    else link(
                        "usage_submission", sample.identifier, q=sample.submission.identifier
                    ),
                    sample.type.code,
                    sample.get_effect_display(),
                    sample.message,
                )
                for sample in samples
            ),
        )


def _submission_of(case: Case) -> str:
    return link("usage_submission", "the submission", q=case.reference)


def _report_of(case: Case) -> str:
    """Link to the error reports that name a case's submission, if any does."""
    if not ErrorReportSample.objects.filter(submission__identifier=case.reference).exists():
        return ""
    return link("usage_errorreport", "Stripe's error report", q=case.reference)


for kind in (CaseKind.REJECTED, CaseKind.UNPROVEN, CaseKind.EXPIRED):
    CASE_LINKS[kind].append(_submission_of)
for kind in (CaseKind.REJECTED, CaseKind.UNPROVEN, CaseKind.ERROR_REPORT):
    CASE_LINKS[kind].append(_report_of)
CUSTOMER_FIGURES.append(cost_in_words)


@admin.register(Fence)
class FenceAdmin(ReadOnlyAdmin):
    """Whether sending is allowed, from which database, and who allowed it last."""

    list_display = ("sending", "deployment", "cluster", "timeline", "allowed_by", "recorded_at")
    fields = (
        ("sending", "quarantined_at", "quarantine_reason"),
        ("deployment", "live_mode", "cluster", "timeline"),
        ("allowed_by", "recorded_at", "lost_since"),
        "reason",
    )

    @display(description="sending", label={"open": "success", "stopped": "danger"})
    def sending(self, stored: Fence) -> str:
        return "open" if stored.quarantined_at is None else "stopped"

    @display(description="allowed by")
    def allowed_by(self, stored: Fence) -> str:
        return stored.recorded_by or "the first call"
