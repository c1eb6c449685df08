"""Reading both books for a comparison: which hours of whom, what we sent, what Stripe counted.

Nothing is written here, and no transaction is open while Stripe is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db import connection

from billing import steps
from billing.enums import Aggregation
from billing.gateway import meter_events
from reconciliation.comparison import by_hour, merged
from usage.cells import HOUR, Cell
from usage.settlement import cells

BRIDGE_HOURS = meter_events.SUMMARIES_PER_PAGE
"""Hours without usage between two with some that are read along: a page at most."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A customer and a meter with the hours to compare, as ranges of whole UTC hours.

    `stripe_customer_ids` is who the usage was or may have been sent for: one, unless the customer
    was tied to another one at Stripe in the meantime.
    """

    customer_id: int
    customer: str
    meter_id: int
    meter: str
    stripe_meter_id: str
    stripe_customer_ids: tuple[str, ...]
    spans: tuple[tuple[datetime, datetime], ...]


@dataclass(frozen=True, slots=True)
class StripeBook:
    """Stripe's hourly totals of a pair by the start of the UTC hour, and the reads they cost."""

    totals: Mapping[datetime, Decimal]
    call_count: int


_HOURS = """
WITH hours AS (
    SELECT customer_id, meter_id, window_start
    FROM usage_submission
    WHERE window_start >= %(since)s AND window_start < %(until)s
    UNION
    SELECT submission.customer_id, submission.meter_id, submission.window_start
    FROM (
        -- One at a time, because each has an index that holds little else.
        SELECT submission_id FROM usage_submissionstate
        WHERE state = 'accepted'
          AND (%(with_unsettled)s
               OR (%(with_doubtful)s AND (wire = 'stream' OR next_action_at <= %(now)s)))
        UNION ALL
        SELECT submission_id FROM usage_submissionstate
        WHERE state = 'unproven' AND (%(with_unsettled)s OR %(with_doubtful)s)
        UNION ALL
        SELECT submission_id FROM usage_submissionstate
        WHERE state = 'sending' AND %(with_unsettled)s
        UNION ALL
        SELECT submission_id FROM usage_submissionstate
        WHERE state = 'in_doubt' AND (%(with_unsettled)s OR %(with_doubtful)s)
        UNION ALL
        SELECT submission_id FROM usage_submissionstate
        WHERE state = 'retry'
          AND (%(with_unsettled)s OR (%(with_doubtful)s AND doubt_since IS NOT NULL))
    ) AS standing
    JOIN usage_submission submission ON submission.id = standing.submission_id
    UNION
    SELECT customer_id, meter_id, window_start
    FROM reconciliation_discrepancy
    WHERE resolved_at IS NULL
      AND (%(with_unsettled)s OR (window_start >= %(since)s AND window_start < %(until)s))
    UNION
    SELECT customer.id, meter.id, %(since)s
    FROM billing_customer customer CROSS JOIN billing_meter meter
    WHERE %(every_pair)s AND customer.stripe_customer_id IS NOT NULL
      AND meter.stripe_meter_id IS NOT NULL AND meter.aggregation = ANY(%(additive)s)
), paired AS (
    SELECT customer_id, meter_id, array_agg(window_start) AS instants, min(window_start) AS oldest
    FROM hours
    WHERE (customer_id, meter_id) > (%(after_customer)s, %(after_meter)s)
    GROUP BY 1, 2 ORDER BY 1, 2 LIMIT %(limit)s
)
SELECT paired.customer_id, customer.external_id, paired.meter_id, meter.slug, meter.stripe_meter_id,
       ARRAY(SELECT sent.stripe_customer_id FROM usage_submission sent
             WHERE sent.customer_id = paired.customer_id AND sent.meter_id = paired.meter_id
               AND sent.window_start >= paired.oldest
             UNION SELECT customer.stripe_customer_id
             WHERE customer.stripe_customer_id IS NOT NULL
             -- What was sent for a former one may be what a restore forgot.
             UNION SELECT former FROM unnest(customer.former_stripe_ids) former
             WHERE NOT EXISTS (SELECT FROM billing_customer other
                               WHERE other.stripe_customer_id = former)
             ORDER BY 1),
       paired.instants
FROM paired
JOIN billing_customer customer ON customer.id = paired.customer_id
JOIN billing_meter meter ON meter.id = paired.meter_id
ORDER BY 1, 3
"""


