"""Ends of billing periods, as the emulator's invoices and webhooks tell of them (F31)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing import invoices, periods
from billing.gateway import invoices as invoices_at_stripe
from billing.gateway.client import connection as stripe
from billing.models import Customer, Invoice, PeriodBoundary
from stripe_emulator import Emulator
from tests.factories.billing import make_customer
from tests.support.stripe import switchboard

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

START = datetime(2026, 11, 5, 9, 17, 23, tzinfo=UTC)
END = datetime(2026, 12, 5, 9, 17, 23, tzinfo=UTC)


@dataclass
class Shop:
    emulator: Emulator
    meter_id: str
    customer: Customer
    now: datetime

    def price(self, **recurring: Any) -> str:
        product = stripe().v1.products.create({"name": "A product"})
        return (
            stripe()
            .v1.prices.create(
                {
                    "currency": "usd",
                    "product": product.id,
                    "unit_amount": 4,
                    "recurring": {"interval": "month"} | recurring,
                }
            )
            .id
        )

    def subscribe(self, *prices: str) -> str:
        return (
            stripe()
            .v1.subscriptions.create(
                {
                    "customer": self.customer.stripe_customer_id,
                    "items": [{"price": p} for p in prices],
                }
            )
            .id
        )

    def metered(self) -> str:
        return self.price(usage_type="metered", meter=self.meter_id)

    def boundary(self, at: datetime = END, **fields: Any) -> PeriodBoundary:
        return PeriodBoundary.objects.create(customer=self.customer, at=at, **fields)

    def refresh(self, *boundaries: PeriodBoundary, at: datetime) -> periods.Refreshed:
        self.now = at
        return periods.refresh([b.pk for b in boundaries], now=at, seconds=60)

    def lists(self) -> int:
        return sum(a.path == "/v1/invoices" for a in self.emulator.arrivals)


@pytest.fixture
def shop(db):
    # The lambda looks the instant up anew each time: a test moves it.
    emulator = Emulator(now=lambda: shop.now.timestamp())  # noqa: PLW0108
    shop = Shop(emulator, meter_id="", customer=Customer(), now=START)
    switchboard.connect(shop.emulator)
    shop.meter_id = (
        stripe()
        .v1.billing.meters.create(
            {
                "display_name": "tokens",
                "event_name": "tokens",
                "default_aggregation": {"formula": "sum"},
            }
        )
        .id
    )
    made = stripe().v1.customers.create(
        {"name": "Acme", "invoice_settings": {"default_payment_method": "pm_card_visa"}}
    )
    shop.customer = make_customer(stripe_customer_id=made.id)
    yield shop
    switchboard.disconnect()


def facts(boundary: PeriodBoundary) -> tuple[datetime | None, datetime | None, datetime | None]:
    boundary.refresh_from_db()
    return boundary.closed_at, boundary.open_until, boundary.asked_at


@pytest.mark.parametrize(
    ("after", "open_for"), [(31, 10), (44, 10), (48, 7), (52, 3), (56, -1)], ids=str
)
def test_a_draft_keeps_its_period_open_until_shortly_before_it_is_final(shop, after, open_for):
    shop.subscribe(shop.metered())
    boundary = shop.boundary()
    now = END + timedelta(minutes=after)

    assert shop.refresh(boundary, at=now) == periods.Refreshed(open_count=1)

    assert facts(boundary) == (None, now + timedelta(minutes=open_for), now)


def test_a_final_invoice_closes_its_period_for_good(shop):
    shop.subscribe(shop.metered())
    boundary, before = shop.boundary(), shop.boundary(END - timedelta(days=1))
    now = END + timedelta(minutes=61)

    assert shop.refresh(boundary, before, at=now) == periods.Refreshed(1, 1)

    assert facts(boundary) == (now, None, now)
    # Nothing was billed at the other one: only its own invoice could close it.
    assert facts(before) == (None, now + timedelta(minutes=50), now)
    assert shop.lists() == 1
    assert shop.refresh(boundary, at=now + timedelta(hours=1)) == periods.Refreshed()
    assert (facts(boundary)[0], shop.lists()) == (now, 1)


def test_the_start_of_a_subscription_closes_nothing(shop):
    shop.subscribe(shop.metered(), shop.price())
    start, end = shop.boundary(START), shop.boundary(END)
    now = START + timedelta(hours=2)
    [first] = stripe().v1.invoices.list().data
    assert (first.billing_reason, first.lines.data[0].period.end) == (
        "subscription_create",
        int(END.timestamp()),
    )

    assert shop.refresh(start, end, at=now) == periods.Refreshed(open_count=1)

    assert facts(start) == (None, now + timedelta(minutes=50), now)
    assert facts(end) == (None, None, None)


def test_an_invoice_names_the_periods_it_bills_and_not_those_it_charges_ahead(shop):
    shop.subscribe(shop.metered(), shop.price())
    shop.now = END + timedelta(hours=2)

    cycle, first = invoices_at_stripe.of_customer(
        shop.customer.stripe_customer_id, created_since=START
    )

    assert (first.ended_periods, first.is_final) == ((), True)
    assert (cycle.ended_periods, cycle.is_final) == ((END,), True)
    assert cycle.finalized_at == END + timedelta(hours=1)
    assert invoices_at_stripe.of_customer(
        shop.customer.stripe_customer_id, created_since=START + timedelta(seconds=1)
    ) == [replace(cycle, asked_at=pytest.approx(cycle.asked_at, abs=timedelta(minutes=1)))]


def test_usage_billed_at_once_on_cancellation_closes_its_period(shop):
    subscription = shop.subscribe(shop.metered())
    shop.now = START + timedelta(days=3)
    stripe().v1.subscriptions.cancel(subscription, {"invoice_now": True})
    boundary = shop.boundary(shop.now)

    shop.refresh(boundary, at=shop.now + timedelta(minutes=31))

    assert facts(boundary)[0] == shop.now


@pytest.mark.parametrize("kind", ["drop_before", "503", "429", "answer_lost"])
def test_when_stripe_does_not_answer_nothing_is_known_and_nobody_else_is_asked(shop, kind):
    shop.subscribe(shop.metered())
    boundary = shop.boundary()
    other = make_customer("globex", stripe_customer_id="cus_globex")
    another = PeriodBoundary.objects.create(customer=other, at=END)
    shop.emulator.faults.switch_on(kind, path="/v1/invoices")

    found = shop.refresh(boundary, another, at=END + timedelta(minutes=40))

    assert found == periods.Refreshed(failed_count=1)
    assert (facts(boundary), facts(another)) == ((None,) * 3, (None,) * 3)


def test_no_call_is_begun_when_the_time_is_up(shop):
    boundary = shop.boundary()

    assert periods.refresh([boundary.pk], now=END, seconds=0) == periods.Refreshed()

    assert shop.lists() == 0


def mirror_all(shop, **changes: Any) -> None:
    for state in invoices_at_stripe.of_customer(
        shop.customer.stripe_customer_id, created_since=START
    ):
        invoices.mirror(replace(state, asked_at=shop.now, **changes))


def test_a_mirrored_invoice_tells_the_same(shop):
    shop.subscribe(shop.metered())
    boundary = shop.boundary()
    shop.now = END + timedelta(minutes=2)

    mirror_all(shop)

    assert facts(boundary) == (None, shop.now + timedelta(minutes=10), shop.now)
    row = Invoice.objects.get()
    assert (row.period_end, row.finalized_at) == (END, None)

    shop.now = END + timedelta(minutes=90)
    mirror_all(shop)

    assert facts(boundary)[0] == shop.now
    assert Invoice.objects.get().finalized_at == END + timedelta(hours=1)


def test_an_older_answer_does_not_open_a_closed_period(shop):
    shop.subscribe(shop.metered())
    boundary = shop.boundary()
    shop.now = END + timedelta(minutes=90)
    mirror_all(shop)
    closed = facts(boundary)

    mirror_all(shop, status="draft")
    shop.now -= timedelta(minutes=60)
    mirror_all(shop, status="draft")

    assert facts(boundary) == closed


def test_of_two_drafts_the_one_that_is_final_first_decides(shop):
    for _ in range(2):
        shop.subscribe(shop.metered())
    boundary = shop.boundary()
    shop.now = END + timedelta(minutes=50)
    first, second = invoices_at_stripe.of_customer(
        shop.customer.stripe_customer_id, created_since=START
    )
    invoices.mirror(replace(first, asked_at=shop.now))

    invoices.mirror(
        replace(
            second, asked_at=shop.now, automatically_finalizes_at=shop.now + timedelta(hours=70)
        )
    )

    assert facts(boundary)[1] == END + timedelta(minutes=55)
