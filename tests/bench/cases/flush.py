"""Flushing fresh events beside a history of one million and of ten million flushed ones.

Both histories stand in the same database, each in a schema of its own, and take turns. What is fresh
came by the thousand, or one by one as callers without a buffer report it. An event's flush must not
cost more for what was flushed before it, and it must leave no dead row of any event: `dead events` and `dead batches` are the row versions a flush left behind, `WAL B` the bytes of log
written for each event (by everybody on the server). Each run adds what it flushes to its history.
`ingest` measures in the same unit what an event costs before this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from django.db import connection
from django.db.models import Sum

from tests.bench import cpu, history, stack
from tests.bench.variants import Variant
from usage import flush
from usage.clock import database_clock
from usage.models import IngestBatch, Submission

EVENTS = {1_000: 100_000, 1: 5_000}
"""Events per run, by batch size: a run takes no more than 5,000 batches."""

HISTORIES = {"1M": 1_000_000, "10M": 10_000_000}
FLUSH_SECONDS = 600


@contextlib.contextmanager
def variants(*, scale: float, backends: stack.Backends) -> Iterator[list[Variant]]:
    """Yield one for each history; `scale` shortens or lengthens histories and runs alike."""
    schemas = {name: f"history_{name.lower()}" for name in HISTORIES}
    for name, events in HISTORIES.items():
        history.build(schemas[name], round(events * scale))
    smaller, _ = HISTORIES
    yield [
        _Beside(
            name=f"{name}-by-{batch}",
            reference=None if name == smaller else f"{smaller}-by-{batch}",
            schema=schemas[name],
            batch=batch,
            events=max(1, round(events * scale / batch)) * batch,
        ).variant(backends)
        for batch, events in EVENTS.items()
        for name in HISTORIES
    ]


@dataclass(slots=True, kw_only=True)
class _Beside:
    """Runs beside one history, which stands in `schema`."""

    name: str
    reference: str | None
    schema: str
    batch: int
    events: int
    _flushed: int = 0
    _submissions_before: int = 0
    _expected: Decimal = Decimal(0)
    _before: Mapping[str, int] = field(default_factory=dict)
    _after: Mapping[str, int] = field(default_factory=dict)

    def variant(self, backends: stack.Backends) -> Variant:
        return Variant(
            name=self.name,
            reference=self.reference,
            events=self.events,
            prepare=self.prepare,
            run=self.run,
            check=self.check,
            figures=self.figures,
            meters={"db": backends.reading, "app": cpu.own_process},
        )

    def prepare(self) -> None:
        connection.close()
        history.enter(self.schema)
        history.write_fresh(self.events, per_batch=self.batch)
        self._expected = history.waiting_total()
        self._submissions_before = Submission.objects.order_by("-pk").values_list("pk", flat=True)[
            0
        ]
        # A checkpoint in mid-run would have pages written whole into the log.
        with connection.cursor() as cursor:
            cursor.execute("CHECKPOINT")
        self._before = _written()

    def run(self) -> None:
        results = list(flush.flush_waiting(clock=database_clock, seconds=FLUSH_SECONDS))
        self._flushed = sum(result.event_count for result in results)

    def check(self) -> None:
        """Compare what was folded with what waited.

        Raises:
            BenchFailed: events are left, or their total is another, or dead rows of events are.
        """
        self._after = _written()
        left = IngestBatch.objects.filter(run__isnull=True).count()
        if left or self._flushed != self.events:
            raise stack.BenchFailed(
                f"{self._flushed:,} of {self.events:,} events were flushed; {left:,} batches wait."
            )
        folded = Submission.objects.filter(pk__gt=self._submissions_before).aggregate(
            total=Sum("value")
        )["total"]
        if folded != self._expected:
            raise stack.BenchFailed(f"{self._expected:,} units waited, {folded:,} were folded.")
        if self.figures()["dead events"]:
            raise stack.BenchFailed(f"The flush left dead rows of events: {self.figures()}")

    def figures(self) -> Mapping[str, float]:
        grown = {name: self._after[name] - self._before[name] for name in self._after}
        return {
            "dead events": max(grown["usage_usageevent dead"], grown["usage_usageevent changed"]),
            "dead batches": max(
                grown["usage_ingestbatch dead"], grown["usage_ingestbatch changed"]
            ),
            "WAL B": grown["wal"] / self.events,
        }


def _written() -> dict[str, int]:
    """Read the server's counts of dead and changed rows, and where its log stands.

    Every change of a row leaves one dead version of it. Both are read, because a vacuum that came
    by would take dead ones away.
    """
    counts: dict[str, int] = {}
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT relname, n_dead_tup, n_tup_upd + n_tup_del FROM pg_stat_user_tables"
            " WHERE relid IN ('usage_usageevent'::regclass, 'usage_ingestbatch'::regclass)"
        )
        for table, dead, changed in cursor.fetchall():
            counts |= {f"{table} dead": dead, f"{table} changed": changed}
        cursor.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')")
        counts["wal"] = int(cursor.fetchone()[0])
    return counts