def pairs(  # noqa: PLR0913 - a range and what is added to it
    *,
    since: datetime,
    until: datetime,
    with_unsettled: bool,
    with_doubtful: bool = False,
    every_pair: bool = False,
    now: datetime,
    after: tuple[int, int] = (0, 0),
    limit: int,
) -> Sequence[Pair]:
    """Return at most `limit` pairs to compare, behind `after`, by customer id and meter id.

    [`since`, `until`) are whole UTC hours. A pair with usage in there is compared over all of it,
    so that usage somebody else sent in its other hours is seen, too. `with_unsettled` adds hours
    of any age that are not settled or still have an open discrepancy; `with_doubtful` those of
    which Stripe may have something that we do not know it has, and those of accepted usage that is
    due to be looked at by `now`: an error report may mean it, or it should have settled long ago.
    `every_pair` adds all customers and additive meters known at Stripe, over the whole range.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            _HOURS,
            {
                "since": since,
                "until": until,
                "with_unsettled": with_unsettled,
                "with_doubtful": with_doubtful,
                "every_pair": every_pair,
                "additive": [each.value for each in Aggregation if not each.is_running],
                "now": now,
                "after_customer": after[0],
                "after_meter": after[1],
                "limit": limit,
            },
        )
        rows = cursor.fetchall()
    return [
        Pair(
            customer_id=customer_id,
            customer=customer,
            meter_id=meter_id,
            meter=meter,
            stripe_meter_id=stripe_meter_id,
            stripe_customer_ids=tuple(stripe_customer_ids),
            spans=tuple(_spans(hours, since=since, until=until)),
        )
        for (
            customer_id,
            customer,
            meter_id,
            meter,
            stripe_meter_id,
            stripe_customer_ids,
            hours,
        ) in rows
    ]


def _spans(
    hours: Sequence[datetime], *, since: datetime, until: datetime
) -> Iterator[tuple[datetime, datetime]]:
    ranges = [(hour, hour + HOUR) for hour in hours]
    if any(since <= hour < until for hour in hours):
        ranges.append((since, until))
    return merged(ranges, bridge_hours=BRIDGE_HOURS)


def read_stripe(pair: Pair) -> StripeBook:
    """Return Stripe's totals of the pair's hours, page after page.

    Raises:
        GatewayError: Stripe could not be read.
        UnusableSummaries: its answer is not one total per hour of the range asked.
    """
    totals: dict[datetime, Decimal] = {}
    call_count = 0
    for stripe_customer_id in pair.stripe_customer_ids:
        for start, end in pair.spans:
            with steps.call("reconciliation.summaries.read"):
                summaries = list(
                    meter_events.summaries(
                        meter_id=pair.stripe_meter_id,
                        customer_id=stripe_customer_id,
                        start=start,
                        end=end,
                        window="hour",
                    )
                )
            call_count += max(1, -(-len(summaries) // meter_events.SUMMARIES_PER_PAGE))
            for hour, total in by_hour(summaries, start=start, end=end).items():
                totals[hour] = totals.get(hour, Decimal(0)) + total
    return StripeBook(totals=totals, call_count=call_count)


def read_ours(pair: Pair) -> dict[datetime, Cell]:
    """Return our cells of the pair's hours. To be read after Stripe: see `comparison.compare`."""
    ours: dict[datetime, Cell] = {}
    for start, end in pair.spans:
        ours |= cells(customer_id=pair.customer_id, meter_id=pair.meter_id, start=start, end=end)
    return ours
