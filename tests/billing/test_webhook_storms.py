"""A month of webhooks doubled, shuffled, late and lost: one sweep later it is as if none had been."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.db import transaction
from stripe import InvalidRequestError

from billing.customers import create_customer
from billing.enums import Arrival, CaseKind, WebhookState
from billing.gateway.client import connection as stripe
from billing.models import (
    Case,
    Invoice,
    PeriodBoundary,
    Plan,
    Subscription,
    SubscriptionItem,
    WebhookEvent,
)
from billing.subscriptions import subscribe
from billing.webhooks import inbox, sweep
from billing_project.webhook_routes import ROUTES
from stripe_emulator import Emulator
from tests.support.stripe import switchboard

pytestmark = [pytest.mark.scenario, pytest.mark.django_db]

BEGIN = datetime(2026, 11, 2, 9, 0, 7, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HOOK = "/webhooks/stripe"


class Shop:
    """Subscribers whose subscriptions change, and a clock that is ours and Stripe's."""

    def __init__(self, emulator, client, travel, *, subscribers):
        self.emulator, self.client, self.travel = emulator, client, travel
        self.draw = random.Random(11)  # noqa: S311 - a repeatable history
        self.ending: dict[str, bool] = {}
        self.posted = 0
        for number in range(subscribers):
            customer, _ = create_customer(external_id=f"customer-{number}")
            stripe().v1.customers.update(
                customer.stripe_customer_id,
                {"invoice_settings": {"default_payment_method": "pm_card_visa"}},
            )
            # A base fee nobody confirms ends after a day; the others go on from month to month.
            plan = Plan.objects.get(slug="tokens-payg" if number % 6 else "team")
            made = subscribe(customer=customer, plan=plan).subscription
            self.ending[made.stripe_subscription_id] = False

    def live(self, span: timedelta, *, changes: int) -> None:
        """Let time pass, and people change their minds about their subscriptions."""
        self.travel.shift(span)
        for _ in range(changes):
            one, chance = self.draw.choice(list(self.ending)), self.draw.random()
            try:
                if chance < 0.005:
                    stripe().v1.subscriptions.cancel(one)
                else:
                    ends = self.ending[one] = not self.ending[one]
                    stripe().v1.subscriptions.update(one, {"cancel_at_period_end": ends})
            except InvalidRequestError:
                # It has ended meanwhile, by itself or because somebody cancelled it.
                del self.ending[one]

    def deliver(self) -> None:
        """Make the deliveries that are due."""
        for delivery in self.emulator.pop_deliveries():
            answer = self.client.generic(
                "POST",
                HOOK,
                delivery.body,
                content_type="application/json",
                HTTP_STRIPE_SIGNATURE=delivery.headers["Stripe-Signature"],
            )
            assert answer.status_code == 200
            self.emulator.report_delivery(delivery, answer.status_code)
            self.posted += 1

    def handle(self) -> None:
        result = inbox.process_due(routes=ROUTES, limit=10_000, seconds=60)
        assert result.failed == 0

    def month(self) -> None:
        """Let a month pass, past the end of a billing period, until its last draft is final."""
        for span, changes in [(DAY, 33)] * 29 + [(3 * HOUR, 0)]:
            self.live(span, changes=changes)
            self.deliver()
            self.handle()

    def end(self) -> None:
        """Everybody left of the first few cancels."""
        for one in list(self.ending)[:8]:
            with contextlib.suppress(InvalidRequestError):
                stripe().v1.subscriptions.cancel(one)
        self.deliver()
        self.handle()

    def sweep(self, **more):
        """Sweep once everything that happened is old enough."""
        self.travel.shift(HOUR)
        return sweep.sweep(routes=ROUTES, clock=lambda: datetime.now(UTC), seconds=60, **more)


@pytest.fixture
def opened(client, settings, run):
    """Open a shop at a Stripe of its own, which delivers to us; its opening comes in order."""

    @contextmanager
    def opened(subscribers: int) -> Iterator[Shop]:
        emulator = Emulator()
        switchboard.connect(emulator)
        emulator.forward(f"http://us.invalid{HOOK}", settings.STRIPE_WEBHOOK_SECRETS[0])
        with time_machine.travel(BEGIN, tick=False) as travel:
            run("sync_catalogue")
            shop = Shop(emulator, client, travel, subscribers=subscribers)
            # Nobody changes anything at the very second of a period's end.
            travel.shift(4 * DAY + 5 * HOUR)
            shop.deliver()
            shop.handle()
            shop.posted = 0
            yield shop
        switchboard.disconnect()

    return opened


