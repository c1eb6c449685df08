"""Compressed bodies: inflated up to a bound, because a few bytes can stand for gigabytes."""

from __future__ import annotations

import zlib

from django.conf import settings

from usage.api.bodies import Body

MEMBERS_AT_MOST = 100
"""A writer that flushes may begin anew; each beginning costs us a copy of what follows."""
GZIP = 16 + zlib.MAX_WBITS
"""Tells zlib to expect gzip's header and checksum, and nothing else."""


def inflated(body: bytes, encoding: str) -> bytes:
    """Return what a body is without its `Content-Encoding`: gzip, or none.

    At most as much is inflated as a request may be large, and as USAGE_GZIP_RATIO allows for so
    many bytes; whatever is beyond is refused and never held.

    Raises:
        Body: the encoding is another one, the body is not whole, or it is too large inflated.
    """
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return body
    if encoding not in {"gzip", "x-gzip"}:
        raise Body(415, "Content-Encoding must be gzip, or left out.")
    limit = min(settings.USAGE_BODY_LIMIT_BYTES, len(body) * settings.USAGE_GZIP_RATIO)
    text, rest, members = b"", body, 0
    while rest or not members:
        members += 1
        if members > MEMBERS_AT_MOST:
            raise Body(400, f"A gzip body takes at most {MEMBERS_AT_MOST} members.")
        inflating = zlib.decompressobj(GZIP)
        try:
            text += inflating.decompress(rest, limit + 1 - len(text))
        except zlib.error as error:
            raise Body(400, f"The body is not gzip: {error}.") from error
        if len(text) > limit:
            raise Body(
                413,
                f"Inflated, a request takes at most {settings.USAGE_BODY_LIMIT_BYTES} bytes and"
                f" {settings.USAGE_GZIP_RATIO} times what was sent.",
            )
        if not inflating.eof:
            raise Body(400, "The gzip body ended early.")
        # As gzip itself does, what fills up a last block is not taken for another member.
        rest = inflating.unused_data.lstrip(b"\0")
    return text
