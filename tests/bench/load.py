"""The load generator: kept connections, requests made before the clock starts, strict answers."""

from __future__ import annotations

import http.client
import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.bench.stack import BenchFailed

ANSWER_SECONDS = 60


class LoadGenerator:
    """Posts bodies to one path over several connections, each waiting for its answer."""

    def __init__(
        self, *, port: int, path: str, headers: Mapping[str, str], connections: int, success: int
    ) -> None:
        self._port = port
        self._path = path
        self._headers = dict(headers)
        self._size = connections
        self._success = success
        self._connections: list[http.client.HTTPConnection] = []
        self._seconds: list[float] = []

    def open(self) -> None:
        """Connect anew, so that every repeat is dealt its own share of the server's processes."""
        self.close()
        self._connections = [
            http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
            for _ in range(self._size)
        ]
        for connection in self._connections:
            connection.connect()

    def close(self) -> None:
        """Give all connections back."""
        for connection in self._connections:
            connection.close()
        self._connections = []

    def post(self, bodies: Sequence[bytes]) -> None:
        """Post each body once.

        Raises:
            BenchFailed: an answer is no success.
        """
        pending = deque(bodies)
        with ThreadPoolExecutor(self._size) as threads:
            runs = [threads.submit(self._drain, each, pending) for each in self._connections]
            self._seconds = [seconds for run in runs for seconds in run.result()]

    def latencies(self) -> dict[str, float]:
        """Return the median and the 99th percentile of the last call's answers, in ms."""
        cuts = statistics.quantiles(self._seconds, n=100, method="inclusive")
        return {"p50 ms": cuts[49] * 1_000, "p99 ms": cuts[98] * 1_000}

    def _drain(self, connection: http.client.HTTPConnection, pending: deque[bytes]) -> list[float]:
        seconds: list[float] = []
        while True:
            try:
                body = pending.popleft()
            except IndexError:
                return seconds
            started_at = time.perf_counter()
            connection.request("POST", self._path, body, self._headers)
            answer = connection.getresponse()
            content = answer.read()
            seconds.append(time.perf_counter() - started_at)
            if answer.status != self._success:
                pending.clear()
                raise BenchFailed(f"The API answers {answer.status}: {content[:500].decode()}")
