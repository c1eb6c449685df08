"""Usage that will reach no invoice, or reach it wrongly, though all of it is delivered.

Only asks: our own books, in a fixed number of queries. What people are told is `leak_cases`'. A
meter is not billed alone: two meters may count the same use, so what matters is whether every kind
of use a meter measures is billed through some item. Usage is read from the quarters, so what no
run has flushed is not in it yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Any

from django.db import connection, transaction
from django.db.models import Count

from billing import charges
from billing.enums import Aggregation, CaseKind
from billing.models import Case, ItemPrice, Meter, Price, Subscription

LOOKED_BACK = timedelta(days=35)
STILL = timedelta(days=7)
"""Usage flows while there was some in the running period, or for so long after it: a case must not
close because a period begins."""
UNSENT = ("unpaid", "paused", "incomplete_expired")
"""Words for a subscription whose running period makes no invoice that is sent. Source: Stripe's
guide to subscriptions."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a customer used of a meter since `since`, in its smallest unit; None: not additive.

    `amount` is what `price` would charge for it as one period's usage, in minor units.
    """

    meter: Meter
    since: datetime
    quantity: Decimal | None
    price: Price | None
    amount: int | None


@dataclass(frozen=True, slots=True)
class Leak:
    """One trouble of one customer, or of one foreign price, and the usage it is about."""

    kind: CaseKind
    reference: str
    shares: tuple[Share, ...]
    subscriptions: tuple[Subscription, ...] = ()
    """Those that billed it last."""
    items: tuple[str, ...] = ()
    """Stripe's ids of the items at fault."""
    customers: tuple[str, ...] = ()
    period_end: datetime | None = None
    """When the first invoice would be made wrongly; None: none will be."""


@dataclass(frozen=True, slots=True)
class Found:
    """All leaks by kind and reference, and in `notices` what is worth knowing and no case."""

    leaks: tuple[Leak, ...]
    blocked: tuple[str, ...]
    """Reasons of the open cases of meters that Stripe cannot take usage for."""
    notices: tuple[str, ...]


ITEMS = """
    SELECT subscription.customer_id, item_price.subscription_id, price.meter_id,
           item_price.stripe_item_id, price.stripe_price_id, item_price.since, item_price.until,
           item.current_period_start, item.current_period_end, false AS is_foreign
    FROM billing_itemprice item_price
    JOIN billing_price price ON price.id = item_price.price_id AND price.meter_id IS NOT NULL
    JOIN billing_subscription subscription ON subscription.id = item_price.subscription_id
    LEFT JOIN billing_subscriptionitem item ON item.stripe_item_id = item_price.stripe_item_id
    UNION ALL
    SELECT subscription.customer_id, item.subscription_id, meter.id, item.stripe_item_id,
           item.stripe_price_id, item.current_period_start, subscription.ended_at,
           item.current_period_start, item.current_period_end, true
    FROM billing_foreignitem item
    JOIN billing_meter meter ON meter.stripe_meter_id = item.stripe_meter_id
    JOIN billing_subscription subscription ON subscription.id = item.subscription_id
"""
"""What bills a meter or did, at our prices and foreign ones."""

MEASURED = """
    SELECT meter_id, event_type, unnest(measures) AS measure
    FROM billing_meterversion WHERE effective_until IS NULL
"""

