"""Ingest over HTTP, in requests of 1, 100 and 1,000 events, beside the bare SQL path.

All write the same LLM calls to the same tables, with a durable commit per request and the same
number of requests in flight; the ids are ordered in time, as our own client makes them, and the
tables are empty before each run. `bare` is given events that are decoded, judged and digested and
writes them from this process, so what lies between the two is the web server, Django, keys and
reading strictly. `orm` is the product's view with its events written by `bulk_create`. `alone` is
the product with a commit for each request of one event, which otherwise share them; `delay` is the
same with PostgreSQL's `commit_delay`, which lets commits share the flush of the log.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from threading import Barrier
from urllib.parse import quote

from django.db import connection, transaction
from django.utils import timezone

from billing import authentication
from billing.enums import Aggregation, Scope
from billing.models import Meter, MeterVersion
from tests.bench import bare_path, cpu, stack
from tests.bench.load import LoadGenerator
from tests.bench.variants import Variant
from usage import traffic
from usage.api.bodies import BATCH
from usage.cloud_events import read_event
from usage.models import UsageEvent
from usage.reports import Refusal, Row, row_of

EVENTS = {1: 6_000, 100: 60_000, 1_000: 100_000}
"""Events per run, by request size: one to four seconds each on two cores."""

IN_FLIGHT = {1: 32, 100: 8, 1_000: 8}
"""Single events come from many callers at once."""
WARM_UP_REQUESTS = 100
COMMIT_DELAY_MICROSECONDS = 250
"""About what a flush of the log takes here, which is what PostgreSQL's manual proposes."""
CUSTOMERS = 1_000
METERS = ("input_tokens", "cached_input_tokens", "output_tokens", "total_tokens")


@contextlib.contextmanager
def variants(*, scale: float, backends: stack.Backends) -> Iterator[list[Variant]]:
    """Yield all ways for each request size; `scale` shortens or lengthens the runs."""
    make_meters()
    key, plain = authentication.issue("bench", [Scope.INGEST])
    events = _events(max(EVENTS.values()) * max(1.0, scale))
    with contextlib.ExitStack() as closing:
        started = {
            "http": closing.enter_context(stack.web_server()),
            "alone": closing.enter_context(
                stack.web_server(environment={"USAGE_SHARED_COMMIT_EVENTS": "0"})
            ),
            "delay": closing.enter_context(stack.web_server(environment=_with_commit_delay())),
            "orm": closing.enter_context(
                stack.web_server(application="tests.bench.orm_wsgi:application")
            ),
        }
        ways = {1: ("http", "alone", "delay"), 100: ("http", "orm"), 1_000: ("http", "orm")}
        made: list[Variant] = []
        for size, full in EVENTS.items():
            count = max(2, round(full * scale / size)) * size
            batches = [events[start : start + size] for start in range(0, count, size)]
            made += [
                _over_http(
                    name=f"{way}-{size}",
                    reference=f"bare-{size}",
                    batches=batches,
                    load=_load(port=started[way][0], key=plain, connections=IN_FLIGHT[size]),
                    server=started[way][1],
                    backends=backends,
                )
                for way in ways[size]
            ]
            writers = _Writers(source_id=key.source_id, count=IN_FLIGHT[size])
            closing.callback(writers.close)
            made.append(
                _bare(name=f"bare-{size}", batches=batches, writers=writers, backends=backends)
            )
        yield made


def _with_commit_delay() -> dict[str, str]:
    url = os.environ["DATABASE_URL"]
    options = quote(f"-c timezone=UTC -c commit_delay={COMMIT_DELAY_MICROSECONDS}")
    return {
        "USAGE_SHARED_COMMIT_EVENTS": "0",
        "DATABASE_URL": f"{url}{'&' if '?' in url else '?'}options={options}",
    }


def _load(*, port: int, key: str, connections: int) -> LoadGenerator:
    return LoadGenerator(
        port=port,
        path="/api/v1/events",
        headers={"Authorization": f"Bearer {key}", "Content-Type": BATCH},
        connections=connections,
        success=204,
    )


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


def _bare(
    *, name: str, batches: Sequence[Sequence[bytes]], writers: _Writers, backends: stack.Backends
) -> Variant:
    rows = [_rows(batch) for batch in batches]
    count = sum(map(len, batches))

    def prepare() -> None:
        _renew_connections(backends)
        writers.open()
        _empty_tables()

    return Variant(
        name=name,
        events=count,
        prepare=prepare,
        run=partial(writers.write, rows),
        check=partial(_require_stored, count),
        clean=writers.close,
        meters={"db": backends.reading, "app": cpu.own_process},
    )


class _Writers:
    """Threads of this process with a database connection each."""

    def __init__(self, *, source_id: int, count: int) -> None:
        self._source_id = source_id
        self._count = count
        self._threads: ThreadPoolExecutor | None = None
        self._all_there = Barrier(count)

    def open(self) -> None:
        self._threads = ThreadPoolExecutor(self._count)
        for opened in [self._threads.submit(self._connect) for _ in range(self._count)]:
            opened.result()

    def write(self, batches: Sequence[Sequence[Row]]) -> None:
        pending = deque(batches)
        assert self._threads is not None
        for drained in [self._threads.submit(self._drain, pending) for _ in range(self._count)]:
            drained.result()

    def close(self) -> None:
        if self._threads is not None:
            for closed in [self._threads.submit(self._disconnect) for _ in range(self._count)]:
                closed.result()
            self._threads.shutdown()
            self._threads = None

    def _connect(self) -> None:
        connection.ensure_connection()
        self._all_there.wait()

    def _disconnect(self) -> None:
        connection.close()
        self._all_there.wait()

    def _drain(self, pending: deque[Sequence[Row]]) -> None:
        while True:
            try:
                rows = pending.popleft()
            except IndexError:
                return
            with transaction.atomic(durable=True):
                bare_path.write(source_id=self._source_id, rows=rows, now=timezone.now())


def _events(count: float) -> list[bytes]:
    trace = traffic.generate_trace(events=round(count), seed=1)
    spread = traffic.Spread(customers=CUSTOMERS, seed=1)
    shift = datetime.now(UTC) - trace.last_at
    return [
        json.dumps(event, separators=(",", ":")).encode()
        for event in traffic.cloud_events(trace=trace, spread=spread, shift=shift)
    ]


def _rows(batch: Sequence[bytes]) -> Sequence[Row]:
    rows = []
    for text in batch:
        event = read_event(text)
        if isinstance(event, Refusal):
            raise stack.BenchFailed(f"The benchmark's own event is refused: {event}")
        rows.append(row_of(event))
    return rows


def make_meters() -> None:
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
