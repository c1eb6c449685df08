"""Errors of addresses that nobody serves."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views import defaults

from billing.problems import problem


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer a program with a problem, a person with a page."""
    if request.path.startswith(("/api/", "/webhooks/")):
        return problem(404, "Not found", f"Nothing is served at {request.path}.")
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """As above; what went wrong is in the log and not in the answer."""
    if request.path.startswith(("/api/", "/webhooks/")):
        return problem(500, "Internal error", "Repeat the request; repetitions are safe.")
    return defaults.server_error(request)
