"""Cost to date is Stripe's preview of the next invoice to the cent, whatever prices and usage.

Random catalogues go through `sync_catalogue`, usage through ingestion, flush and delivery, and the
emulator, which knows nothing of ours, previews each invoice. A combination is a price and what was
used under it; COST_COMBINATIONS sets how many are tried.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO

import pytest
import time_machine
from django.core.management import call_command
from django.utils import timezone

from billing import meter_checks
from billing.customers import create_customer
from billing.gateway import subscriptions as at_stripe
from billing.gateway.client import connection as stripe
from billing.models import Customer, Plan, Source, SubscriptionItem
from billing.subscriptions import mirror, subscribe
from tests.usage.conftest import report
from usage import delivery, fence, flush, running_upkeep, voiding
from usage.cost_to_date import CostToDate, cost_to_date
from usage.ingestion import accept
from usage.lifecycle import State
from usage.models import SubmissionState
from usage.voiding import EventKey

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

SEED = 20261125
START = datetime(2026, 11, 20, 12, 7, 13, tzinfo=UTC)
"""On no quarter of an hour, so that the edge of a period is read from events."""
HOURS = 20
"""Shorter than the shortest period."""
METERS = (
    *(("sum", scale) for scale in (0, 0, 0, 1, 2, 3, 4, 6)),
    *(("count", 0),) * 2,
    *(("max", 0), ("max", 2), ("latest", 0), ("latest", 3), ("unique", 0)),
)
METERS_OF_A_PLAN = 3
MOST_LIMITS = 2
"""So that an invoice has at most ten lines, which is as many as Stripe shows with it."""
CURRENCIES = {"usd": 2, "eur": 2, "jpy": 0, "kwd": 3}
"""With the decimals of their main unit."""


def combinations() -> int:
    return int(os.environ.get("COST_COMBINATIONS", "400"))


# --- random catalogues ----------------------------------------------------------------------------


def catalogue(luck: random.Random, plans: int) -> str:
    return "\n".join([*_meters(), *(line for n in range(plans) for line in _plan(luck, n))])


def _meters() -> Iterator[str]:
    for number, (aggregation, scale) in enumerate(METERS):
        yield f"[meters.m{number}]"
        yield f'display_name = "M{number}"\nevent_name = "mk_m{number}"'
        yield f'event_type = "use.m{number}"\naggregation = "{aggregation}"'
        yield f'measures = ["m{number}"]\nunit = "unit"\nscale = {scale}'
        if aggregation != "count":
            yield 'value_property = "value"'


def _plan(luck: random.Random, number: int) -> Iterator[str]:
    currency, decimals = luck.choice(list(CURRENCIES.items()))
    yield f'[plans.p{number}]\nname = "P{number}"\ncurrency = "{currency}"'
    yield f'interval = "{luck.choice(["day", "week", "month", "year"])}"'
    fee = _amount(luck, decimals, most=decimals)
    yield f'base_fee = {{ amount = {fee}, name = "Fee" }}'
    for meter in luck.sample(range(len(METERS)), METERS_OF_A_PLAN):
        yield f'[[plans.p{number}.prices]]\nmeter = "m{meter}"\nname = "Price of m{meter}"'
        yield _price(luck, decimals, scale=METERS[meter][1])


def _price(luck: random.Random, decimals: int, *, scale: int) -> str:
    # Of the smallest unit in the currency's minor unit, Stripe takes twelve decimals.
    finest = 12 + decimals - scale
    kind = luck.choice(["unit", "package", "graduated", "volume"])
    if kind == "unit":
        return f"unit_amount = {_amount(luck, decimals, most=finest)}"
    if kind == "package":
        size, way = luck.choice([1, 2, 7, 100, 1000, 4096]), luck.choice(["up", "down"])
        amount = _amount(luck, decimals, most=12 + decimals)
        return f'package = {{ size = {size}, amount = {amount}, round = "{way}" }}'
    limits = sorted(
        luck.sample([1, 2, 5, 10, 50, 100, 1_000, 10_000], luck.randint(1, MOST_LIMITS))
    )
    tiers = [
        f"{{ {f'up_to = {limit}, ' if limit else ''}"
        f"unit_amount = {_amount(luck, decimals, most=finest)}, "
        f"flat_amount = {luck.choice(['0', _amount(luck, decimals, most=12 + decimals)])} }}"
        for limit in [*limits, None]
    ]
    return f'tiers_mode = "{kind}"\ntiers = [{", ".join(tiers)}]'


def _amount(luck: random.Random, decimals: int, *, most: int) -> str:
    """An amount in the main unit: nothing, whole minor units, halves of them, or very fine ones."""
    digits = min(most, luck.choice([decimals, decimals + 1, decimals + 4, most]))
    return f"{Decimal(luck.choice([0, 5, luck.randint(1, 99_999)])).scaleb(-digits):f}"


# --- random usage ---------------------------------------------------------------------------------


def use(luck: random.Random, source: Source, customers: list[Customer]) -> None:
    """Report usage around the start of everybody's period, and take some of it back."""
    reports = []
    priced: defaultdict[int, list[str]] = defaultdict(list)
    items = SubscriptionItem.objects.filter(price__meter__isnull=False).order_by("id")
    for customer_id, slug in items.values_list("subscription__customer", "price__meter__slug"):
        priced[customer_id].append(slug)
    for customer in customers:
        for slug in priced[customer.pk]:
            meter = int(slug.removeprefix("m"))
            aggregation, scale = METERS[meter]
            for number in range(luck.choice([0, 1, 1, 2, 4])):
                at = luck.choice(
                    [
                        START - timedelta(microseconds=1),
                        START,
                        START + timedelta(seconds=luck.uniform(-400, 400)),
                        START + timedelta(seconds=luck.uniform(0, HOURS * 3600 - 1)),
                    ]
                )
                units = luck.choice([0, 1, 5, 10, 50, luck.randint(1, 2_000), 12_345_678])
                values = {
                    "count": {"seen": True},
                    "unique": {"value": f"name-{luck.randint(1, 3)}"},
                }
                exact = f"{Decimal(units * 10**scale + luck.choice([0, 1])).scaleb(-scale):f}"
                reports.append(
                    report(
                        f"{customer.external_id}-{meter}-{number}",
                        at=at,
                        subject=customer.external_id,
                        type=f"use.m{meter}",
                        **values.get(aggregation, {"value": exact}),
                    )
                )
    luck.shuffle(reports)
    now = timezone.now()
    for first in range(0, len(reports), 500):
        accept(source_id=source.pk, reports=reports[first : first + 500], now=now)
    taken_back = luck.sample(reports, len(reports) // 20)
    for first in range(0, len(taken_back), 500):
        keys = [EventKey(source.pk, each.event_id) for each in taken_back[first : first + 500]]
        voiding.void(keys, author="a person", reason="a mistake", now=now)


# --- the comparison -------------------------------------------------------------------------------


def on_plan(number: int) -> Customer:
    customer, _ = create_customer(external_id=f"c-{number}")
    subscribed = subscribe(customer=customer, plan=Plan.objects.get(slug=f"p{number}"))
    subscription_id = str(subscribed.subscription.stripe_subscription_id)
    found = stripe().v1.subscriptions.retrieve(subscription_id)
    if found.status == "incomplete":
        stripe().v1.invoices.pay(str(found.latest_invoice), {"paid_out_of_band": True})
    state = at_stripe.retrieve(subscription_id)
    assert state is not None
    assert mirror(state).status == "active"
    return customer


def send_everything() -> None:
    while flush.flush_batches(now=timezone.now()).batch_count:
        pass
    # A void leaves a running value to be counted again.
    running_upkeep.tend(clock=timezone.now, seconds=600)
    while delivery.deliver_due(clock=timezone.now).counts:
        pass


def charged(told: CostToDate) -> dict[str, list[tuple[int, Decimal]]]:
    """What our lines charge, by Stripe's price: amounts with quantities."""
    return {
        line.price.stripe_price_id: [(part.amount, part.quantity) for part in line.parts]
        for line in told.subscriptions[0].lines
    }


def preview(customer: Customer) -> tuple[int, dict[str, list[tuple[int, Decimal]]]]:
    """Stripe's total, and what its lines charge."""
    invoice = stripe().v1.invoices.create_preview(
        {"subscription": str(customer.subscriptions.get().stripe_subscription_id)}
    )
    assert not invoice.lines.has_more
    lines: defaultdict[str, list[tuple[int, Decimal]]] = defaultdict(list)
    for line in invoice.lines.data:
        assert line.pricing is not None
        assert line.pricing.price_details is not None
        quantity = Decimal(str(line.quantity_decimal))
        lines[str(line.pricing.price_details.price)].append((line.amount, quantity))
    return invoice.total, dict(lines)


def test_cost_to_date_is_stripes_preview_to_the_cent(emulator, source, tmp_path):
    luck = random.Random(SEED)  # noqa: S311 - test data
    plans = -(-combinations() // METERS_OF_A_PLAN)
    (tmp_path / "catalogue.toml").write_text(catalogue(luck, plans))
    with time_machine.travel(START, tick=False) as clock:
        call_command(
            "sync_catalogue", "--file", str(tmp_path / "catalogue.toml"), stdout=StringIO()
        )
        customers = [on_plan(number) for number in range(plans)]
        clock.shift(timedelta(hours=HOURS))
        use(luck, source, customers)
        told_at_once = [charged(cost_to_date(customer)) for customer in customers]
        assert fence.inspect(timezone.now())
        assert meter_checks.check_due(timezone.now()).blocked == ()
        send_everything()
        in_period = SubmissionState.objects.filter(submission__timestamp__gte=START)
        assert set(in_period.values_list("state", flat=True)) == {State.ACCEPTED}

        for customer, at_once in zip(customers, told_at_once, strict=True):
            told = cost_to_date(customer)
            total, lines = preview(customer)
            assert charged(told) == lines
            assert told.subscriptions[0].total == total
            assert charged(told) == at_once
            assert told.held == ()
