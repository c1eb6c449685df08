"""Cost to date: exact to the edges of a period, at the price of the time, without what is held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from billing import authentication, meter_checks
from billing.customers import create_customer
from billing.enums import Scope
from billing.gateway import subscriptions as at_stripe
from billing.gateway.client import connection as stripe
from billing.models import Customer, Meter, PeriodBoundary, Plan, Price, Source, Subscription
from billing.subscriptions import mirror, subscribe
from tests.usage.conftest import report
from usage import delivery, fence, flush, holding, running_upkeep, voiding
from usage.cost_to_date import CostToDate, cost_to_date
from usage.ingestion import accept
from usage.models import HeldUsage
from usage.reports import Stored
from usage.voiding import EventKey

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

START = datetime(2026, 11, 20, 12, 7, 13, tzinfo=UTC)
END = datetime(2026, 12, 20, 12, 7, 13, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)

SEATS = """
[meters.seats]
display_name = "Seats"
event_name = "seats"
event_type = "team.seats"
aggregation = "max"
value_property = "seats"
measures = ["seats"]
unit = "seat"

[plans.seats]
name = "Seats"
currency = "usd"
interval = "month"

[[plans.seats.prices]]
meter = "seats"
name = "Seats"
unit_amount = 5
"""


@dataclass
class Shop:
    """A customer on plan `team` since START: $20, 500,000 tokens in it, then $0.00003 each."""

    clock: Any
    source: Source
    count: int = 0

    @property
    def acme(self) -> Customer:
        return Customer.objects.get(external_id="acme")

    def use(self, at: datetime, tokens: int, *, subject: str = "acme") -> str:
        return self.report(at, subject=subject, total_tokens=tokens)

    def seats(self, at: datetime, seats: int) -> str:
        return self.report(at, type="team.seats", seats=seats)

    def report(self, at: datetime, **fields: Any) -> str:
        self.count += 1
        values = {"input_tokens": 0, "output_tokens": 0} if "total_tokens" in fields else {}
        event = report(f"e-{self.count}", at=at, **values, **fields)
        stored = accept(source_id=self.source.pk, reports=[event], now=timezone.now())
        assert stored == [Stored.ACCEPTED]
        return event.event_id

    def send(self) -> None:
        now = timezone.now()
        assert fence.inspect(now)
        meter_checks.check_due(now)
        flush.flush_batches(now=now)
        running_upkeep.tend(clock=timezone.now, seconds=60)
        while delivery.deliver_due(clock=timezone.now).counts:
            pass

    def cost(self) -> CostToDate:
        return cost_to_date(self.acme)

    def change(self, plan: str = "team", **change: Any) -> Subscription:
        """Have the subscription changed at Stripe, and learn of it."""
        row = Subscription.objects.get(plan__slug=plan)
        subscription_id = str(row.stripe_subscription_id)
        stripe().v1.subscriptions.update(subscription_id, change)
        state = at_stripe.retrieve(subscription_id)
        assert state is not None
        return mirror(state)

    def preview(self, plan: str = "team") -> int:
        row = Subscription.objects.get(plan__slug=plan)
        params = {"subscription": str(row.stripe_subscription_id)}
        return stripe().v1.invoices.create_preview(params).total  # type: ignore[arg-type]


def join(plan: str = "team", external_id: str = "acme") -> Subscription:
    customer, _ = create_customer(external_id=external_id)
    row = subscribe(customer=customer, plan=Plan.objects.get(slug=plan)).subscription
    subscription_id = str(row.stripe_subscription_id)
    if row.status == "incomplete":
        invoice = stripe().v1.subscriptions.retrieve(subscription_id).latest_invoice
        stripe().v1.invoices.pay(str(invoice), {"paid_out_of_band": True})
    state = at_stripe.retrieve(subscription_id)
    assert state is not None
    return mirror(state)


@pytest.fixture
def opened(emulator, source, tmp_path) -> Iterator[Shop]:
    """The catalogue and a plan of seats, and nobody yet."""
    path = tmp_path / "catalogue.toml"
    path.write_text(Path("catalogue.toml").read_text() + SEATS)
    with time_machine.travel(START, tick=False) as clock:
        call_command("sync_catalogue", "--file", str(path), stdout=StringIO())
        yield Shop(clock, source)


@pytest.fixture
def shop(opened) -> Shop:
    """Ten days later."""
    join()
    opened.clock.shift(timedelta(days=10))
    return opened


def lines(told: CostToDate) -> list[tuple[str, Decimal, int]]:
    return [
        (line.price.name, line.quantity, line.amount)
        for cost in told.subscriptions
        for line in cost.lines
    ]


def tokens(told: CostToDate) -> Decimal:
    return next(quantity for name, quantity, _ in lines(told) if name == "AI tokens")


FEE = ("Team, base fee", Decimal(1), 2_000)


def test_usage_and_the_next_base_fee_make_the_next_invoice(shop):
    shop.use(START + HOUR, 600_000)

    told = shop.cost()

    [cost] = told.subscriptions
    assert lines(told) == [("AI tokens", Decimal(600_000), 300), FEE]
    assert (cost.total, cost.currency, told.totals) == (2_300, "usd", {"usd": 2_300})
    assert (cost.period_start, cost.invoiced_at) == (START, END)
    assert [(line.period_start, line.period_end) for line in cost.lines] == [
        (START, END),
        (END, datetime(2027, 1, 20, 12, 7, 13, tzinfo=UTC)),
    ]
    assert told.as_of == timezone.now()


def test_a_period_counts_from_its_first_instant_to_its_last(shop):
    shop.clock.move_to(END - SECOND)
    for at, amount in [
        (START - timedelta(microseconds=1), 1),
        (START, 10),
        (END - timedelta(microseconds=1), 100),
        (END, 1_000),
    ]:
        shop.use(at, amount)
    unflushed = tokens(shop.cost())

    flush.flush_batches(now=timezone.now())

    assert (unflushed, tokens(shop.cost())) == (110, 110)


def test_usage_taken_back_costs_nothing(shop):
    kept, mistaken = shop.use(START + HOUR, 7), shop.use(START + HOUR, 600_000)
    flush.flush_batches(now=timezone.now())
    key = EventKey(shop.source.pk, mistaken)

    voiding.void([key], author="a person", reason="a mistake", now=timezone.now())

    assert kept != mistaken
    assert lines(shop.cost()) == [("AI tokens", Decimal(7), 0), FEE]


# --- what is held ---------------------------------------------------------------------------------


def held(told: CostToDate) -> list[tuple[str, str, Decimal | None, int]]:
    return [(each.meter.slug, each.reason, each.quantity, each.event_count) for each in told.held]


def test_what_is_held_is_told_apart_until_it_is_released(opened):
    """Held before its customer existed, in one row with usage of before the period."""
    opened.clock.move_to(START - 20 * SECOND)
    for at, amount in [(START - SECOND, 1), (START, 10), (START + HOUR / 60, 100)]:
        opened.use(at, amount)
    flush.flush_batches(now=timezone.now())
    row = HeldUsage.objects.get(meter__slug="ai_tokens")
    opened.clock.move_to(START)
    join()

    opened.use(START, 1_000)
    told = opened.cost()

    assert (row.segment_start, row.quantity) == (START.replace(minute=0, second=0), 111)
    assert tokens(told) == 1_000
    assert held(told) == [("ai_tokens", "unknown_customer", Decimal(110), 2)]
    while holding.release(now=timezone.now()):
        pass
    assert (tokens(opened.cost()), held(opened.cost())) == (1_110, [])


def test_usage_of_another_subscriptions_final_invoice_is_in_none(shop):
    """Late usage ends at that boundary, inside an hour; what follows is sent."""
    boundary = START + timedelta(days=5)
    PeriodBoundary.objects.create(
        customer=shop.acme, at=boundary, closed_at=boundary + HOUR, recut_at=boundary
    )
    shop.use(boundary - SECOND, 10)
    shop.use(boundary, 100)
    flush.flush_batches(now=timezone.now())

    told = shop.cost()

    assert (tokens(told), held(told)) == (100, [("ai_tokens", "late", Decimal(10), 1)])


def test_two_rows_of_one_hour_count_each_event_once(shop):
    boundary = START + timedelta(days=5)
    PeriodBoundary.objects.create(customer=shop.acme, at=boundary, recut_at=boundary)
    Meter.objects.filter(slug="ai_tokens").update(stripe_meter_id=None)
    shop.use(boundary - SECOND, 10)
    shop.use(boundary, 100)
    flush.flush_batches(now=timezone.now())

    told = shop.cost()

    assert HeldUsage.objects.filter(meter__slug="ai_tokens").count() == 2
    assert (tokens(told), held(told)) == (
        0,
        [("ai_tokens", "meter_not_at_stripe", Decimal(110), 2)],
    )


# --- running values -------------------------------------------------------------------------------


def seats(shop: Shop) -> Decimal:
    return next(quantity for name, quantity, _ in lines(shop.cost()) if name == "Seats")


def test_a_running_value_is_the_one_stripe_is_told_last(opened):
    join("seats")
    opened.clock.shift(timedelta(days=10))
    opened.seats(START - SECOND, 90)
    opened.seats(START + HOUR, 8)
    last = opened.seats(START + 2 * HOUR, 5)
    opened.send()
    assert (seats(opened), opened.preview("seats")) == (8, 4_000)

    # Another subscription's boundary: our value starts again there, and Stripe keeps the last.
    join()
    opened.clock.shift(timedelta(days=1))
    assert seats(opened) == 8
    later = opened.seats(timezone.now() - HOUR, 3)
    opened.send()
    assert (seats(opened), opened.preview("seats")) == (3, 1_500)

    for event_id in (last, later):
        key = EventKey(opened.source.pk, event_id)
        voiding.void([key], author="a person", reason="a mistake", now=timezone.now())
    opened.send()
    # What is left of the last of our periods is none.
    assert seats(opened) == 0


# --- prices, trials, ends -------------------------------------------------------------------------


def test_usage_costs_what_the_price_of_its_time_does(shop):
    former = Price.objects.get(lookup_key="default:team:ai_tokens")
    created = stripe().v1.prices.create(
        {
            "currency": "usd",
            "product": former.stripe_product_id,
            "unit_amount_decimal": Decimal("0.5"),
            "recurring": {
                "interval": "month",
                "usage_type": "metered",
                "meter": str(Meter.objects.get(slug="ai_tokens").stripe_meter_id),
            },
        }
    )
    Price.objects.create(
        plan=former.plan,
        lookup_key="next",
        name="AI tokens, next",
        kind="metered",
        meter=former.meter,
        currency="usd",
        interval="month",
        rule={"unit_amount_decimal": "0.5"},
        stripe_price_id=created.id,
        stripe_product_id=former.stripe_product_id,
    )
    changed_at = timezone.now()
    item = shop.acme.subscriptions.get().items.get(price=former)
    shop.use(changed_at - SECOND, 600_000)
    shop.send()
    shop.change(items=[{"id": item.stripe_item_id, "price": created.id}], proration_behavior="none")
    shop.clock.shift(HOUR)
    shop.use(changed_at, 41)
    shop.send()

    told = shop.cost()

    assert lines(told) == [
        ("AI tokens", Decimal(600_000), 300),
        ("AI tokens, next", Decimal(41), 21),
        FEE,
    ]
    assert [(line.period_start, line.period_end) for line in told.subscriptions[0].lines[:2]] == [
        (START, changed_at),
        (changed_at, END),
    ]
    assert told.totals == {"usd": shop.preview()}


def test_a_trial_costs_nothing_but_the_fee_that_follows_it(shop):
    shop.use(START + HOUR, 600_000)
    trial_end = timezone.now() + timedelta(days=3)
    shop.change(trial_end=int(trial_end.timestamp()), proration_behavior="none")
    shop.use(timezone.now(), 600_000)

    told = shop.cost()

    assert lines(told) == [FEE]
    [cost] = told.subscriptions
    assert (cost.subscription.status, cost.invoiced_at) == ("trialing", trial_end)
    assert cost.lines[0].period_start == trial_end
    assert told.totals == {"usd": shop.preview()}


@pytest.mark.parametrize("days", [5, 30])
def test_the_last_invoice_has_no_fee(shop, days):
    shop.use(START + HOUR, 600_000)
    shop.use(START + timedelta(days=6), 100_000)
    shop.send()
    shop.clock.shift(SECOND)

    ends_at = START + timedelta(days=days) + timedelta(days=6)
    change = (
        {"cancel_at": int(ends_at.timestamp())} if days == 5 else {"cancel_at_period_end": True}
    )
    shop.change(proration_behavior="none", **change)

    told = shop.cost()
    assert lines(told) == [("AI tokens", Decimal(700_000), 600)]
    assert told.subscriptions[0].invoiced_at == (ends_at if days == 5 else END)
    assert told.totals == {"usd": shop.preview()}


@pytest.mark.parametrize("status", ["canceled", "incomplete_expired", "creating", "paused"])
def test_a_subscription_without_a_next_invoice_costs_nothing(shop, status):
    shop.use(START + HOUR, 600_000)
    Subscription.objects.update(status=status)

    assert shop.cost().subscriptions == ()


def test_a_price_that_is_none_of_ours_is_not_charged_as_ours(shop):
    """Somebody put it on the item in Stripe's dashboard; the item's row keeps the one before."""
    item = shop.acme.subscriptions.get().items.get(price__kind="base")
    created = stripe().v1.prices.create(
        {
            "currency": "usd",
            "product": item.price.stripe_product_id,
            "unit_amount": 7,
            "recurring": {"interval": "month"},
        }
    )
    shop.change(items=[{"id": item.stripe_item_id, "price": created.id}], proration_behavior="none")

    assert lines(shop.cost()) == [("AI tokens", Decimal(0), 0)]


def test_more_than_one_of_a_base_fee_is_charged_as_often(shop):
    item = shop.acme.subscriptions.get().items.get(price__kind="base")
    shop.change(items=[{"id": item.stripe_item_id, "quantity": 3}], proration_behavior="none")

    told = shop.cost()

    assert lines(told)[-1] == ("Team, base fee", Decimal(3), 6_000)
    assert told.totals == {"usd": shop.preview()}


# --- over HTTP and in the admin -------------------------------------------------------------------


def ask(client: Any, external_id: str = "acme", *scopes: Scope, **limits: Any) -> Any:
    _, key = authentication.issue(
        "console", scopes or [Scope.READ], limits=authentication.Limits(**limits)
    )
    path = f"/api/v1/customers/{external_id}/cost-to-date"
    return client.get(path, headers={"authorization": f"Bearer {key}"})


def test_the_answer_tells_lines_parts_totals_and_what_is_held(shop, client):
    shop.use(START + HOUR, 600_001)
    Meter.objects.filter(slug="ai_tokens").update(stripe_meter_id=None)
    flush.flush_batches(now=timezone.now())
    shop.use(START + HOUR, 500_100)

    answer = ask(client)

    price, fee = Price.objects.filter(plan__slug="team", active=True).order_by("-kind")
    assert answer.json() == {
        "customer": "acme",
        "as_of": "2026-11-30T12:07:13Z",
        "totals": [{"currency": "usd", "amount": 2_000}],
        "subscriptions": [
            {
                "plan": "team",
                "status": "active",
                "stripe_subscription_id": shop.acme.subscriptions.get().stripe_subscription_id,
                "currency": "usd",
                "total": 2_000,
                "period_start": "2026-11-20T12:07:13Z",
                "invoiced_at": "2026-12-20T12:07:13Z",
                "lines": [
                    {
                        "price": "default:team:ai_tokens",
                        "stripe_price_id": price.stripe_price_id,
                        "name": "AI tokens",
                        "meter": "ai_tokens",
                        "unit": "token",
                        "quantity": "500100",
                        "period_start": "2026-11-20T12:07:13Z",
                        "period_end": "2026-12-20T12:07:13Z",
                        "amount": 0,
                        "parts": [
                            {
                                "quantity": "500000",
                                "unit_amount": "0",
                                "flat_amount": "0",
                                "amount": 0,
                            },
                            {
                                "quantity": "100",
                                "unit_amount": "0.003",
                                "flat_amount": "0",
                                "amount": 0,
                            },
                        ],
                    },
                    {
                        "price": "default:team:base",
                        "stripe_price_id": fee.stripe_price_id,
                        "name": "Team, base fee",
                        "meter": None,
                        "unit": None,
                        "quantity": "1",
                        "period_start": "2026-12-20T12:07:13Z",
                        "period_end": "2027-01-20T12:07:13Z",
                        "amount": 2_000,
                        "parts": [
                            {
                                "quantity": "1",
                                "unit_amount": "2000",
                                "flat_amount": "0",
                                "amount": 2_000,
                            }
                        ],
                    },
                ],
            }
        ],
        "held": [
            {
                "plan": "team",
                "meter": "ai_tokens",
                "unit": "token",
                "quantity": "600001",
                "event_count": 1,
                "reason": "meter_not_at_stripe",
                "meaning": "the meter has no Stripe id yet",
            }
        ],
    }


def test_only_who_may_read_the_customer_is_told(opened, client):
    create_customer(external_id="acme")
    create_customer(external_id="acme/eu")

    told = {
        "read": ask(client),
        "manage": ask(client, "acme", Scope.MANAGE, Scope.INGEST),
        "own": ask(client, customers=frozenset({"acme"})),
        "other": ask(client, customers=frozenset({"globex"})),
        "nobody": ask(client, "nobody"),
        "slash": ask(client, "acme/eu"),
    }

    assert {name: answer.status_code for name, answer in told.items()} == {
        "read": 200,
        "manage": 403,
        "own": 200,
        "other": 403,
        "nobody": 404,
        "slash": 200,
    }
    assert told["slash"].json()["customer"] == "acme/eu"
    assert told["read"].json()["subscriptions"] == []


def test_a_customers_page_in_the_admin_tells_it(shop, client):
    shop.use(START + HOUR, 600_000)
    client.force_login(get_user_model().objects.create_superuser("ada", "a@us.test", "secret"))

    page = client.get(reverse("admin:billing_customer_change", args=[shop.acme.pk]))

    text = page.content.decode()
    assert "<strong>23.00 usd</strong> on the invoice of 2026-12-20 12:07:13 UTC (team)" in text
    assert "AI tokens: 600000 token, 3.00 usd" in text
    assert "Team, base fee: 1, 20.00 usd" in text
