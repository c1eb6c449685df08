"""A chunked body reaches Django whole, and one beyond the limit is cut where it can be told."""

from __future__ import annotations

import io

import pytest
from django.conf import settings

from billing_project.chunked import buffer_chunked

pytestmark = pytest.mark.unit


def call(body: bytes, **environ) -> tuple[bytes, str | None]:
    seen = {}

    def application(environ, start_response):
        seen["length"] = environ.get("CONTENT_LENGTH")
        length = int(environ.get("CONTENT_LENGTH") or 0)
        seen["body"] = environ["wsgi.input"].read(length)
        return [b""]

    buffer_chunked(application)({"wsgi.input": io.BytesIO(body)} | environ, lambda *_: None)
    return seen["body"], seen["length"]


@pytest.mark.parametrize("encoding", ["chunked", "Chunked", "gzip, chunked"])
def test_a_chunked_body_gets_its_length(encoding):
    assert call(b"usage", HTTP_TRANSFER_ENCODING=encoding) == (b"usage", "5")


def test_a_body_with_a_length_is_left_alone():
    assert call(b"usage", CONTENT_LENGTH="3") == (b"usa", "3")


def test_a_body_without_either_is_empty():
    assert call(b"usage") == (b"", None)


def test_no_more_is_read_than_shows_that_it_is_too_much():
    limit = settings.USAGE_BODY_LIMIT_BYTES

    body, length = call(b"x" * (limit + 100), HTTP_TRANSFER_ENCODING="chunked")

    assert (len(body), length) == (limit + 1, str(limit + 1))
