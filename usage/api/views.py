"""POST /api/v1/events: translate the request, make one call, translate the outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from billing.authentication import (
    NO_LIMITS,
    Caller,
    MissingScope,
    NotAuthenticated,
    authenticate,
)
from billing.enums import Scope
from billing.key_limits import OverLimit, spend
from billing.problems import problem
from usage.api.bodies import Body, read_events
from usage.api.compression import inflated
from usage.api.outcomes import told
from usage.commit_sharing import commits
from usage.ingestion import units_of
from usage.reports import NOT_FOR_CUSTOMER, Outcome, Refusal, ReportedEvent, Stored

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = 5

Reports = Sequence[ReportedEvent | Refusal]


@csrf_exempt
def events(request: HttpRequest) -> HttpResponse:
    """Store one CloudEvent or a batch; answer 2xx only after the commit is durable."""
    if request.method != "POST":
        refused = problem(405, "Method not allowed", "Events are sent with POST.")
        refused["Allow"] = "POST"
        return refused
    try:
        return _store(request)
    except (
        NotAuthenticated,
        MissingScope,
        OverLimit,
        Body,
        UnreadablePostError,
        DatabaseError,
        InterfaceError,
    ) as error:
        return _refused(error)


def _store(request: HttpRequest) -> HttpResponse:
    caller = authenticate(request.headers.get("Authorization", ""), scope=Scope.INGEST)
    body = inflated(_body(request), request.headers.get("Content-Encoding", ""))
    reports = read_events(body, request.headers.get("Content-Type", ""))
    if caller.limits != NO_LIMITS:
        reports = _limited(reports, caller)
    outcomes = commits.store(source_id=caller.source_id, reports=reports)
    wants_each = "return=representation" in request.headers.get("Prefer", "")
    return _answer(outcomes, each=told(reports, outcomes) if wants_each else None)


def _limited(reports: Reports, caller: Caller) -> Reports:
    """Refuse what is of customers the key is not for, and all of it when it is too much."""
    reports = [
        NOT_FOR_CUSTOMER
        if isinstance(report, ReportedEvent) and not caller.is_for(report.subject)
        else report
        for report in reports
    ]
    spend(caller, events=len(reports), units=units_of(reports), now=timezone.now())
    return reports


def _refused(error: Exception) -> HttpResponse:
    """Answer a request of which nothing is stored."""
    if isinstance(error, NotAuthenticated):
        unknown = problem(401, "Not authenticated", str(error))
        unknown["WWW-Authenticate"] = "Bearer"
        return unknown
    if isinstance(error, MissingScope):
        return problem(403, "Not allowed", str(error))
    if isinstance(error, OverLimit):
        return _over_limit(error)
    if isinstance(error, Body):
        return problem(error.status, "The request cannot be read", error.detail)
    if isinstance(error, UnreadablePostError):
        return problem(400, "The request cannot be read", "The body ended early.")
    log.error("usage.ingestion.not_stored", exc_info=error)
    unable = problem(503, "Not stored", "Nothing of this request is stored; send the same again.")
    unable["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return unable


def _over_limit(error: OverLimit) -> HttpResponse:
    if error.retry_after_seconds is None:
        return problem(413, "Too much for this key", f"{error} Nothing is stored; send less.")
    refused = problem(429, "Too much for now", f"{error} Nothing is stored; send it later.")
    refused["Retry-After"] = str(error.retry_after_seconds)
    return refused


def _body(request: HttpRequest) -> bytes:
    too_large = Body(413, f"A request takes at most {settings.USAGE_BODY_LIMIT_BYTES} bytes.")
    try:
        declared = int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError as error:
        raise Body(400, "Content-Length is no number.") from error
    if declared > settings.USAGE_BODY_LIMIT_BYTES:
        raise too_large
    try:
        body = request.body
    except RequestDataTooBig as error:
        raise too_large from error
    if len(body) > settings.USAGE_BODY_LIMIT_BYTES:
        raise too_large
    if len(body) < declared:
        # The server hands on what came before the connection ended.
        raise Body(400, "The body ended early.")
    return body


def _answer(outcomes: list[Outcome], *, each: list[dict[str, Any]] | None) -> HttpResponse:
    members: dict[str, Any] = {
        "accepted": outcomes.count(Stored.ACCEPTED),
        "duplicates": outcomes.count(Stored.DUPLICATE),
    }
    if each is not None:
        members["events"] = each
    errors = [
        {"index": index, "field": outcome.field, "reason": outcome.reason}
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, Refusal)
    ]
    if errors:
        first = errors[0]
        others = "the others are stored" if len(errors) < len(outcomes) else "nothing is stored"
        return problem(
            400,
            "Some events are refused",
            f"{len(errors)} of {len(outcomes)} refused; {others}. Event"
            f" {first['index']}: {first['field'] or 'it'} {first['reason']}.",
            errors=errors,
            **members,
        )
    return HttpResponse(status=204) if each is None else JsonResponse(members)
