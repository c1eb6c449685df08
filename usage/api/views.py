"""POST /api/v1/events: translate the request, make one call, translate the outcomes."""

from __future__ import annotations

import structlog
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from billing import steps
from billing.authentication import MissingScope, NotAuthenticated, authenticate
from billing.enums import Scope
from billing.problems import problem
from usage.api.bodies import Body, cut
from usage.api.schemas import read_event
from usage.ingestion import Outcome, Refusal, Stored, accept

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = 5


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
        Body,
        UnreadablePostError,
        DatabaseError,
        InterfaceError,
    ) as error:
        return _refused(error)


def _store(request: HttpRequest) -> HttpResponse:
    caller = authenticate(request.headers.get("Authorization", ""), scope=Scope.INGEST)
    texts = cut(_body(request), request.headers.get("Content-Type", ""))
    reports = [read_event(text) for text in texts]
    with steps.commit("usage.ingestion.store", durable=True):
        outcomes = accept(source_id=caller.source_id, reports=reports, now=timezone.now())
    wants_each = "return=representation" in request.headers.get("Prefer", "")
    return _answer(outcomes, wants_each=wants_each)


def _refused(error: Exception) -> HttpResponse:
    """Answer a request of which nothing is stored."""
    if isinstance(error, NotAuthenticated):
        unknown = problem(401, "Not authenticated", str(error))
        unknown["WWW-Authenticate"] = "Bearer"
        return unknown
    if isinstance(error, MissingScope):
        return problem(403, "Not allowed", str(error))
    if isinstance(error, Body):
        return problem(error.status, "The request cannot be read", error.detail)
    if isinstance(error, UnreadablePostError):
        return problem(400, "The request cannot be read", "The body ended early.")
    log.error("usage.ingestion.not_stored", exc_info=error)
    unable = problem(503, "Not stored", "Nothing of this request is stored; send the same again.")
    unable["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return unable


def _body(request: HttpRequest) -> bytes:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Body(415, "Content-Encoding is not taken here: send the body as it is.")
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


def _answer(outcomes: list[Outcome], *, wants_each: bool) -> HttpResponse:
    counts = {
        "accepted": outcomes.count(Stored.ACCEPTED),
        "duplicates": outcomes.count(Stored.DUPLICATE),
    }
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
            **counts,
        )
    if wants_each:
        each = [{"index": index, "outcome": outcome} for index, outcome in enumerate(outcomes)]
        return JsonResponse(counts | {"events": each})
    return HttpResponse(status=204)