UNBILLED = f"""
WITH items AS ({ITEMS}), spans AS (
    -- An item bills until it is gone, its subscription over, or sends invoices no more.
    SELECT items.customer_id, items.meter_id, items.subscription_id,
           coalesce(least(
               items.until, subscription.cancel_at,
               CASE WHEN subscription.status = ANY(%(unsent)s)
                      OR customer.deleted_stripe_id = customer.stripe_customer_id
                    THEN coalesce(items.current_period_start, items.since) END
           ), 'infinity') AS until
    FROM items
    JOIN billing_subscription subscription ON subscription.id = items.subscription_id
    JOIN billing_customer customer ON customer.id = items.customer_id
), measured AS ({MEASURED}), covered AS (
    SELECT spans.customer_id, measured.event_type, measured.measure, max(spans.until) AS until,
           (array_agg(spans.subscription_id ORDER BY spans.until DESC))[1] AS subscription_id
    FROM spans JOIN measured USING (meter_id)
    GROUP BY 1, 2, 3
), priced AS (
    SELECT customer.id AS customer_id, meter.id AS meter_id
    FROM billing_customer customer CROSS JOIN billing_meter meter
    WHERE customer.stripe_customer_id IS NOT NULL AND meter.stripe_meter_id IS NOT NULL
      AND EXISTS (SELECT FROM billing_price WHERE meter_id = meter.id AND active)
    UNION SELECT customer_id, meter_id FROM spans
), pairs AS (
    SELECT priced.customer_id, priced.meter_id,
           min(coalesce(covered.until, '-infinity')) AS until,
           (array_agg(covered.subscription_id ORDER BY covered.until NULLS FIRST))[1]
               AS subscription_id
    FROM priced JOIN measured USING (meter_id)
    LEFT JOIN covered USING (customer_id, event_type, measure)
    GROUP BY 1, 2
    HAVING min(coalesce(covered.until, '-infinity')) < %(now)s
), used AS (
    SELECT pairs.customer_id, pairs.meter_id, pairs.subscription_id, usage.*,
           greatest(pairs.until, %(since)s) AS since, customer.external_id,
           customer.deleted_stripe_id IS NOT DISTINCT FROM customer.stripe_customer_id AS is_deleted
    FROM pairs JOIN billing_customer customer ON customer.id = pairs.customer_id
    CROSS JOIN LATERAL (
        SELECT sum(quantity) AS quantity,
               max(quarter_start) FILTER (WHERE event_count > 0) AS last_at
        FROM usage_quarterusage quarter
        WHERE quarter.subject = customer.external_id AND quarter.meter_id = pairs.meter_id
          AND quarter.quarter_start >= greatest(pairs.until, %(since)s)
        HAVING sum(quantity) > 0
        UNION ALL
        SELECT NULL, max(quarter_start) FROM usage_quarterreading reading
        WHERE reading.subject = customer.external_id AND reading.meter_id = pairs.meter_id
          AND reading.quarter_start >= greatest(pairs.until, %(since)s) AND reading.event_count > 0
        HAVING count(*) > 0
    ) usage
)
SELECT customer_id, external_id, is_deleted, meter_id, subscription_id, since, quantity
FROM used
-- What a deleted customer used is lost also when it uses nothing any more.
WHERE is_deleted OR last_at >= coalesce(least((
    SELECT max(at) FROM billing_periodboundary boundary
    WHERE boundary.customer_id = used.customer_id AND boundary.at <= %(now)s
), %(flows_since)s), %(since)s)
ORDER BY external_id, meter_id
"""  # noqa: S608 - of constants

TWICE = f"""
WITH items AS ({ITEMS}), live AS (
    SELECT items.* FROM items
    JOIN billing_subscription subscription ON subscription.id = items.subscription_id
    WHERE items.until IS NULL
      AND subscription.status <> ALL(%(unsent)s)
      AND (subscription.cancel_at IS NULL OR subscription.cancel_at > %(now)s)
), measured AS ({MEASURED}), counted AS (
    SELECT live.*, event_type, measure FROM live JOIN measured USING (meter_id)
), twice AS (
    SELECT DISTINCT customer_id, unnest(array_agg(stripe_item_id)) AS stripe_item_id
    FROM counted GROUP BY customer_id, event_type, measure HAVING count(DISTINCT stripe_item_id) > 1
)
SELECT customer.external_id, live.meter_id, live.stripe_item_id, live.stripe_price_id,
       live.current_period_end, greatest(live.current_period_start, %(since)s), (
           SELECT sum(quantity) FROM usage_quarterusage quarter
           WHERE quarter.subject = customer.external_id AND quarter.meter_id = live.meter_id
             AND quarter.quarter_start >= greatest(live.current_period_start, %(since)s)
       )
FROM live JOIN twice USING (customer_id, stripe_item_id)
JOIN billing_customer customer ON customer.id = live.customer_id
ORDER BY customer.external_id, live.since, live.stripe_item_id
"""  # noqa: S608 - of constants

