"""The admin's first page: what waits for a person, and whether the two books were equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.timesince import timesince

from billing.models import Case
from reconciliation.models import Discrepancy, ReconciliationRun
from usage.models import HeldUsage, IngestBatch, SubmissionState

# As the partial index `usage_state_due` names them, so that counting reads only what moves.
ON_THE_WAY = Q(state__in=("ready", "retry", "in_doubt", "sending"))


@dataclass(frozen=True, slots=True)
class Card:
    """One figure with what it means, and the list behind it."""

    title: str
    figure: str
    note: str
    address: str
    is_calm: bool = True


def fill(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add the cards of all lists this person may see."""
    cards = {
        "billing.view_case": _cases,
        "reconciliation.view_discrepancy": _discrepancies,
        "usage.view_heldusage": _held,
        "usage.view_submission": _on_the_way,
        "reconciliation.view_reconciliationrun": _last_run,
    }
    user: Any = request.user
    context["title"] = "What waits"
    context["cards"] = [card() for right, card in cards.items() if user.has_perm(right)]
    return context


def _cases() -> Card:
    still_open = Case.objects.filter(closed_at=None)
    late = still_open.filter(deadline_at__lte=timezone.now()).count()
    count = still_open.count()
    note = f"{late:,} past the deadline" if late else "work for a person"
    return Card("Open cases", f"{count:,}", note, _list("billing_case"), not count)


def _discrepancies() -> Card:
    count = Discrepancy.objects.filter(resolved_at=None).count()
    address = _list("reconciliation_discrepancy", state="open")
    note = "hours in which Stripe's total is not ours"
    return Card("Open discrepancies", f"{count:,}", note, address, not count)


def _held() -> Card:
    count = HeldUsage.objects.filter(released_at=None).count()
    note = "hours of usage that cannot be sent yet"
    return Card("Held usage", f"{count:,}", note, _list("usage_heldusage", held="open"), not count)


def _on_the_way() -> Card:
    count = SubmissionState.objects.filter(ON_THE_WAY).count()
    doubtful = SubmissionState.objects.filter(ON_THE_WAY, state="in_doubt").count()
    unflushed = IngestBatch.objects.filter(run=None).count()
    note = f"{unflushed:,} batches to fold; {doubtful:,} in doubt"
    return Card("On their way to Stripe", f"{count:,}", note, _list("usage_submission"))


def _last_run() -> Card:
    title, address = "Last comparison", _list("reconciliation_reconciliationrun")
    whole = ReconciliationRun.objects.filter(only_doubtful=False)
    run = whole.exclude(finished_at=None).order_by("-id").first()
    if run is None or run.finished_at is None:
        return Card(title, "none", "the nightly run makes the first", address)
    is_equal = not (run.discrepancy_count or run.error_count)
    note = f"{run.cell_count:,} cells, {timesince(run.finished_at, depth=1)} ago"
    figure = "equal" if is_equal else "differs" if run.discrepancy_count else "incomplete"
    return Card(title, figure, note, address, is_equal)


def _list(name: str, **query: str) -> str:
    address = reverse(f"admin:{name}_changelist")
    return f"{address}?{urlencode(query)}" if query else address
