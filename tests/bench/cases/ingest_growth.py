"""Storing events beside a history of one million and of ten million, by ids in time and at random.

The index of event ids is all that grows with history. Ids ordered in time, as our own client makes
them, are added at its end; random ones each touch another page, which after a checkpoint is
written whole into the log. So each run begins with a checkpoint. The events come by the thousand
and are decoded already; judging, digests and writing are the product's own. Each run adds to its
history what it stores.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from django.db import connection

from billing import steps
from billing.models import Source
from tests.bench import cpu, history, stack
from tests.bench.variants import Variant
from usage import traffic
from usage.clock import database_clock
from usage.ingestion import accept
from usage.models import UsageEvent
from usage.reports import ReportedEvent

EVENTS = 200_000
BATCH = 1_000
HISTORIES = {"1M": 1_000_000, "10M": 10_000_000}
ORDERS = {"in-time": True, "random": False}
DATA = {"model": "a-model", "input_tokens": 912, "output_tokens": 85}
DATA_JSON = '{"model":"a-model","input_tokens":912,"output_tokens":85}'


@contextlib.contextmanager
def variants(*, scale: float, backends: stack.Backends) -> Iterator[list[Variant]]:
    """Yield one for each history and order; `scale` shortens or lengthens all of it."""
    made = []
    smaller, _ = HISTORIES
    events = max(1, round(EVENTS * scale / BATCH)) * BATCH
    for order, is_ordered in ORDERS.items():
        for name, size in HISTORIES.items():
            schema = f"history_{name}_{order}".lower().replace("-", "_")
            history.build(schema, round(size * scale), ordered=is_ordered)
            made.append(
                _Beside(
                    name=f"{name}-{order}",
                    reference=None if name == smaller else f"{smaller}-{order}",
                    schema=schema,
                    is_ordered=is_ordered,
                    events=events,
                ).variant(backends)
            )
    yield made


@dataclass(slots=True, kw_only=True)
class _Beside:
    """Stores beside one history, which stands in `schema`."""

    name: str
    reference: str | None
    schema: str
    is_ordered: bool
    events: int
    _batches: Sequence[Sequence[ReportedEvent]] = field(default_factory=list)
    _before: int = 0

    def variant(self, backends: stack.Backends) -> Variant:
        return Variant(
            name=self.name,
            reference=self.reference,
            events=self.events,
            prepare=self.prepare,
            run=self.run,
            check=self.check,
            meters={"db": backends.reading, "app": cpu.own_process},
        )

    def prepare(self) -> None:
        connection.close()
        history.enter(self.schema)
        now = database_clock()
        ids = [self._event_id(now.timestamp() * 1_000 + number) for number in range(self.events)]
        reports = [
            ReportedEvent(
                event_id=event_id,
                type=traffic.EVENT_TYPE,
                subject=f"bench-{number % history.CUSTOMERS}",
                occurred_at=now - timedelta(seconds=number % 3_600),
                data=DATA,
                data_json=DATA_JSON,
            )
            for number, event_id in enumerate(ids)
        ]
        self._batches = [reports[at : at + BATCH] for at in range(0, self.events, BATCH)]
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0")
            self._before = UsageEvent.objects.count()
            cursor.execute("CHECKPOINT")
            cursor.execute("RESET statement_timeout")

    def run(self) -> None:
        source_id = Source.objects.get().pk
        for reports in self._batches:
            with steps.commit("tests.bench.store", durable=True):
                accept(source_id=source_id, reports=reports, now=database_clock())

    def check(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0")
        stored = UsageEvent.objects.count() - self._before
        if stored != self.events:
            raise stack.BenchFailed(f"{self.events:,} events were told and {stored:,} are stored.")

    def _event_id(self, milliseconds: float) -> str:
        random = uuid.uuid4().hex
        if not self.is_ordered:
            return str(uuid.UUID(random))
        return str(uuid.UUID(f"{int(milliseconds):012x}7{random[13:]}"))