def state():
    """Return all that webhooks wrote down, without keys of ours.

    Without the instants of finalization, too: Stripe waits with a draft whose `invoice.created`
    nobody has acknowledged.
    """
    return {
        "subscriptions": sorted(
            Subscription.objects.values_list(
                "customer__external_id", "status", "cancel_at", "ended_at", "plan__slug"
            ),
            key=str,
        ),
        "items": sorted(
            SubscriptionItem.objects.values_list(
                "subscription__customer__external_id",
                "price__lookup_key",
                "current_period_start",
                "current_period_end",
            ),
            key=str,
        ),
        "invoices": sorted(
            Invoice.objects.values_list(
                "customer__external_id",
                "subscription__customer__external_id",
                "status",
                "currency",
                "total",
                "period_start",
                "period_end",
                "created_at",
            ),
            key=str,
        ),
        "boundaries": sorted(PeriodBoundary.objects.values_list("customer__external_id", "at")),
    }


def differs_from_stripe(emulator):
    """Return the ids of Stripe's subscriptions and invoices that we have otherwise, or not."""
    ours = dict(Subscription.objects.values_list("stripe_subscription_id", "status")) | dict(
        Invoice.objects.values_list("stripe_invoice_id", "status")
    )
    theirs = {
        each["id"]: each["status"]
        for each in (*emulator.world.subscriptions, *emulator.world.invoices)
    }
    return {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}


def test_a_thousand_webhooks_doubled_shuffled_late_and_lost_end_as_in_order(opened):
    """F70, F71, F74."""
    with transaction.atomic(), opened(24) as shop:
        shop.month()
        shop.end()
        in_order, in_order_count = state(), shop.posted
        assert differs_from_stripe(shop.emulator) == set()
        transaction.set_rollback(True)
    assert in_order_count >= 1_000

    with opened(24) as shop:
        began_at = datetime.now(UTC)
        for kind, options in {
            "webhook_drop": {"probability": 0.1},
            "webhook_late": {"probability": 0.2, "delay_seconds": 40 * 3_600},
            "webhook_duplicate": {},
            "webhook_shuffle": {},
        }.items():
            shop.emulator.faults.switch_on(kind, seed=5, **options)
        shop.month()
        assert shop.posted > 1.6 * in_order_count
        shop.emulator.faults.switch_on("webhook_drop")
        shop.end()
        assert state() != in_order

        result = shop.sweep(since=began_at)
        assert result.is_finished
        assert result.missing > 0.07 * in_order_count
        shop.handle()

        assert state() == in_order
        assert differs_from_stripe(shop.emulator) == set()
        assert shop.sweep(since=began_at).missing == 0


def test_three_days_without_any_webhook_are_repaired_by_one_sweep(opened):
    """F74: the days of a period's end, and nobody had to do anything."""
    with opened(20) as shop:
        for _ in range(25):
            shop.live(DAY, changes=2)
            shop.deliver()
            shop.handle()
        assert differs_from_stripe(shop.emulator) == set()
        shop.emulator.faults.switch_on("webhook_drop")
        for _ in range(3):
            shop.live(DAY, changes=8)
            shop.deliver()
        assert WebhookEvent.objects.filter(state=WebhookState.PENDING).count() == 0
        lost = differs_from_stripe(shop.emulator)
        assert len(lost) > 15

        result = shop.sweep()
        shop.handle()

        assert differs_from_stripe(shop.emulator) == set()
        swept = WebhookEvent.objects.filter(arrived_by=Arrival.SWEEP)
        assert swept.count() == result.missing > len(lost)
        [case] = Case.objects.all()
        assert (case.kind, case.closed_at) == (CaseKind.WEBHOOKS_MISSING, None)

        # The endpoint is mended.
        shop.emulator.faults.clear()
        shop.live(DAY, changes=4)
        shop.deliver()
        assert shop.sweep().missing == 0
        case.refresh_from_db()
        assert case.closed_at is not None
