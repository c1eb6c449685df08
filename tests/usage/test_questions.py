"""Questions about usage are answered as a plain fold of the events answers them.

The fold here is written by hand: it reads no table of the read model and no statement of the
product's. Windows are labelled quarter by quarter with PostgreSQL's own time zones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from billing.enums import Aggregation
from billing.models import Customer, Meter, MeterVersion, PeriodBoundary, Source
from tests.usage.conftest import EPOCH, report
from usage import flush, voiding
from usage.ingestion import accept
from usage.models import UsageEvent
from usage.voiding import EventKey

pytestmark = pytest.mark.integration

# --- a store worth asking -------------------------------------------------------------------------

CHANGES = (
    datetime(2026, 3, 8, 7, tzinfo=UTC),  # New York, ahead
    datetime(2026, 4, 4, 15, tzinfo=UTC),  # Lord Howe, back by half an hour
    datetime(2026, 10, 3, 15, 30, tzinfo=UTC),  # Lord Howe, ahead
    datetime(2026, 11, 1, 6, tzinfo=UTC),  # New York, back
)
"""Where clocks are changed; the events lie around them."""
ZONES = ("UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "America/New_York", "America/St_Johns")
CUSTOMERS = ("acme", "globex", "stranger", "=cmd", "élan")
"""The third and fourth are no customers of ours."""
MODELS = ("m-1", "m-2", None, "x" * 150)
NAMES = ("ann", "bob", "cid", 7)


@dataclass(frozen=True)
class Store:
    source: Source
    meters: dict[str, Meter]


def define(slug: str, aggregation: Aggregation, prop: str, *, scale: int = 0) -> Meter:
    meter = Meter.objects.create(
        slug=slug,
        display_name=slug,
        event_name=f"mk_{slug}",
        aggregation=aggregation,
        unit=f"unit of {slug}",
        scale=scale,
        stripe_meter_id=f"mtr_{slug}",
    )
    MeterVersion.objects.create(
        meter=meter,
        event_type="llm.call",
        value_property=prop,
        required=False,
        measures=[slug],
        effective_from=EPOCH,
    )
    return meter


def fill(source: Source, *, seed: int) -> Store:
    """Store and flush events of all kinds in several runs, and leave some unflushed."""
    luck = random.Random(seed)  # noqa: S311 - test data
    meters = {
        "tokens": define("tokens", Aggregation.SUM, "tokens"),
        "seconds": define("seconds", Aggregation.SUM, "seconds", scale=3),
        "calls": define("calls", Aggregation.COUNT, ""),
        "peak": define("peak", Aggregation.MAX, "peak", scale=1),
        "users": define("users", Aggregation.UNIQUE, "user"),
        "seats": define("seats", Aggregation.LATEST, "seats"),
    }
    for external_id in ("acme", "globex", "élan"):
        customer = Customer.objects.create(
            external_id=external_id, stripe_customer_id=f"cus_{external_id}"
        )
        PeriodBoundary.objects.create(customer=customer, at=CHANGES[0] + timedelta(minutes=20))
    stored: list[str] = []
    for change in CHANGES:
        now = change + timedelta(days=3)
        if change is CHANGES[2]:
            # From half an hour after the change on, tokens are read from another property.
            begins = change + timedelta(minutes=37, seconds=11)
            MeterVersion.objects.filter(meter=meters["tokens"]).update(effective_until=begins)
            MeterVersion.objects.create(
                meter=meters["tokens"],
                event_type="llm.call",
                value_property="tokens_v2",
                required=False,
                measures=["tokens"],
                effective_from=begins,
            )
        for step in range(9):
            reports = []
            for _ in range(luck.randint(5, 20)):
                event_id = f"e-{len(stored)}"
                stored.append(event_id)
                reports.append(report(event_id, at=instant(luck, change), **usage_of(luck)))
            accept(source_id=source.pk, reports=reports, now=now)
            voided = [EventKey(source.pk, luck.choice(stored)) for _ in range(luck.randint(0, 3))]
            voiding.void(voided, author="a person", reason="a mistake", now=now)
            if step in (2, 4, 5, 7) and not (change is CHANGES[3] and step > 5):
                flush.flush_batches(now=now, event_limit=luck.choice([25, 10_000]))
    return Store(source, meters)


def instant(luck: random.Random, around: datetime) -> datetime:
    spread = luck.choice([3_600, 40_000, 170_000])
    at = around + timedelta(seconds=luck.uniform(-spread, spread))
    # Often right on an edge.
    return at if luck.random() < 0.7 else at - (at - EPOCH) % timedelta(minutes=15)


def usage_of(luck: random.Random) -> dict[str, Any]:
    data: dict[str, Any] = {
        "tokens": luck.choice([0, 1, 17, "250", 10**14]),
        "tokens_v2": luck.randint(0, 5_000),
        "seconds": luck.choice(["0.125", 2, "17.001"]),
        "peak": luck.choice(["0.5", 3, 12, "12.0"]),
        "user": luck.choice(NAMES),
        "seats": luck.randint(0, 30),
    }
    for name in list(data):
        if luck.random() < 0.3:
            del data[name]
    model = luck.choice(MODELS)
    if model is not None:
        data["model"] = model
    return {"subject": luck.choice(CUSTOMERS), **data, "note": "x"}


# --- the judge ------------------------------------------------------------------------------------

FOLD = """
WITH heard AS (
    SELECT e.id, coalesce(e.voids, e.id) AS original, e.voids IS NOT NULL AS is_void,
           e.occurred_at, e.subject, m.slug, m.aggregation, m.scale, m.unit,
           coalesce(substring(e.data ->> 'model' for 100), '') AS model,
           e.data ->> v.value_property AS said,
           CASE WHEN m.aggregation IN ('sum', 'max', 'latest')
               THEN (e.data ->> v.value_property)::numeric END AS number
    FROM usage_usageevent e
    JOIN usage_ingestbatch b ON b.id = e.batch_id
    LEFT JOIN usage_flushrun r ON r.id = b.run_id
    JOIN billing_meterversion v ON v.event_type = e.type
        AND tstzrange(v.effective_from, v.effective_until) @> e.occurred_at
        AND (r.id IS NULL OR v.id = ANY(r.meter_versions))
    JOIN billing_meter m ON m.id = v.meter_id
    WHERE e.occurred_at >= %(since)s AND e.occurred_at < %(until)s
), standing AS (
    SELECT h.* FROM heard h
    WHERE NOT h.is_void AND (h.aggregation = 'count' OR h.said IS NOT NULL)
      AND NOT EXISTS (SELECT 1 FROM usage_usageevent v WHERE v.voids = h.id)
      AND (%(customers)s::text[] IS NULL OR h.subject = ANY(%(customers)s::text[]))
      AND (%(meters)s::text[] IS NULL OR h.slug = ANY(%(meters)s::text[]))
      AND (%(models)s::text[] IS NULL OR h.model = ANY(%(models)s::text[]))
), ticks AS (
    SELECT tick, CASE %(window)s
        WHEN 'all' THEN ''
        WHEN 'minute' THEN date_trunc('minute', tick AT TIME ZONE %(zone)s)::text || offset_of
        WHEN 'hour' THEN date_trunc('hour', tick AT TIME ZONE %(zone)s)::text || offset_of
        WHEN 'day' THEN date_trunc('day', tick AT TIME ZONE %(zone)s)::text
        WHEN 'week' THEN date_trunc('week', tick AT TIME ZONE %(zone)s)::text
        ELSE date_trunc('month', tick AT TIME ZONE %(zone)s)::text END AS label
    FROM generate_series(date_trunc('hour', %(since)s::timestamptz, 'UTC'), %(until)s,
                         CASE %(window)s WHEN 'minute' THEN interval '1 minute'
                              ELSE interval '15 minutes' END) tick,
         LATERAL (SELECT ((tick AT TIME ZONE %(zone)s) - (tick AT TIME ZONE 'UTC'))::text
                  AS offset_of) o
), windows AS (
    SELECT greatest(min(tick), %(since)s::timestamptz) AS starts,
           least(max(tick) + CASE %(window)s WHEN 'minute' THEN interval '1 minute'
                 ELSE interval '15 minutes' END, %(until)s::timestamptz) AS ends
    FROM ticks GROUP BY label
)
SELECT w.starts, w.ends,
       CASE WHEN %(by_customer)s THEN s.subject END COLLATE "C" AS customer,
       s.slug COLLATE "C" AS meter,
       CASE WHEN %(by_model)s THEN s.model END COLLATE "C" AS model,
       CASE s.aggregation
           WHEN 'count' THEN count(*)
           WHEN 'unique' THEN count(DISTINCT ROW(s.subject, s.said))
           WHEN 'sum' THEN sum(s.number)
           WHEN 'max' THEN max(s.number)
           ELSE (array_agg(s.number ORDER BY s.occurred_at DESC, s.id DESC))[1]
       END,
       s.scale, s.unit, count(*)
