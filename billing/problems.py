"""Errors told to callers as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from typing import Any

from django.http import JsonResponse

CONTENT_TYPE = "application/problem+json"


def problem(status: int, title: str, detail: str = "", **members: Any) -> JsonResponse:
    """Return the answer for an error.

    `title` names the kind of problem and is the same each time; `detail` speaks of this one.
    `members` are further fields a program may read.
    """
    body: dict[str, Any] = {"status": status, "title": title}
    if detail:
        body["detail"] = detail
    response = JsonResponse(body | members, status=status, content_type=CONTENT_TYPE)
    if status == 401:  # noqa: PLR2004 - the status is the name
        response["WWW-Authenticate"] = 'Bearer realm="meterkeeper"'
    return response
