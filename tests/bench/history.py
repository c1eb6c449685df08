"""Events that were flushed long ago, and fresh ones that wait: written with set-based SQL.

What is measured is the flush beside them and not their ingestion. They are LLM calls as a client
reports them, with ids ordered in time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from django.core.management import call_command
from django.db import connection

from billing.models import Meter, MeterVersion, Source
from tests.bench import backlog
from usage import traffic
from usage.lifecycle import State

CUSTOMERS = 1_000
METERS = ("input_tokens", "output_tokens")
EVENTS_PER_RUN = 100_000
EVENTS_PER_SUBMISSION = EVENTS_PER_RUN // (CUSTOMERS * len(METERS))
DAYS = 30
HISTORY_BATCH = 1_000
EVENTS_PER_STATEMENT = 1_000_000

BATCHES = """
INSERT INTO usage_ingestbatch (id, source_id, received_at, event_count, checksum, run_id)
SELECT %(first_batch)s + number, %(source)s,
       now() - %(span)s::interval * (1 - number::float / %(batches)s), %(per_batch)s, number,
       CASE WHEN %(flushed)s THEN 1 + number %% greatest(1, %(runs)s) END
FROM generate_series(0, %(batches)s - 1) number
"""

EVENTS = """
INSERT INTO usage_usageevent (
    source_id, event_id, digest, type, subject, occurred_at, received_at, data, batch_id
)
SELECT %(source)s,
       CASE WHEN %(ordered)s THEN lpad(to_hex(number), 12, '0') || '-' || left(md5(number::text), 23)
            ELSE md5(number::text) || 'rand' END,
       decode(md5(number::text), 'hex'), %(type)s, 'bench-' || number %% %(customers)s,
       moment, moment,
       jsonb_build_object('model', 'a-model', 'input_tokens', 100 + number %% 1000,
                          'output_tokens', 1 + number %% 300),
       %(first_batch)s + (number - %(first)s) / %(per_batch)s
FROM generate_series(%(from)s::bigint, %(to)s::bigint - 1) number,
     LATERAL (SELECT now() - %(span)s::interval * (1 - (number - %(first)s)::float / %(events)s) AS moment) told
ORDER BY number
"""


def build(schema: str, events: int, *, ordered: bool = True) -> None:
    """Make the tables and a history in a new schema."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {schema}")
    enter(schema)
    call_command("migrate", verbosity=0)
    write(events, ordered=ordered)


def enter(schema: str) -> None:
    """Work on a schema's tables from now on."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET search_path TO {schema}")


def write(events: int, *, ordered: bool = True) -> None:
    """Fill the empty tables with so many flushed events of the last month, and what they became.

    Their ids are `ordered` in time, as our own client makes them, or random.
    """
    Source.objects.create(name="bench")
    backlog.write_parties(
        customers=[f"cus_bench{number:09}" for number in range(CUSTOMERS)],
        meters=[(name, f"mtr_bench_{name}") for name in METERS],
    )
    for meter in Meter.objects.all():
        MeterVersion.objects.create(
            meter=meter,
            event_type=traffic.EVENT_TYPE,
            value_property=meter.event_name,
            measures=[meter.event_name],
            effective_from=datetime(2020, 1, 1, tzinfo=UTC),
        )
    backlog.write(max(1, events // EVENTS_PER_SUBMISSION), state=State.SETTLED)
    _insert(events, per_batch=HISTORY_BATCH, span=f"{DAYS} days", flushed=True, ordered=ordered)
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
        # Else the next id is one of those just written.
        cursor.execute(
            "SELECT setval(pg_get_serial_sequence('usage_flushrun', 'id'),"
            " (SELECT max(id) FROM usage_flushrun))"
        )
        cursor.execute(
            "SELECT setval(pg_get_serial_sequence('usage_ingestbatch', 'id'),"
            " (SELECT max(id) FROM usage_ingestbatch))"
        )
        cursor.execute("VACUUM (ANALYZE) usage_usageevent, usage_ingestbatch, usage_flushrun")
        cursor.execute("RESET statement_timeout")


def write_fresh(events: int, *, per_batch: int) -> None:
    """Add so many events of the last two hours, in unflushed batches of this size."""
    _insert(events, per_batch=per_batch, span="2 hours", flushed=False, ordered=True)


def waiting_total() -> Decimal:
    """Return the sum of what all meters read from events that are not flushed."""
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
        cursor.execute(
            "SELECT coalesce(sum((data ->> 'input_tokens')::numeric"
            " + (data ->> 'output_tokens')::numeric), 0) FROM usage_usageevent"
            " WHERE batch_id >= (SELECT min(id) FROM usage_ingestbatch WHERE run_id IS NULL)"
        )
        total: Decimal = cursor.fetchone()[0]
        cursor.execute("RESET statement_timeout")
        return total


def _insert(events: int, *, per_batch: int, span: str, flushed: bool, ordered: bool) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(max(id), 0) + 1 FROM usage_ingestbatch")
        first_batch = cursor.fetchone()[0]
        cursor.execute("SELECT coalesce(max(id), 0) FROM usage_usageevent")
        first = cursor.fetchone()[0]
        cursor.execute("SELECT id FROM billing_source LIMIT 1")
        values = {
            "source": cursor.fetchone()[0],
            "first_batch": first_batch,
            "first": first,
            "events": events,
            "batches": -(-events // per_batch),
            "per_batch": per_batch,
            "span": span,
            "flushed": flushed,
            "ordered": ordered,
            "runs": events // EVENTS_PER_RUN,
            "type": traffic.EVENT_TYPE,
            "customers": CUSTOMERS,
        }
        cursor.execute("SET statement_timeout = 0")
        cursor.execute(BATCHES, values)
        for start in range(first, first + events, EVENTS_PER_STATEMENT):
            end = min(start + EVENTS_PER_STATEMENT, first + events)
            cursor.execute(
                EVENTS,
                values | {"from": start, "to": end},
            )
        cursor.execute("RESET statement_timeout")
