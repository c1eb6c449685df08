"""Callers as they are: some hang up before the answer, some in mid-request, some never come back."""

from __future__ import annotations

import http.client
import json
import random
import threading
from collections import deque
from datetime import UTC, datetime, timedelta

from tests.chaos.ledger import Event, Ledger

PATH = "/api/v1/events"
ANSWER_SECONDS = 15
MOST_EVENTS = 200
HANG_UP_IN_MID_REQUEST = 0.05
GIVE_UP = 0.15
"""The chance that a caller whose request failed never comes back with it."""
SPOILED = 0.1
AGAIN = 0.1
"""The chance that a request is one that was sent before, by whichever caller."""
KNOWN = [f"customer-{number}" for number in range(20)]
UNKNOWN = ["nobody-yet-1", "nobody-yet-2"]

Sent = tuple[list[Event], bytes]


class Callers:
    """Some threads that send batches of 1 to 200 events until told to stop."""

    def __init__(
        self, *, port: int, key: str, ledger: Ledger, seed: int, count: int, drop_replies: float
    ) -> None:
        self._port = port
        self._key = key
        self._ledger = ledger
        self._drop_replies = drop_replies
        self._stopped = threading.Event()
        self._sent: deque[Sent] = deque(maxlen=50)
        self._threads = [
            threading.Thread(target=self._run, args=(number, random.Random(f"{seed} {number}")))
            for number in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each finish its attempt at hand."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, draw: random.Random) -> None:
        made = 0
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        while not self._stopped.is_set():
            if self._sent and draw.random() < AGAIN:
                sent = draw.choice(list(self._sent))
            else:
                count = draw.choice([1, draw.randint(1, 20), draw.randint(1, MOST_EVENTS)])
                events = [self._event(f"{number}-{made + n}", draw) for n in range(count)]
                made += count
                if draw.random() < SPOILED:
                    events[draw.randrange(count)] = _spoiled(f"bad-{number}-{made}")
                self._ledger.make(events)
                sent = (events, json.dumps([event.as_json() for event in events]).encode())
                self._sent.append(sent)
            self._deliver(connection, sent, draw)
        connection.close()

    def _event(self, event_id: str, draw: random.Random) -> Event:
        time = None
        if draw.random() < 0.8:
            ago = timedelta(seconds=draw.randrange(10 * 3_600))
            time = (datetime.now(UTC) - ago).isoformat()
        data = {"input_tokens": draw.randint(0, 2_000), "text": draw.choice(["a", "ü", "{,}"])}
        if draw.random() < 0.5:
            data["output_tokens"] = draw.randint(0, 500)
        return Event(event_id, "llm.call", draw.choice(KNOWN + UNKNOWN), time, data)

    def _deliver(
        self, connection: http.client.HTTPConnection, sent: Sent, draw: random.Random
    ) -> None:
        """Send one request until it is acknowledged, or the caller loses interest."""
        while not self._attempt(connection, sent, draw):
            if self._stopped.is_set() or draw.random() < GIVE_UP:
                self._ledger.count("given up")
                return
            self._stopped.wait(draw.uniform(0, 0.3))

    def _attempt(
        self, connection: http.client.HTTPConnection, sent: Sent, draw: random.Random
    ) -> bool:
        """Return whether the request was acknowledged."""
        events, body = sent
        fate = draw.random()
        if not self._is_connected(connection, draw):
            return False
        try:
            if fate < HANG_UP_IN_MID_REQUEST:
                self._begin(connection, len(body))
                connection.send(body[: draw.randrange(len(body))])
                connection.close()
                self._ledger.count("cut in mid-request")
                return False
            self._ledger.send_whole(events)
            self._begin(connection, len(body))
            connection.send(body)
            if fate < HANG_UP_IN_MID_REQUEST + self._drop_replies:
                # At once, or when it may just be stored.
                self._stopped.wait(draw.choice([0, draw.uniform(0, 0.05)]))
                connection.close()
                self._ledger.count("replies dropped")
                return False
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            self._ledger.count("connections lost")
            return False
        return self._told(events, answer.status, content)

    def _is_connected(self, connection: http.client.HTTPConnection, draw: random.Random) -> bool:
        """Connect, as often as it takes: while the server is down nothing leaves us."""
        while connection.sock is None:
            try:
                connection.connect()
            except OSError:
                self._ledger.count("connections refused")
                if self._stopped.wait(draw.uniform(0.1, 0.4)):
                    return False
        return True

    def _begin(self, connection: http.client.HTTPConnection, length: int) -> None:
        connection.putrequest("POST", PATH)
        connection.putheader("Authorization", f"Bearer {self._key}")
        connection.putheader("Content-Type", "application/cloudevents-batch+json")
        connection.putheader("Content-Length", str(length))
        connection.endheaders()

    def _told(self, events: list[Event], status: int, content: bytes) -> bool:
        if status == 503:
            self._ledger.count("503 answers")
            return False
        bad = [index for index, event in enumerate(events) if not event.is_good]
        if status == 204 and not bad:
            self._ledger.acknowledge(events)
            return True
        if status == 400 and bad:
            told = json.loads(content)
            good = len(events) - len(bad)
            if [error["index"] for error in told.get("errors", [])] == bad and told[
                "accepted"
            ] + told["duplicates"] == good:
                self._ledger.acknowledge(events)
                return True
        self._ledger.surprise(f"{status} for {len(events)} events: {content[:300]!r}")
        return True


def _spoiled(event_id: str) -> Event:
    return Event(event_id, "llm.call", KNOWN[0], None, {"input_tokens": -1}, is_good=False)