FOREIGN = """
SELECT item.stripe_price_id, meter.id, array_agg(item.stripe_item_id ORDER BY item.id),
       array_agg(DISTINCT customer.external_id), min(item.current_period_end),
       min(greatest(item.current_period_start, %(since)s)), sum((
           SELECT sum(quantity) FROM usage_quarterusage quarter
           WHERE quarter.subject = customer.external_id AND quarter.meter_id = meter.id
             AND quarter.quarter_start >= greatest(item.current_period_start, %(since)s)
       ))
FROM billing_foreignitem item
JOIN billing_subscription subscription ON subscription.id = item.subscription_id
JOIN billing_customer customer ON customer.id = subscription.customer_id
LEFT JOIN billing_meter meter ON meter.stripe_meter_id = item.stripe_meter_id
WHERE subscription.ended_at IS NULL
GROUP BY 1, 2
ORDER BY 1
"""


def leaks(*, now: datetime) -> Found:
    """Return all leaks of the 35 days before `now`, those of customers first.

    All is asked of one snapshot. It may take minutes where many customers leak.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        if not connection.savepoint_ids and not connection.needs_rollback:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SET LOCAL statement_timeout = 0")
        return _leaks(now)


def _leaks(now: datetime) -> Found:
    meters = Meter.objects.in_bulk()
    found = [*_unbilled(meters, now), *_billed_twice(meters, now)]
    foreign, notices = _foreign(meters, now)
    open_cases = Case.objects.filter(kind=CaseKind.METER, closed_at=None).order_by("reference")
    return Found(
        leaks=(*found, *foreign),
        blocked=tuple(f"{case.reference}: {case.reason}" for case in open_cases),
        notices=(*notices, *_outdated(), *_unpriced(meters)),
    )


def _asked(query: str, now: datetime) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            query,
            {
                "now": now,
                "since": now - LOOKED_BACK,
                "flows_since": now - STILL,
                "unsent": list(UNSENT),
            },
        )
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def _unbilled(meters: Mapping[int, Meter], now: datetime) -> list[Leak]:
    rows = _asked(UNBILLED, now)
    last_prices = {
        (spell.subscription.customer_id, spell.price.meter_id): spell.price
        for spell in ItemPrice.objects.filter(
            subscription__customer__in={row[0] for row in rows}, price__meter__isnull=False
        )
        .order_by("since", "id")
        .select_related("price", "subscription")
    }
    only_prices = _only_prices()
    subscriptions = Subscription.objects.select_related("plan").in_bulk({row[4] for row in rows})
    groups: defaultdict[tuple[CaseKind, str], list[tuple[Share, Subscription | None, bool]]]
    groups = defaultdict(list)
    for customer_id, subject, is_deleted, meter_id, subscription_id, since, quantity in rows:
        last = last_prices.get((customer_id, meter_id))
        subscription = subscriptions.get(subscription_id)
        if is_deleted:
            kind = CaseKind.CUSTOMER_DELETED
        elif subscription is not None and _is_stopped(subscription, now):
            kind = CaseKind.STOPPED
        else:
            kind = CaseKind.UNBILLED
        share = _share(meters[meter_id], since, quantity, last or only_prices.get(meter_id))
        groups[kind, subject].append((share, subscription, last is not None))
    return [_leak(kind, subject, group) for (kind, subject), group in groups.items()]


def _leak(
    kind: CaseKind, subject: str, group: Iterable[tuple[Share, Subscription | None, bool]]
) -> Leak:
    """Return one leak of a customer's meters; those it was billed by speak for those it was not.

    Several meters may count the same use, and naming all of them would tell it several times.
    """
    rows = list(group)
    rows = [row for row in rows if row[2]] or rows
    known = {row[1].pk: row[1] for row in rows if row[1] is not None}
    return Leak(
        kind=kind,
        reference=subject,
        shares=tuple(share for share, _, _ in rows),
        subscriptions=tuple(known.values()),
        customers=(subject,),
    )


def _is_stopped(subscription: Subscription, now: datetime) -> bool:
    return (
        subscription.status in UNSENT
        or subscription.ended_at is not None
        or (subscription.cancel_at is not None and subscription.cancel_at <= now)
    )


def _billed_twice(meters: Mapping[int, Meter], now: datetime) -> list[Leak]:
    rows = _asked(TWICE, now)
    prices = {
        price.stripe_price_id: price
        for price in Price.objects.filter(stripe_price_id__in={row[3] for row in rows})
    }
    return [
        Leak(
            kind=CaseKind.BILLED_TWICE,
            reference=subject,
            shares=tuple(
                _share(meters[meter_id], since, quantity, prices.get(price_id))
                for _, meter_id, _, price_id, _, since, quantity in group
            ),
            items=tuple(item for _, _, item, *_ in group),
            customers=(subject,),
            period_end=min((row[4] for row in group if row[4] is not None), default=None),
        )
        for subject, group in (
            (subject, list(group)) for subject, group in groupby(rows, key=itemgetter(0))
        )
    ]


def _foreign(meters: Mapping[int, Meter], now: datetime) -> tuple[list[Leak], list[str]]:
    found, notices = [], []
    for price_id, meter_id, items, customers, period_end, since, quantity in _asked(FOREIGN, now):
        if meter_id is None:
            notices.append(
                f"{price_id}, a price that is not ours and bills none of our meters, is on"
                f" {', '.join(items)} of {', '.join(customers)}."
            )
            continue
        found.append(
            Leak(
                kind=CaseKind.FOREIGN_PRICE,
                reference=price_id,
                shares=(_share(meters[meter_id], since, quantity, None),),
                items=tuple(items),
                customers=tuple(customers),
                period_end=period_end,
            )
        )
    return found, notices


def _outdated() -> list[str]:
    """Return a notice for each price that is no longer offered and still on live subscriptions."""
    rows = (
        ItemPrice.objects.filter(until=None, price__active=False, subscription__ended_at=None)
        .order_by("price__lookup_key", "price__stripe_price_id")
        .values_list("price__lookup_key", "price__stripe_price_id")
        .annotate(Count("subscription__customer", distinct=True))
    )
    return [
        f"{lookup_key} is offered at another price now; {count:,} on it"
        f" stay{'s' if count == 1 else ''} at {price_id}."
        for lookup_key, price_id, count in rows
    ]


def _unpriced(meters: Mapping[int, Meter]) -> list[str]:
    priced = set(
        Price.objects.filter(active=True, meter__isnull=False)
        .order_by()
        .values_list("meter_id", flat=True)
    )
    slugs = sorted(meter.slug for meter in meters.values() if meter.pk not in priced)
    return [f"No price bills {slug}: what it counts is on no invoice by it." for slug in slugs]


def _only_prices() -> dict[int, Price]:
    """Return, by meter, the price it is offered at; a meter with several prices has none here."""
    found: defaultdict[int, list[Price]] = defaultdict(list)
    for price in Price.objects.filter(active=True, meter__isnull=False):
        if price.meter_id is not None:
            found[price.meter_id].append(price)
    return {meter_id: prices[0] for meter_id, prices in found.items() if len(prices) == 1}


def _share(meter: Meter, since: datetime, quantity: Decimal | None, price: Price | None) -> Share:
    if quantity is None and not Aggregation(meter.aggregation).is_running:
        quantity = Decimal(0)
    amount = None
    if price is not None and quantity is not None:
        amount = sum(part.amount for part in charges.parts(price.rule, quantity))
    return Share(meter=meter, since=since, quantity=quantity, price=price, amount=amount)
