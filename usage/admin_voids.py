"""Taking usage back from the admin: select rows, say why, and the operation is called once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.decorators import action
from unfold.widgets import UnfoldAdminTextareaWidget

from usage import cancelling, voiding
from usage.clock import database_clock
from usage.models import Submission, UsageEvent

MOST = 1_000
"""More at once is work for `manage.py void_events`, with a list somebody has made and kept."""
SHOWN = 20


class ReasonForm(forms.Form):
    """Why usage is taken back. Who does it is whoever is logged in."""

    reason = forms.CharField(
        widget=UnfoldAdminTextareaWidget,
        max_length=2_000,
        help_text="Kept for ever beside your name.",
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _event_in_words(event: UsageEvent) -> str:
    when = f"{event.occurred_at:%Y-%m-%d %H:%M:%S}"
    return f"{event.event_id} · {event.subject} · {event.type} · {when} UTC"


def _submission_in_words(submission: Submission) -> str:
    return (
        f"{submission.identifier} · {submission.customer.external_id} · {submission.meter.slug}"
        f" · {submission.value:,f} of {_counted(submission.event_count, 'event')}"
    )


def ask_why(  # noqa: PLR0913 - the words of one page
    admin: Any,
    request: HttpRequest,
    rows: Mapping[Any, str],
    *,
    action_name: str,
    title: str,
    button: str,
    explanation: str,
) -> str | HttpResponse:
    """Return the reason once it was given; before that, the page that asks for it.

    The page shows each row as the text given for it.
    """
    form = ReasonForm(request.POST if "confirmed" in request.POST else None)
    if form.is_valid():
        return str(form.cleaned_data["reason"])
    return TemplateResponse(
        request,
        "admin/usage/take_back.html",
        {
            **admin.admin_site.each_context(request),
            "title": title,
            "opts": admin.opts,
            "form": form,
            "rows": list(rows),
            "shown": list(rows.values())[:SHOWN],
            "more": max(len(rows) - SHOWN, 0),
            "action": action_name,
            "button": button,
            "explanation": explanation,
            "back": reverse(f"admin:{admin.opts.app_label}_{admin.opts.model_name}_changelist"),
        },
    )


class VoidsEvents:
    """Usage events may be voided from their list."""

    @action(description="Void the selected events", permissions=["void"])
    def void(self: Any, request: HttpRequest, queryset: QuerySet[UsageEvent]) -> Any:
        """Take events back, for every meter that read them."""
        events = list(queryset.select_related("source")[: MOST + 1])
        if len(events) > MOST:
            self.message_user(
                request, f"Nothing was voided: select {MOST:,} at most.", messages.ERROR
            )
            return None
        reason = ask_why(
            self,
            request,
            {event: _event_in_words(event) for event in events},
            action_name="void",
            title="Void usage events",
            button="Void them",
            explanation="Each event gets a linked one that takes it back, in its own hour and on"
            " every meter that read it. What Stripe has by then is taken back there. It cannot be"
            " undone; usage voided by mistake is reported again under a new id.",
        )
        if not isinstance(reason, str):
            return reason
        author = request.user.get_username()
        try:
            answer = voiding.void(
                [voiding.EventKey(event.source_id, event.event_id) for event in events],
                author=author,
                reason=reason,
                now=database_clock(),
            )
        except voiding.VoidRefused as refusal:
            self.message_user(request, str(refusal), messages.ERROR)
            return None
        voided = set(answer.voided)
        for event in events:
            if voiding.EventKey(event.source_id, event.event_id) in voided:
                self.log_change(request, event, f"Voided: {reason}")
        told = f"Voided {_counted(len(answer.voided), 'event')}."
        if answer.already:
            told += f" {len(answer.already):,} had been voided before."
        self.message_user(request, told, messages.SUCCESS)
        return None

    def has_void_permission(self, request: HttpRequest, _: Any = None) -> bool:
        return bool(request.user.has_perm("usage.add_void"))


class CancelsSubmissions:
    """Submissions Stripe has may be taken back from their list."""

    @action(description="Void all their events, and cancel at Stripe", permissions=["cancel"])
    def cancel(self: Any, request: HttpRequest, queryset: QuerySet[Submission]) -> Any:
        """Take whole submissions back, one by one; what cannot be is told with its reason."""
        submissions = list(queryset.select_related("customer", "meter")[: SHOWN + 1])
        if len(submissions) > SHOWN:
            self.message_user(
                request, f"Nothing was cancelled: select {SHOWN} at most.", messages.ERROR
            )
            return None
        reason = ask_why(
            self,
            request,
            {submission: _submission_in_words(submission) for submission in submissions},
            action_name="cancel",
            title="Cancel submissions at Stripe",
            button="Void their events and cancel them",
            explanation="All events of these submissions are voided, for every meter that read"
            " them, and Stripe is asked to cancel what they made up. It cannot be undone.",
        )
        if not isinstance(reason, str):
            return reason
        cancelled = 0
        for submission in submissions:
            try:
                cancelling.cancel_submission(
                    submission,
                    author=request.user.get_username(),
                    reason=reason,
                    now=database_clock(),
                )
            except (cancelling.CannotCancel, voiding.VoidRefused) as refusal:
                self.message_user(request, str(refusal), messages.ERROR)
                continue
            self.log_change(request, submission, f"Events voided, cancelled at Stripe: {reason}")
            cancelled += 1
        if cancelled:
            self.message_user(
                request,
                f"Voided the events of {_counted(cancelled, 'submission')}; Stripe is asked at the"
                " next delivery.",
                messages.SUCCESS,
            )
        return None

    def has_cancel_permission(self, request: HttpRequest, _: Any = None) -> bool:
        return bool(request.user.has_perm("usage.add_cancellation"))
