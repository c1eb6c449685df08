"""Questions about usage: what was used, by whom, of which meter and model, in which windows.

Answered from the read model of `quarters`, with the events themselves where that is too coarse (the
ends of a range, windows of a minute) and where it lags (what no run has folded yet). So an event
counts as soon as its report was answered. Nothing here decides about money.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import OperationalError, connection, transaction
from psycopg.errors import QueryCanceled

from billing.enums import Aggregation
from billing.models import Meter
from usage.quarters import FLUSHED, GAVE, READ_BY, SPANNED, TOLD
from usage.windows import HOUR, Window, hours_of, quarters_within, starts

EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
MINUTE_SPAN = timedelta(hours=6)
"""Windows of a minute are counted from all events of the hours around them, so not of many."""
HOUR_SPAN = timedelta(days=400)

Key: TypeAlias = tuple[datetime, str, str, str]
"""What a row is found by: start of its window, customer, meter, model; "" where not told apart."""


class Unanswerable(Exception):
    """A question that makes no sense, or is too large: the field at fault and the reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Usage in [since, until), by window and meter, and by customer and model when asked.

    None as customers (external ids) or models is all of them, "" as a model is none named. Usage of
    customers we do not know counts as well.
    """

    since: datetime
    until: datetime
    meters: tuple[Meter, ...]
    window: Window = Window.ALL
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    customers: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    by_customer: bool = False
    by_model: bool = False

    def check(self) -> None:
        """Refuse what cannot be answered.

        Raises:
            Unanswerable: with the reason, as a caller should read it.
        """
        for name, instant in (("from", self.since), ("until", self.until)):
            if not EARLIEST <= instant <= LATEST:
                raise Unanswerable(name, "must be of the years 2020 to 2099")
        if self.since >= self.until:
            raise Unanswerable("until", "must be later than `from`, and is itself not included")
        span = self.until - self.since
        if self.window is Window.MINUTE and span > MINUTE_SPAN:
            raise Unanswerable("until", f"windows of a minute are told for {MINUTE_SPAN // HOUR} h")
        if self.window is Window.HOUR and span > HOUR_SPAN:
            raise Unanswerable("until", f"windows of an hour are told for {HOUR_SPAN.days} days")


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one window, customer, meter and model came to.

    The window, in the zone asked for, is cut at the ends of the range. `quantity` is exact, in the
    meter's unit with as many decimals as the meter has. "" where customer or model is not told
    apart.
    """

    window_start: datetime
    window_end: datetime
    customer: str
    meter: str
    model: str
    quantity: str
    unit: str
    event_count: int

    @property
    def key(self) -> Key:
        return (self.window_start.astimezone(UTC), self.customer, self.meter, self.model)


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows, whether more follow, and when it was looked: all that was stored by then is counted."""

    rows: tuple[UsageRow, ...]
    has_more: bool
    as_of: datetime


TOTALS = f"""
WITH asked AS (
    SELECT id, slug COLLATE "C" AS slug, aggregation, scale, unit
    FROM billing_meter WHERE id = ANY(%(meters)s::bigint[])
), windows AS (
    SELECT %(starts)s::timestamptz[] AS starts
), batches AS (
    {FLUSHED}
    UNION ALL
    SELECT id, NULL, NULL FROM usage_ingestbatch WHERE run_id IS NULL
), told AS MATERIALIZED (
    -- What the read model cannot tell: what no run has folded, and the quarters at the ends.
    {TOLD}
    {SPANNED} {READ_BY}
    WHERE event.occurred_at >= %(since)s AND event.occurred_at < %(until)s
      AND (span.run_id IS NULL
           OR (version.id = ANY(span.meter_versions)
               AND (event.occurred_at < %(inner_since)s OR event.occurred_at >= %(inner_until)s)))
      AND meter.id = ANY(%(meters)s::bigint[]) AND {GAVE}
      AND (%(customers)s::text[] IS NULL OR event.subject = ANY(%(customers)s::text[]))
), told_of_models AS (
    SELECT * FROM told WHERE %(models)s::text[] IS NULL OR model = ANY(%(models)s::text[])
), added AS (
    SELECT quarter_start AS at, subject, meter_id, model, quantity, event_count
    FROM usage_quarterusage
    WHERE meter_id = ANY(%(meters)s::bigint[])
      AND quarter_start >= %(inner_since)s AND quarter_start < %(inner_until)s
      AND (%(customers)s::text[] IS NULL OR subject = ANY(%(customers)s::text[]))
      AND (%(models)s::text[] IS NULL OR model = ANY(%(models)s::text[]))
    UNION ALL
    SELECT occurred_at, subject, meter_id, model, sign * number, sign
    FROM told_of_models WHERE aggregation IN ('sum', 'count')
), said AS (
    SELECT quarter_start AS at, subject, meter_id, model, number, name, event_id, occurred_at,
           event_count
    FROM usage_quarterreading
    WHERE meter_id = ANY(%(running)s::bigint[])
      AND quarter_start >= %(inner_since)s AND quarter_start < %(inner_until)s
      AND (%(customers)s::text[] IS NULL OR subject = ANY(%(customers)s::text[]))
      AND (%(models)s::text[] IS NULL OR model = ANY(%(models)s::text[]))
    UNION ALL
    SELECT occurred_at, subject, meter_id, model, number, name, event_id,
           CASE WHEN aggregation = 'latest' THEN occurred_at END, sign
    FROM told_of_models WHERE aggregation IN ('max', 'unique', 'latest')
), standing AS (
    -- A value that was taken back as often as it was said is none.
    SELECT width_bucket(at, (SELECT starts FROM windows)) AS number_of_window,
           subject, meter_id, model, number, name, event_id, occurred_at,
           sum(event_count) AS event_count
    FROM said GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 HAVING sum(event_count) > 0
), totals AS (
    SELECT width_bucket(at, (SELECT starts FROM windows)) AS number_of_window,
           CASE WHEN %(by_customer)s THEN subject ELSE '' END AS customer, meter_id,
           CASE WHEN %(by_model)s THEN model ELSE '' END AS model,
           sum(quantity) AS quantity, sum(event_count) AS event_count
    FROM added GROUP BY 1, 2, 3, 4
    HAVING sum(event_count) <> 0 OR sum(quantity) <> 0
    UNION ALL
    SELECT number_of_window, CASE WHEN %(by_customer)s THEN subject ELSE '' END, meter_id,
           CASE WHEN %(by_model)s THEN model ELSE '' END,
           CASE aggregation
               WHEN 'max' THEN max(standing.number)
               WHEN 'unique' THEN count(DISTINCT (subject, name))
               ELSE (array_agg(standing.number ORDER BY occurred_at DESC, event_id DESC))[1]
           END,
           sum(event_count)
    FROM standing JOIN asked ON asked.id = standing.meter_id
    GROUP BY 1, 2, 3, 4, aggregation
), answer AS (
    SELECT number_of_window, customer, slug AS meter, model, quantity,
           round(quantity * ('1e-' || scale)::numeric, scale)::text AS told_quantity, unit,
           event_count::bigint
    FROM totals JOIN asked ON asked.id = totals.meter_id
)
SELECT number_of_window, customer, meter, model, told_quantity, unit, event_count FROM answer
"""  # noqa: S608 - of constants
"""One statement, hence one snapshot: an event is folded or it is not, and counts once."""

IN_ORDER = """
WHERE %(after)s::text[] IS NULL OR (number_of_window, customer, meter, model) > (
    1, (%(after)s::text[])[1], (%(after)s::text[])[2], (%(after)s::text[])[3]
)
ORDER BY number_of_window, customer, meter, model LIMIT %(limit)s
"""
BY_SIZE = "ORDER BY answer.quantity DESC, customer LIMIT %(limit)s"


def answer(question: Question, *, limit: int, after: Key | None = None) -> Answer:
    """Return at most `limit` rows in the order of window, customer, meter and model.

    A window without usage has none. `after` is the key of the last row already told; each call
    looks anew.

    Raises:
        Unanswerable: it makes no sense, or takes too long.
    """
    question.check()
    found = starts(question.window, since=question.since, until=question.until, zone=question.zone)
    if after is not None:
        if after[0] not in found:
            raise Unanswerable("cursor", "is not of this question")
        found = found[found.index(after[0]) :]
    values = {"after": None if after is None else list(after[1:])}
    return _ask(question, found, TOTALS + IN_ORDER, values, limit=limit)


def top_customers(question: Question, *, limit: int) -> Answer:
    """Return the customers who used most of the question's one meter in all of its range.

    Raises:
        Unanswerable: it makes no sense, or takes too long.
    """
    question.check()
    return _ask(question, (question.since,), TOTALS + BY_SIZE, {}, limit=limit)


def _ask(
    question: Question,
    found: Sequence[datetime],
    statement: str,
    values: dict[str, Any],
    *,
    limit: int,
) -> Answer:
    """Run `statement` for the windows that start at `found`."""
    since, until = found[0], question.until
    inner_since, inner_until = (
        (until, until) if question.window is Window.MINUTE else quarters_within(since, until)
    )
    values |= {
        "since": since,
        "until": until,
        "inner_since": inner_since,
        "inner_until": inner_until,
        "hours": hours_of(since, inner_since) + hours_of(inner_until, until),
        # As text: there may be thousands, and adapting each costs more than all else here.
        "starts": "{" + ",".join(start.isoformat() for start in found) + "}",
        "meters": [meter.pk for meter in question.meters],
        "running": [
            meter.pk for meter in question.meters if Aggregation(meter.aggregation).is_running
        ],
        "customers": None if question.customers is None else list(question.customers),
        "models": None if question.models is None else list(question.models),
        "by_customer": question.by_customer,
        "by_model": question.by_model,
        "limit": limit + 1,
    }
    as_of, rows = _fetch(statement, values)
    ends = [*found[1:], until]
    zoned = [
        (start.astimezone(question.zone), end.astimezone(question.zone))
        for start, end in zip(found, ends, strict=True)
    ]
    return Answer(
        rows=tuple(UsageRow(*zoned[number - 1], *rest) for number, *rest in rows[:limit]),
        has_more=len(rows) > limit,
        as_of=as_of,
    )


def _fetch(statement: str, values: dict[str, Any]) -> tuple[datetime, list[tuple[Any, ...]]]:
    seconds = settings.USAGE_QUERY_SECONDS
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            # Compiling takes longer than it saves here, and the planner does not know.
            cursor.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('jit', 'off', true),"
                " clock_timestamp()",
                [f"{seconds}s"],
            )
            as_of = cursor.fetchone()[2]
            cursor.execute(statement, values)
            return as_of, cursor.fetchall()
    except OperationalError as error:
        if not isinstance(error.__cause__, QueryCanceled):
            raise
        raise Unanswerable(
            "until",
            f"this takes more than {seconds} s to count: ask for a shorter range, fewer meters or"
            " named customers",
        ) from error
