"""Chunked request bodies, made visible to Django."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings

Environ = dict[str, Any]
WSGI = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def buffer_chunked(application: WSGI) -> WSGI:
    """Read a chunked body, which has no Content-Length, and give Django its length.

    Django under WSGI reads as many bytes as Content-Length says and takes its absence for an
    empty body, so usage sent by clients that stream would be answered and lost. The view refuses
    what is longer than it takes: one byte above its limit is enough to tell.
    """

    def wrapped(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        chunked = environ.get("HTTP_TRANSFER_ENCODING", "").lower().endswith("chunked")
        if chunked and not environ.get("CONTENT_LENGTH"):
            body = environ["wsgi.input"].read(settings.USAGE_BODY_LIMIT_BYTES + 1)
            environ["wsgi.input"] = io.BytesIO(body)
            environ["CONTENT_LENGTH"] = str(len(body))
        return application(environ, start_response)

    return wrapped
