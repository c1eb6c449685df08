"""One call to the server, and what its answer means for the events in it."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import http.client
import json
import ssl
import time
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from enum import Enum
from urllib.parse import urlsplit

# Python loads it at the first look-up of a host. If that is in one thread while another forks, the
# child finds it half loaded, and can never look up a host again.
codecs.lookup("idna")

MOST_ANSWER_BYTES = 1024 * 1024
MOST_RETRY_AFTER_SECONDS = 3600.0
PROBLEM = "application/problem+json"


class Fate(Enum):
    """What becomes of a batch after an answer."""

    STORED = "every event is durable at the server, but those refused by name"
    UNREADABLE = "nothing is stored, because of some event or because there are too many"
    LATER = "unknown or not now: the same again"
    DENIED = "a person must mend something first; the same again, slowly"


@dataclass(frozen=True)
class Refusal:
    """One event the server refuses for good."""

    index: int
    detail: str


@dataclass(frozen=True)
class Answer:
    """What a call came to. `retry_after` is in seconds."""

    fate: Fate
    detail: str = ""
    refusals: tuple[Refusal, ...] = ()
    retry_after: float | None = None
    is_too_large: bool = False
    is_answered: bool = True


class Transport:
    """A kept connection to one server. Used by one thread."""

    def __init__(
        self, url: str, key: str, *, timeout: float, compress: bool, context: ssl.SSLContext | None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("url must be such as https://meterkeeper.example.com")
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError("key must be the API key that was issued")
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/") + "/api/v1/events"
        self._is_secure = parts.scheme == "https"
        self._context = context
        self._timeout = timeout
        self._compress = compress
        self._headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/cloudevents-batch+json",
            "User-Agent": "meterkeeper-client/0.1.0",
        }
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes, count: int) -> Answer:
        """Send `count` events and judge the answer. Raises nothing that the network can cause."""
        is_kept = self._connection is not None
        try:
            try:
                return self._post(body, count)
            except ConnectionError:
                if not is_kept:
                    raise
                # Most likely the server closed a connection that was idle; a repeat adds nothing.
                self.close()
                return self._post(body, count)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            detail = f"no answer: {error.__class__.__name__}: {error}"
            return Answer(Fate.LATER, detail, is_answered=False)

    def close(self) -> None:
        """Give the connection back; the next call makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()

    def _post(self, body: bytes, count: int) -> Answer:
        headers = self._headers
        if self._compress:
            headers = headers | {"Content-Encoding": "gzip"}
            body = gzip.compress(body, compresslevel=1, mtime=0)
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request("POST", self._path, body, headers)
        response = self._connection.getresponse()
        content = response.read(MOST_ANSWER_BYTES)
        if not response.isclosed():
            self.close()
        if response.status == http.client.UNSUPPORTED_MEDIA_TYPE and self._compress:
            self._compress = False
            return Answer(Fate.LATER, "the server takes no gzip; sending without", retry_after=0)
        return judge(response.status, response.headers, content, count)

    def _connect(self) -> http.client.HTTPConnection:
        if not self._is_secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        if self._context is None:
            self._context = ssl.create_default_context()
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout, context=self._context
        )


def judge(status: int, headers: Message, content: bytes, count: int) -> Answer:
    """Return what an answer means for the `count` events that were sent.

    Only an answer of the API's own form settles events: what a proxy or a login page says about
    them, be it "200", is no reason to lose any.
    """
    is_ours = headers.get("Content-Type", "").partition(";")[0].strip().lower() == PROBLEM
    problem = _object(content) if is_ours else {}
    detail = f"{status} {problem.get('detail') or problem.get('title') or ''}".strip()
    is_json = headers.get("Content-Type", "").startswith("application/json")
    if status == http.client.NO_CONTENT or (status == http.client.OK and is_json):
        return Answer(Fate.STORED)
    if status == http.client.BAD_REQUEST and "errors" in problem:
        refusals = _refusals(problem["errors"], count)
        if refusals:
            return Answer(Fate.STORED, detail, refusals)
    if status == http.client.REQUEST_ENTITY_TOO_LARGE and (is_ours or count > 1):
        return Answer(Fate.UNREADABLE, detail, is_too_large=True)
    if status in {400, 422} and is_ours:
        return Answer(Fate.UNREADABLE, detail)
    if status in {408, 409, 425, 429} or status >= 500:  # noqa: PLR2004 - the server's errors
        return Answer(Fate.LATER, detail, retry_after=_retry_after(headers))
    return Answer(Fate.DENIED, detail, retry_after=_retry_after(headers))


def _refusals(errors: object, count: int) -> tuple[Refusal, ...]:
    """Return one refusal per event, or none when they cannot be told."""
    found: dict[int, str] = {}
    for error in errors if isinstance(errors, list) else []:
        index = error.get("index") if isinstance(error, dict) else None
        if type(index) is not int or not 0 <= index < count:
            return ()
        found.setdefault(index, f"{error.get('field') or 'it'} {error.get('reason')}")
    return tuple(Refusal(index, detail) for index, detail in sorted(found.items()))


def _object(content: bytes) -> dict[str, object]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _retry_after(headers: Message) -> float | None:
    """Return the seconds a `Retry-After` asks for, as a number or as a date; None without one."""
    text = headers.get("Retry-After", "").strip()
    try:
        if text.isdecimal():
            seconds = float(text)
        else:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, seconds), MOST_RETRY_AFTER_SECONDS)
