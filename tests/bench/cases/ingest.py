"""Ingest over HTTP against the same SQL without HTTP, in batches of 1, 100 and 1,000.

Both write the same LLM calls to the same tables, with a durable commit per batch and the same
number of batches in flight. The reference is given events that are decoded and validated already
and runs the product's own statement in this process, so what lies between the two is the web
server, Django, authentication, decoding and validation.

The ids are ordered in time, as our own client makes them; the tables are empty before each run.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from threading import Barrier

from django.db import connection, transaction
from django.utils import timezone

from billing import authentication
from billing.enums import Aggregation, Scope
from billing.models import Meter, MeterVersion
from tests.bench import cpu, stack
from tests.bench.load import LoadGenerator
from tests.bench.variants import Variant
from usage import ingestion, traffic
from usage.api.bodies import BATCH
from usage.cloud_events import read_event
from usage.models import UsageEvent

EVENTS = {1: 3_000, 100: 60_000, 1_000: 100_000}
"""Events per run, by batch size: one to four seconds each on two cores."""

IN_FLIGHT = 8
WARM_UP_REQUESTS = 100
CUSTOMERS = 1_000
METERS = ("input_tokens", "cached_input_tokens", "output_tokens", "total_tokens")

Reported = list[tuple[bytes, ingestion.ReportedEvent]]
"""What the product's statement takes: events with their digests, each id once."""


@contextlib.contextmanager
def variants(*, scale: float, backends: stack.Backends) -> Iterator[list[Variant]]:
    """Yield both ways for each batch size; `scale` shortens or lengthens the runs."""
    _make_meters()
    key, plain = authentication.issue("bench", [Scope.INGEST])
    events = _events(max(EVENTS.values()) * max(1.0, scale))
    with stack.web_server() as (port, server), contextlib.ExitStack() as closing:
        made: list[Variant] = []
        for batch, full in EVENTS.items():
            count = max(2, round(full * scale / batch)) * batch
            batches = [events[start : start + batch] for start in range(0, count, batch)]
            load = LoadGenerator(
                port=port,
                path="/api/v1/events",
                headers={
                    "Authorization": f"Bearer {plain}",
                    "Content-Type": BATCH,
                },
                connections=IN_FLIGHT,
                success=204,
            )
            writers = _Writers(source_id=key.source_id)
            closing.callback(writers.close)
            made += [
                _over_http(
                    name=f"http-{batch}",
                    reference=f"sql-{batch}",
                    batches=batches,
                    load=load,
                    server=server,
                    backends=backends,
                ),
                _sql_alone(
                    name=f"sql-{batch}", batches=batches, writers=writers, backends=backends
                ),
            ]
        yield made


def _over_http(
    *,
    name: str,
    reference: str,
    batches: Sequence[Sequence[bytes]],
    load: LoadGenerator,
    server: int,
    backends: stack.Backends,
) -> Variant:
    bodies = [b"[" + b",".join(batch) + b"]" for batch in batches]
    count = sum(map(len, batches))

    def prepare() -> None:
        _renew_connections(backends)
        load.open()
        load.post([b"[" + batches[0][0] + b"]"] * WARM_UP_REQUESTS)
        _empty_tables()

    return Variant(
        name=name,
        reference=reference,
        events=count,
        prepare=prepare,
        run=partial(load.post, bodies),
        check=partial(_require_stored, count),
        clean=load.close,
        figures=load.latencies,
        meters={
            "app": partial(cpu.process_tree, server),
            "db": backends.reading,
            "load": cpu.own_process,
        },
    )


def _sql_alone(
    *, name: str, batches: Sequence[Sequence[bytes]], writers: _Writers, backends: stack.Backends
) -> Variant:
    reported = [_reported(batch) for batch in batches]
    count = sum(map(len, batches))

    def prepare() -> None:
        _renew_connections(backends)
        writers.open()
        _empty_tables()

    return Variant(
        name=name,
        events=count,
        prepare=prepare,
        run=partial(writers.write, reported),
        check=partial(_require_stored, count),
        clean=writers.close,
        meters={"db": backends.reading, "app": cpu.own_process},
    )


class _Writers:
    """Threads of this process with a database connection each."""

    def __init__(self, *, source_id: int) -> None:
        self._source_id = source_id
        self._threads: ThreadPoolExecutor | None = None
        self._all_there = Barrier(IN_FLIGHT)

    def open(self) -> None:
        self._threads = ThreadPoolExecutor(IN_FLIGHT)
        for opened in [self._threads.submit(self._connect) for _ in range(IN_FLIGHT)]:
            opened.result()

    def write(self, batches: Sequence[Reported]) -> None:
        pending = deque(batches)
        assert self._threads is not None
        for drained in [self._threads.submit(self._drain, pending) for _ in range(IN_FLIGHT)]:
            drained.result()

    def close(self) -> None:
        if self._threads is not None:
            for closed in [self._threads.submit(self._disconnect) for _ in range(IN_FLIGHT)]:
                closed.result()
            self._threads.shutdown()
            self._threads = None

    def _connect(self) -> None:
        connection.ensure_connection()
        self._all_there.wait()

    def _disconnect(self) -> None:
        connection.close()
        self._all_there.wait()

    def _drain(self, pending: deque[Reported]) -> None:
        while True:
            try:
                events = pending.popleft()
            except IndexError:
                return
            with transaction.atomic(durable=True):
                ingestion._insert(source_id=self._source_id, events=events, now=timezone.now())


def _events(count: float) -> list[bytes]:
    trace = traffic.generate_trace(events=round(count), seed=1)
    spread = traffic.Spread(customers=CUSTOMERS, seed=1)
    shift = datetime.now(UTC) - trace.last_at
    return [
        json.dumps(event, separators=(",", ":")).encode()
        for event in traffic.cloud_events(trace=trace, spread=spread, shift=shift)
    ]


def _reported(batch: Sequence[bytes]) -> Reported:
    reported: Reported = []
    for text in batch:
        event = read_event(text)
        if isinstance(event, ingestion.Refusal):
            raise stack.BenchFailed(f"The benchmark's own event is refused: {event}")
        reported.append((event.digest, event))
    return reported


def _make_meters() -> None:
    for slug in METERS:
        meter = Meter.objects.create(
            slug=slug.replace("_", "-"),
            display_name=slug,
            event_name=slug,
            aggregation=Aggregation.SUM,
            unit="token",
        )
        MeterVersion.objects.create(
            meter=meter,
            event_type=traffic.EVENT_TYPE,
            value_property=slug,
            measures=[slug],
            effective_from=datetime(2020, 1, 1, tzinfo=UTC),
        )


def _renew_connections(backends: stack.Backends) -> None:
    """End all connections, so that none reaches its greatest age, and is replaced, in mid-run."""
    connection.close()
    backends.end()


def _empty_tables() -> None:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE usage_usageevent, usage_ingestbatch, usage_eventconflict")


def _require_stored(count: int) -> None:
    stored = UsageEvent.objects.count()
    if stored != count:
        raise stack.BenchFailed(f"{count:,} events were sent and {stored:,} are stored.")
