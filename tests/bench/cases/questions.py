"""Questions about usage, through the view, of what ten million events of a year left behind.

The rows are those of 100 customers with two meters who are busy nearly every quarter hour, so a
customer's year is read whole; a few thousand events wait unflushed and are counted with each
question. An `event` of this case is a question. `ms` are by the clock, of the slowest and of half
of them, rendering included; a run fails when an answer is not the sum of its rows.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.db import connection
from django.test import Client

from billing import authentication
from billing.enums import Scope
from billing.models import Meter, MeterVersion, Source
from tests.bench import backlog, cpu, history, stack
from tests.bench.variants import Variant
from usage import traffic

EVENTS = 10_000_000
CUSTOMERS = 100
DAYS = 365
UNFLUSHED = 3_000
ASKED = 20
"""Questions of each kind in a run."""

ROWS = """
INSERT INTO usage_quarterusage (subject, meter_id, quarter_start, model, quantity, event_count)
SELECT 'bench-' || customer, meter.id, quarter, 'model-' || slot %% 3,
       events * (100 + (slot * 7919 + customer * 104729) %% 1000), events
FROM generate_series(0, %(quarters)s - 1) slot
CROSS JOIN LATERAL (SELECT %(since)s + slot * interval '15 minutes' AS quarter) told
CROSS JOIN generate_series(0, %(customers)s - 1) customer
-- One to five events, three of them in the mean; now and then a quarter without any.
CROSS JOIN LATERAL (SELECT (slot * 31 + customer * 17) %% 6 AS events) busy
CROSS JOIN billing_meter meter
WHERE events > 0
"""


@contextlib.contextmanager
def variants(*, scale: float, backends: stack.Backends) -> Iterator[list[Variant]]:
    """Yield one for each kind of question; `scale` makes customers fewer or more."""
    customers = max(2, round(CUSTOMERS * scale))
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    since = today - timedelta(days=DAYS)
    _fill(customers, since)
    _, key = authentication.issue("bench", [Scope.READ])
    year = {"from": since.isoformat(), "until": today.isoformat()}
    month = {"from": (today - timedelta(days=30)).isoformat(), "until": today.isoformat()}
    day = {"from": (today - timedelta(days=1)).isoformat(), "until": today.isoformat()}
    one = {"customer": "bench-1", "meter": "input-tokens"}
    questions = {
        "year-by-hour": ("usage", year | one | {"window": "hour", "limit": 10_000}),
        "year-by-day": ("usage", year | {"customer": "bench-1", "window": "day"}),
        "month-by-day-and-model": (
            "usage",
            month | one | {"window": "day", "group_by": "model", "time_zone": "America/New_York"},
        ),
        "day-of-everybody": ("usage", day | {"group_by": "customer"}),
        "top-of-a-day": ("usage/top-customers", day | {"meter": "input-tokens"}),
        "top-of-a-month": ("usage/top-customers", month | {"meter": "input-tokens"}),
    }
    yield [
        _Asked(name=name, path=f"/api/v1/{path}", question=question, key=key).variant(backends)
        for name, (path, question) in questions.items()
    ]


def _fill(customers: int, since: datetime) -> None:
    Source.objects.create(name="bench-events")
    backlog.write_parties(
        customers=[f"cus_bench{number:09}" for number in range(customers)],
        meters=[(name, f"mtr_bench_{name}") for name in history.METERS],
    )
    for meter in Meter.objects.all():
        MeterVersion.objects.create(
            meter=meter,
            event_type=traffic.EVENT_TYPE,
            value_property=meter.event_name,
            measures=[meter.event_name],
            effective_from=datetime(2020, 1, 1, tzinfo=UTC),
        )
    history.write_fresh(UNFLUSHED, per_batch=100)
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
        # A key is built faster than kept.
        cursor.execute("ALTER TABLE usage_quarterusage DROP CONSTRAINT usage_quarterusage_pkey")
        cursor.execute(ROWS, {"customers": customers, "since": since, "quarters": 96 * DAYS})
        cursor.execute(
            "ALTER TABLE usage_quarterusage ADD CONSTRAINT usage_quarterusage_pkey"
            " PRIMARY KEY (subject, meter_id, quarter_start, model)"
        )
        cursor.execute("VACUUM (ANALYZE) usage_quarterusage, usage_usageevent, usage_ingestbatch")
        cursor.execute("SELECT sum(event_count) / 2 FROM usage_quarterusage")
        events = int(cursor.fetchone()[0])
        cursor.execute("RESET statement_timeout")
    wanted = EVENTS * customers / CUSTOMERS
    if abs(events - wanted) > wanted / 5:
        raise stack.BenchFailed(f"The rows are of {events:,} events and not of {wanted:,.0f}.")


@dataclass(slots=True, kw_only=True)
class _Asked:
    """One question, asked again and again."""

    name: str
    path: str
    question: Mapping[str, Any]
    key: str
    _client: Client = field(default_factory=lambda: Client(headers={"host": "localhost"}))
    _seconds: list[float] = field(default_factory=list)
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _bytes: int = 0

    def variant(self, backends: stack.Backends) -> Variant:
        return Variant(
            name=self.name,
            events=ASKED,
            prepare=self.prepare,
            run=self.run,
            check=self.check,
            figures=self.figures,
            meters={"db": backends.reading, "app": cpu.own_process},
        )

    def prepare(self) -> None:
        self._ask()
        self._seconds = []

    def run(self) -> None:
        for _ in range(ASKED):
            self._ask()

    def _ask(self) -> None:
        began = time.perf_counter()
        answer = self._client.get(
            f"{self.path}?{urlencode(self.question)}",
            headers={"authorization": f"Bearer {self.key}"},
        )
        self._seconds.append(time.perf_counter() - began)
        if answer.status_code != 200:
            raise stack.BenchFailed(f"{self.name}: {answer.status_code} {answer.content!r}")
        self._rows = answer.json()["data"]
        self._bytes = len(answer.content)

    def check(self) -> None:
        """Compare the last answer with the rows it is made of.

        Raises:
            BenchFailed: it is not their sum, or not all of it.
        """
        if self.path.endswith("top-customers"):
            quantities = [int(row["quantity"]) for row in self._rows]
            if not quantities or quantities != sorted(quantities, reverse=True):
                raise stack.BenchFailed(f"{self.name}: not the largest first: {quantities}")
            return
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT sum(event_count) FROM usage_quarterusage"
                " JOIN billing_meter meter ON meter.id = meter_id"
                " WHERE quarter_start >= %(from)s::timestamptz"
                " AND quarter_start < %(until)s::timestamptz"
                " AND (%(customer)s::text IS NULL OR subject = %(customer)s)"
                " AND (%(meter)s::text IS NULL OR meter.slug = %(meter)s)",
                {"customer": None, "meter": None} | dict(self.question),
            )
            expected = cursor.fetchone()[0]
        # What waits unflushed is of today or yesterday, and of all customers.
        got = sum(row["event_count"] for row in self._rows)
        if not expected <= got <= expected + 2 * UNFLUSHED:
            raise stack.BenchFailed(f"{self.name}: {got:,} events told, {expected:,} on record.")

    def figures(self) -> Mapping[str, float]:
        return {
            "ms median": statistics.median(self._seconds) * 1_000,
            "ms slowest": max(self._seconds) * 1_000,
            "rows": len(self._rows),
            "KiB": self._bytes / 1024,
        }
