"""Errors that no view of ours answers."""

from __future__ import annotations

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.views import defaults

from billing.problems import problem


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer a program with a problem, a person with a page."""
    if request.path.startswith(("/api/", "/webhooks/")):
        return problem(404, "Not found", f"Nothing is served at {request.path}.")
    return defaults.page_not_found(request, exception)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """As above, for what Django refuses to read: a body too large, or a host not ours."""
    if request.path.startswith(("/api/", "/webhooks/")):
        if isinstance(exception, RequestDataTooBig):
            return problem(413, "The request cannot be read", "The body is too large.")
        return problem(400, "Bad request", "The request cannot be read.")
    return defaults.bad_request(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """As above; what went wrong is in the log and not in the answer."""
    if request.path.startswith(("/api/", "/webhooks/")):
        return problem(500, "Internal error", "Repeat the request; repetitions are safe.")
    return defaults.server_error(request)