FROM standing s JOIN windows w ON s.occurred_at >= w.starts AND s.occurred_at < w.ends
GROUP BY 1, 2, 3, 4, 5, s.aggregation, s.scale, s.unit
ORDER BY 1, 3, 4, 5
"""


def judged(question: dict[str, Any], *, customers: Sequence[str] | None = None) -> list[tuple]:
    """What the events themselves answer, as rows of plain values."""
    with connection.cursor() as cursor:
        cursor.execute(
            FOLD,
            {
                "since": question["from"],
                "until": question["until"],
                "window": question.get("window", "all"),
                "zone": question.get("time_zone", "UTC"),
                "customers": question.get("customer") or customers,
                "meters": question.get("meter"),
                "models": question.get("model") and [m[:100] for m in question["model"]],
                "by_customer": "customer" in question.get("group_by", ()),
                "by_model": "model" in question.get("group_by", ()),
            },
        )
        return [
            (starts, ends, customer, meter, model, Decimal(quantity), scale, unit, events)
            for starts, ends, customer, meter, model, quantity, scale, unit, events in cursor
        ]


def told(rows: Sequence[dict[str, Any]]) -> list[tuple]:
    """An answer's rows as the judge's."""
    scales = dict(Meter.objects.values_list("slug", "scale"))
    return [
        (
            datetime.fromisoformat(row["window_start"]),
            datetime.fromisoformat(row["window_end"]),
            row.get("customer"),
            row["meter"],
            row.get("model"),
            Decimal(row["quantity"]),
            scales[row["meter"]],
            row["unit"],
            row["event_count"],
        )
        for row in rows
    ]


def all_pages(ask: Callable[..., Any], question: dict[str, Any], limit: int) -> list[dict]:
    rows: list[dict] = []
    cursor: dict[str, str] = {}
    while True:
        answer = ask(**question, limit=limit, **cursor)
        assert answer.status_code == 200, answer.content
        body = answer.json()
        assert len(body["data"]) <= limit
        assert body["has_more"] == (body["next"] is not None)
        rows += body["data"]
        if not body["has_more"]:
            return rows
        assert len(body["data"]) == limit
        cursor = {"cursor": body["next"]}


def random_question(luck: random.Random) -> dict[str, Any]:
    change = luck.choice(CHANGES)
    window = luck.choice(["minute", "hour", "hour", "day", "day", "week", "month", "all"])
    if window == "minute":
        since = change + timedelta(seconds=luck.randint(-20_000, 10_000))
        until = since + timedelta(seconds=luck.randint(1, 21_600))
    else:
        since = change - timedelta(seconds=luck.randint(0, 200_000))
        until = change + timedelta(seconds=luck.randint(0, 200_000) + 1)
        if window in ("week", "month", "all") and luck.random() < 0.25:
            since, until = (
                CHANGES[0] - timedelta(days=3),
                CHANGES[-1] + timedelta(days=luck.randint(0, 3)),
            )
        if luck.random() < 0.5:
            since -= (since - EPOCH) % timedelta(minutes=15)
        if luck.random() < 0.5:
            until += -(until - EPOCH) % timedelta(minutes=15)
    question: dict[str, Any] = {
        "from": since.isoformat(),
        "until": until.isoformat(),
        "window": window,
        "time_zone": luck.choice(ZONES),
        "group_by": luck.sample(["customer", "meter", "model"], luck.randint(0, 3)),
    }
    if luck.random() < 0.4:
        question["customer"] = luck.sample(CUSTOMERS, luck.randint(1, 3))
    if luck.random() < 0.4:
        slugs = ["tokens", "seconds", "calls", "peak", "users", "seats"]
        question["meter"] = luck.sample(slugs, luck.randint(1, 3))
    if luck.random() < 0.3:
        question["model"] = luck.sample(["m-1", "m-2", "", "x" * 150], luck.randint(1, 2))
    return question


def test_a_thousand_random_questions_are_answered_as_the_events_do(source, ask):
    fill(source, seed=20261125)
    unflushed = UsageEvent.objects.filter(batch__run=None).count()
    assert (UsageEvent.objects.count() > 400, 20 < unflushed < 200) == (True, True)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE usage_usageevent, usage_ingestbatch, usage_quarterusage")
        cursor.execute("SET LOCAL jit = off")
    luck = random.Random(7)  # noqa: S311 - test data
    rows = pages = 0

    for number in range(1_000):
        question = random_question(luck)
        expected = judged(question)
        limit = luck.choice([10_000, 10_000, max(1, len(expected) // 3), len(expected) or 1])
        got = told(all_pages(ask, question, limit))
        assert got == expected, f"question {number}: {question}"
        rows += len(expected)
        pages += limit < len(expected)

    assert rows > 20_000
    assert pages > 200
