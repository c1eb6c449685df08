"""One kept connection to the API, and calls that are repeated until they are answered.

Repeating is safe because every call is: an event carries its id, a customer its external id.
"""

from __future__ import annotations

import http.client
import json
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

ANSWER_SECONDS = 30
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
ATTEMPTS = 10
"""With doubling pauses about 45 s, enough for a web server or a database to be restarted."""

REPEATABLE = frozenset({429, 502, 503, 504})
"""Not now, rather than not ever."""


class ReplayFailed(Exception):
    """The replay cannot go on. The message tells an operator why."""


class Stopped(Exception):
    """Another thread ended the replay while this one waited."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said. `body` is the decoded JSON object, empty when there was none."""

    status: int
    body: dict[str, Any]

    @property
    def reason(self) -> str:
        """The API's own sentence, or the bare status."""
        return str(self.body.get("detail") or self.body.get("title") or f"status {self.status}")


class ApiConnection:
    """A connection for one thread, opened when needed and again after it broke."""

    def __init__(self, *, api_url: str, api_key: str, stop: threading.Event) -> None:
        """Name the API and the key; setting `stop` ends the pauses between attempts.

        Raises:
            ReplayFailed: `api_url` is no HTTP address.
        """
        address = urlsplit(api_url)
        if address.scheme not in {"http", "https"} or not address.hostname:
            raise ReplayFailed(f"{api_url!r} is no address like http://127.0.0.1:8000.")
        secure = address.scheme == "https"
        connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._http = connect(address.hostname, address.port, timeout=ANSWER_SECONDS)
        self._api_url = api_url
        self._base = address.path.rstrip("/")
        self._authorization = f"Bearer {api_key}"
        self._stop = stop
        self.call_count = 0

    def post(self, path: str, body: bytes, *, content_type: str = "application/json") -> Answer:
        """Post until there is an answer that another attempt would not change.

        Raises:
            ReplayFailed: it is not reached, or unwell for longer than our patience.
            Stopped: the replay was ended meanwhile.
        """
        headers = {
            "Authorization": self._authorization,
            "Content-Type": content_type,
            "Prefer": "return=representation",
        }
        pause = FIRST_PAUSE_SECONDS
        for _ in range(ATTEMPTS):
            asked_for = 0.0
            try:
                self.call_count += 1
                self._http.request("POST", self._base + path, body, headers)
                response = self._http.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                # Its end is unknown; the repetition finds out.
                self._http.close()
                trouble = str(error) or type(error).__name__
            else:
                answer = Answer(response.status, _decoded(content))
                if answer.status not in REPEATABLE:
                    return answer
                trouble = f"it answers {answer.status}: {answer.reason}"
                asked_for = _seconds(response.headers.get("Retry-After"))
            if self._stop.wait(min(max(pause, asked_for), LONGEST_PAUSE_SECONDS)):
                raise Stopped
            pause *= 2
        raise ReplayFailed(f"The API at {self._api_url} is not reached ({trouble}). Is it running?")

    def close(self) -> None:
        """Give the connection back."""
        self._http.close()


def _decoded(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _seconds(retry_after: str | None) -> float:
    """Read the seconds of a Retry-After header; its other form, a date, is not worth it here."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
