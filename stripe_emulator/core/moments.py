"""Unix seconds and RFC 3339, both in UTC."""

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)


def rfc3339(at: float) -> str:
    """Write a moment as v2 does, in milliseconds."""
    moment = _EPOCH + timedelta(milliseconds=int(at * 1000))
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def unix_second(text: str) -> int:
    """Read an RFC 3339 moment as the whole second it lies in; anything else raises ValueError."""
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"Not an RFC 3339 timestamp: {text[:40]}")
    moment = datetime.fromisoformat(text.upper())
    return (moment - _EPOCH) // timedelta(seconds=1)


def utc(at: float) -> datetime:
    return _EPOCH + timedelta(seconds=at)
