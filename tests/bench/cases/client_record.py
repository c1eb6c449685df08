"""What `record()` of the Python client costs its caller, with the events kept in memory or on disk.

One thread reports LLM calls as fast as it can, and the client's own thread sends them meanwhile to a
server in another process that takes everything. `p50` and `p99` are of single calls by the wall
clock, the clock itself (0.05 µs) included; `mean` is of all calls; `own CPU` leaves out what others on
the machine, and the sender, took in between; `no CPU` is the part of the mean in which the thread could
have run and no processor was free, which is the machine's load and not the client's.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meterkeeper_client import Meterkeeper

from tests.bench import cpu, stack
from tests.bench.variants import Variant

CALLS = 100_000
FLUSH_SECONDS = 60
USE = {
    "model": "m-1-large",
    "input_tokens": 1_200,
    "cached_input_tokens": 100,
    "output_tokens": 350,
    "total_tokens": 1_550,
}


@contextlib.contextmanager
def variants(*, scale: float, backends: stack.Backends) -> Iterator[list[Variant]]:
    """Yield one for each place where events wait; no database takes part."""
    del backends
    calls = max(100, round(CALLS * scale))
    with _sink() as port, tempfile.TemporaryDirectory(prefix="meterkeeper-spool-") as spool:
        yield [
            _Recording(name="memory", spool=None, port=port, calls=calls).variant(None),
            _Recording(name="spool", spool=spool, port=port, calls=calls).variant("memory"),
        ]


@contextlib.contextmanager
def _sink() -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.sink"],
        cwd=stack.ROOT,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as sink:
        try:
            assert sink.stdout is not None
            yield int(sink.stdout.readline())
        finally:
            stack.stop(sink)


@dataclass(slots=True, kw_only=True)
class _Recording:
    name: str
    spool: str | None
    port: int
    calls: int
    _client: Meterkeeper | None = None
    _nanoseconds: list[int] = field(default_factory=list)
    _cpu_seconds: float = 0.0
    _waited_nanoseconds: int = 0

    def variant(self, reference: str | None) -> Variant:
        return Variant(
            name=self.name,
            reference=reference,
            events=self.calls,
            prepare=self.prepare,
            run=self.run,
            check=self.check,
            clean=self.clean,
            figures=self.figures,
            # Caller and sender together.
            meters={"app": cpu.own_process},
        )

    def prepare(self) -> None:
        self._client = Meterkeeper(
            f"http://127.0.0.1:{self.port}",
            "mk_of_the_benchmark",
            spool=self.spool,
            queue_events=2 * self.calls,
            queue_bytes=1 << 30,
        )
        self._client.record("llm.call", "customer-1", USE)
        self._client.flush(FLUSH_SECONDS)

    def run(self) -> None:
        assert self._client is not None
        record, now = self._client.record, time.perf_counter_ns
        taken = [0] * self.calls
        waited_before = _waited_for_cpu()
        cpu_before = time.thread_time()
        for index in range(self.calls):
            began = now()
            record("llm.call", "customer-1", USE)
            taken[index] = now() - began
        self._cpu_seconds = time.thread_time() - cpu_before
        self._waited_nanoseconds = _waited_for_cpu() - waited_before
        self._nanoseconds = taken

    def check(self) -> None:
        """Wait until all is sent.

        Raises:
            BenchFailed: the sender did not run, or an event was not taken.
        """
        assert self._client is not None
        settled = self._client.flush(FLUSH_SECONDS)
        stats = self._client.stats()
        if not settled or stats.stored != self.calls + 1:
            raise stack.BenchFailed(f"Not every event was sent: {stats}")

    def clean(self) -> None:
        if self._client is not None:
            self._client.close()

    def figures(self) -> Mapping[str, float]:
        cuts = statistics.quantiles(self._nanoseconds, n=100, method="inclusive")
        return {
            "mean µs": statistics.fmean(self._nanoseconds) / 1_000,
            "p50 µs": cuts[49] / 1_000,
            "p99 µs": cuts[98] / 1_000,
            "own CPU µs": self._cpu_seconds * 1_000_000 / self.calls,
            "no CPU µs": self._waited_nanoseconds / 1_000 / self.calls,
        }


def _waited_for_cpu() -> int:
    """Return for how many nanoseconds this thread was ready to run and did not."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1])
