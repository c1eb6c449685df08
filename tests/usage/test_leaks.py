"""Usage that will reach no invoice, or reach it wrongly, is a case while it lasts, and only then."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing.cases import open_case
from billing.clock import database_clock
from billing.customers import create_customer
from billing.enums import Aggregation, CaseKind
from billing.gateway import subscriptions as at_stripe
from billing.gateway.client import connection as stripe
from billing.gateway.values import SubscriptionState
from billing.models import (
    Case,
    Customer,
    ForeignItem,
    ItemPrice,
    Meter,
    PeriodBoundary,
    Plan,
    Price,
    Source,
    Subscription,
)
from billing.subscriptions import mirror, subscribe
from billing.webhooks.handlers import customer_deleted
from billing.webhooks.inbox import Received
from tests.usage.conftest import report
from usage import flush, leak_cases, tasks
from usage.ingestion import accept
from usage.leaks import leaks
from usage.models import QuarterReading, QuarterUsage
from usage.reports import Stored

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

START = datetime(2026, 11, 20, 12, 7, 13, tzinfo=UTC)
"""When customers subscribe; tests begin ten days later."""
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@dataclass
class Shop:
    clock: Any
    source: Source
    count: int = 0

    def join(self, external_id: str = "acme", plan: str = "tokens-payg") -> Subscription:
        customer, _ = create_customer(external_id=external_id)
        return subscribe(customer=customer, plan=Plan.objects.get(slug=plan)).subscription

    def state(self, row: Subscription) -> SubscriptionState:
        state = at_stripe.retrieve(str(row.stripe_subscription_id))
        assert state is not None
        return state

    def use(self, tokens: int = 1_000, *, ago: timedelta = HOUR, subject: str = "acme") -> None:
        """Report a call of so many tokens, 600 of each 1,000 as input, and flush it."""
        self.count += 1
        event = report(
            f"e-{self.count}",
            at=timezone.now() - ago,
            subject=subject,
            total_tokens=tokens,
            input_tokens=tokens * 6 // 10,
            output_tokens=tokens * 4 // 10,
        )
        stored = accept(source_id=self.source.pk, reports=[event], now=timezone.now())
        assert stored == [Stored.ACCEPTED]
        flush.flush_batches(now=timezone.now())

    def look(self) -> dict[tuple[str, str], Case]:
        """Look twice, as two nights do, and return the open cases by kind and reference."""
        for _ in range(2):
            leak_cases.report(now=timezone.now())
        return {
            (case.kind, case.reference): case
            for case in Case.objects.filter(kind__in=leak_cases.WAYS, closed_at=None)
        }


@pytest.fixture
def shop(emulator, source):
    with time_machine.travel(START, tick=False) as clock:
        call_command("sync_catalogue", stdout=StringIO())
        yield Shop(clock, source)


def later(shop: Shop, span: timedelta = 10 * DAY) -> None:
    shop.clock.shift(span)


def test_a_quiet_account_opens_nothing(shop):
    shop.join()
    shop.join("split", "tokens-split")
    create_customer(external_id="idle")
    later(shop)
    for subject in ("acme", "split"):
        shop.use(subject=subject)
        shop.use(subject=subject, ago=9 * DAY)

    assert shop.look() == {}
    assert Case.objects.count() == 0


# --- no live item ---------------------------------------------------------------------------------


def test_usage_that_no_item_bills_is_a_case_until_one_does(shop):
    create_customer(external_id="acme")
    later(shop)
    shop.use(2_000, ago=3 * DAY)
    shop.use(1_000)

    cases = shop.look()

    assert set(cases) == {("unbilled", "acme")}
    case = cases["unbilled", "acme"]
    assert case.reason.startswith("No live subscription item bills what acme uses. Usage: ")
    assert (
        "input_tokens: 1,800 token since 2026-10-26 12:07 UTC, 1 usd in minor units at"
        " default:tokens-split:input_tokens" in case.reason
    )
    assert "ai_tokens: 3,000 token since 2026-10-26 12:07 UTC;" in case.reason
    assert case.reason.endswith("Decides: whoever keeps the customer's contract.")
    assert case.deadline_at == timezone.now() + 7 * DAY
    assert Case.objects.count() == 1

    shop.join()
    assert shop.look() == {}
    assert Case.objects.get().resolution == "The nightly look finds it no more."


def test_usage_of_a_kind_no_item_bills_is_a_case_though_other_kinds_are_billed(shop):
    """A plan that bills input and output does not bill the calls; one that bills all does."""
    row = shop.join(plan="tokens-split")
    later(shop)
    shop.use()
    state = shop.state(row)
    output = Price.objects.get(lookup_key="default:tokens-split:output_tokens")
    items = tuple(item for item in state.items if item.price_id != output.stripe_price_id)
    mirror(replace(state, items=items))
    later(shop, DAY)
    shop.use(3_000)

    cases = shop.look()

    assert set(cases) == {("unbilled", "acme")}
    assert (
        "output_tokens: 1,200 token since 2026-11-30 12:07 UTC" in cases["unbilled", "acme"].reason
    )
    assert "input_tokens" not in cases["unbilled", "acme"].reason
    assert cases["unbilled", "acme"].quantity == 1_200


def test_usage_that_no_longer_flows_is_no_case(shop):
    create_customer(external_id="acme")
    later(shop)
    shop.use()
    assert len(shop.look()) == 1

    later(shop, 36 * DAY)

    assert shop.look() == {}


def test_a_case_stays_for_a_week_after_use_though_a_period_begins_in_between(shop):
    customer, _ = create_customer(external_id="acme")
    later(shop)
    shop.use()
    PeriodBoundary.objects.create(customer=customer, at=timezone.now())

    later(shop, 6 * DAY)
    assert set(shop.look()) == {("unbilled", "acme")}
    later(shop, DAY)
    assert shop.look() == {}


def test_a_meter_is_billed_only_when_all_it_measures_is(shop):
    row = shop.join(plan="tokens-split")
    ItemPrice.objects.exclude(price__meter__slug="input_tokens").delete()
    later(shop)
    shop.use()

    [case] = shop.look().values()

    assert row.item_prices.count() == 1
    assert "ai_tokens: 1,000 token" in case.reason
    assert "output_tokens: 400 token" in case.reason
    assert "input_tokens: " not in case.reason


@pytest.mark.parametrize("left", [{"event_count": 0}, {"event_count": 1}])
def test_usage_that_comes_to_nothing_is_no_case(shop, left):
    customer, _ = create_customer(external_id="acme")
    later(shop)
    shop.use()
    QuarterUsage.objects.filter(subject=customer.external_id).update(quantity=0, **left)

    assert shop.look() == {}


def test_usage_of_a_customer_stripe_does_not_know_is_held_and_no_leak(shop):
    Customer.objects.create(external_id="acme")
    shop.use()
    shop.use(subject="nobody")

    assert shop.look() == {}


def test_running_values_leak_too(shop):
    create_customer(external_id="acme")
    Meter.objects.filter(slug="llm_calls").update(aggregation=Aggregation.MAX)
    seats = Meter.objects.get(slug="llm_calls")
    payg = Price.objects.get(lookup_key="default:tokens-payg:ai_tokens")
    payg.pk, payg.lookup_key, payg.stripe_price_id, payg.meter = None, "seats", "price_s", seats
    payg.save()
    QuarterReading.objects.create(
        subject="acme",
        meter=seats,
        quarter_start=timezone.now().replace(minute=0, second=0),
        model="",
        number=7,
        name=b"",
        event_id=0,
        event_count=1,
    )

    [case] = shop.look().values()

    assert "llm_calls: a running value since" in case.reason
    assert case.quantity is None


# --- a subscription that bills no more ------------------------------------------------------------


@pytest.mark.parametrize("status", ["unpaid", "paused"])
def test_usage_of_a_subscription_that_sends_no_invoice_is_a_case_until_it_does(shop, status):
    row = shop.join()
    later(shop)
    shop.use(2_500)
    state = shop.state(row)
    mirror(replace(state, status=status))

    cases = shop.look()

    assert set(cases) == {("stopped", "acme")}
    case = cases["stopped", "acme"]
    assert case.reason.startswith(
        f"Acme goes on using what {row.stripe_subscription_id} (tokens-payg, {status}) bills no"
        " more. Usage: ai_tokens: 2,500 token since 2026-11-20 12:07 UTC, 12 usd in minor units at"
        " default:tokens-payg:ai_tokens. Have it paid"
    )
    assert case.quantity == 2_500
    assert case.deadline_at == timezone.now() + 3 * DAY

    mirror(state)
    assert shop.look() == {}


@pytest.mark.parametrize("known", ["ended_at", "cancel_at"])
def test_usage_after_the_end_of_a_subscription_is_a_case_and_that_before_is_not(shop, known):
    row = shop.join()
    later(shop)
    shop.use(2_000)
    state = shop.state(row)
    ends_at = timezone.now()
    ended = {"status": "canceled", "ended_at": ends_at} if known == "ended_at" else {}
    mirror(replace(state, **{"cancel_at": ends_at} | ended))
    assert shop.look() == {}

    later(shop, DAY)
    shop.use(3_000)

    cases = shop.look()
    assert set(cases) == {("stopped", "acme")}
    assert cases["stopped", "acme"].quantity == 3_000


def test_a_meter_that_no_price_bills_any_more_leaks_where_one_did(shop):
    row = shop.join()
    later(shop)
    shop.use()
    mirror(replace(shop.state(row), status="unpaid"))
    Price.objects.update(active=False)

    assert set(shop.look()) == {("stopped", "acme")}


def test_a_subscription_that_is_to_end_bills_until_then(shop):
    row = shop.join()
    later(shop)
    shop.use()
    mirror(replace(shop.state(row), cancel_at=timezone.now() + DAY))

    assert shop.look() == {}


# --- a customer deleted at Stripe -----------------------------------------------------------------


def deleted(customer: Customer) -> bool:
    received = Received("evt_1", "snapshot", "customer.deleted", customer.stripe_customer_id, "{}")
    return customer_deleted(received)


def test_usage_of_a_customer_deleted_at_stripe_is_one_case_until_it_has_another_twin(shop):
    row = shop.join()
    later(shop)
    shop.use(2_000, ago=9 * DAY)
    customer = Customer.objects.get(external_id="acme")
    stripe().v1.customers.delete(customer.stripe_customer_id)
    assert deleted(customer)
    mirror(shop.state(row))

    cases = shop.look()

    assert set(cases) == {("customer_deleted", "acme")}
    case = cases["customer_deleted", "acme"]
    assert case.reason.startswith(
        "Acme was deleted at Stripe, for good. Usage: ai_tokens: 2,000 token"
    )
    assert case.quantity == 2_000

    twin = stripe().v1.customers.create({})
    Customer.objects.filter(external_id="acme").update(stripe_customer_id=twin.id)
    assert ("customer_deleted", "acme") not in shop.look()


def test_a_customer_that_stripe_still_has_is_not_deleted(shop):
    customer, _ = create_customer(external_id="acme")

    assert not deleted(customer)
    assert not deleted(Customer(stripe_customer_id="cus_of_another_deployment"))

    customer.refresh_from_db()
    assert customer.deleted_stripe_id == ""


# --- billed twice, and at foreign prices ----------------------------------------------------------


def with_item(state: SubscriptionState, **changes: str) -> SubscriptionState:
    return replace(state, items=(*state.items, replace(state.items[0], **changes)))


def test_a_meter_that_two_live_items_bill_is_a_case_until_one_is_gone(shop):
    row = shop.join()
    later(shop)
    shop.use(2_500)
    state = shop.state(row)
    team = Price.objects.get(lookup_key="default:team:ai_tokens")
    mirror(with_item(state, id="si_second", price_id=team.stripe_price_id))

    cases = shop.look()

    assert set(cases) == {("billed_twice", "acme")}
    case = cases["billed_twice", "acme"]
    assert (
        f"use of acme: {state.items[0].id}, si_second. Usage: ai_tokens: 2,500 token" in case.reason
    )
    assert "12 usd in minor units at default:tokens-payg:ai_tokens" in case.reason
    assert "0 usd in minor units at default:team:ai_tokens" in case.reason
    assert (case.quantity, case.deadline_at) == (2_500, timezone.now() + 3 * DAY)

    mirror(replace(state, asked_at=state.asked_at + timedelta(seconds=1)))
    assert shop.look() == {}


def test_two_meters_that_count_the_same_use_bill_it_twice(shop):
    """The tokens of the input are among all tokens."""
    row = shop.join()
    later(shop)
    shop.use(2_500)
    state = shop.state(row)
    split = Price.objects.get(lookup_key="default:tokens-split:input_tokens")
    mirror(with_item(state, id="si_second", price_id=split.stripe_price_id))

    cases = shop.look()

    assert set(cases) == {("billed_twice", "acme")}
    case = cases["billed_twice", "acme"]
    assert "ai_tokens: 2,500 token since" in case.reason
    assert "input_tokens: 1,500 token since" in case.reason
    assert case.quantity is None


@pytest.mark.parametrize("stopped", ["status", "cancel_at", "ended_at"])
def test_items_of_a_subscription_that_bills_no_more_bill_nothing_twice(shop, stopped):
    row = shop.join()
    later(shop)
    state = shop.state(row)
    team = Price.objects.get(lookup_key="default:team:ai_tokens")
    twice = with_item(state, id="si_second", price_id=team.stripe_price_id)
    ended = {
        "status": {"status": "unpaid"},
        "cancel_at": {"cancel_at": timezone.now()},
        "ended_at": {"status": "canceled", "ended_at": timezone.now()},
    }
    mirror(replace(twice, cancel_at=timezone.now() + DAY))
    assert set(shop.look()) == {("billed_twice", "acme")}

    mirror(replace(twice, **ended[stopped]))

    assert shop.look() == {}


def test_double_billing_is_due_before_the_invoice_is_made(shop):
    row = shop.join()
    state = shop.state(row)
    team = Price.objects.get(lookup_key="default:team:ai_tokens")
    mirror(with_item(state, id="si_second", price_id=team.stripe_price_id))
    later(shop, state.items[0].end - START - 12 * HOUR)

    [case] = shop.look().values()

    assert case.deadline_at == state.items[0].end
    assert "ai_tokens: 0 token since" in case.reason

    later(shop, 10 * HOUR)
    Case.objects.all().delete()
    [case] = shop.look().values()
    assert case.deadline_at == timezone.now() + 4 * HOUR


def test_a_foreign_price_that_bills_a_meter_is_a_case_until_it_is_gone(shop):
    row = shop.join()
    later(shop)
    shop.use(2_500)
    state = shop.state(row)
    [item] = state.items
    assert item.meter_id == Meter.objects.get(slug="ai_tokens").stripe_meter_id
    mirror(replace(state, items=(replace(item, price_id="price_foreign"),)))

    cases = shop.look()

    assert set(cases) == {("foreign_price", "price_foreign")}
    case = cases["foreign_price", "price_foreign"]
    assert case.reason.startswith(
        f"A price that our catalogue does not know bills acme by {item.id}. Usage: ai_tokens:"
        " 2,500 token since 2026-11-20 12:07 UTC."
    )
    assert case.quantity == 2_500

    mirror(replace(state, asked_at=state.asked_at + timedelta(seconds=1)))
    assert ForeignItem.objects.count() == 0
    assert shop.look() == {}


def test_a_foreign_item_beside_ours_bills_twice(shop):
    row = shop.join()
    later(shop)
    state = shop.state(row)
    mirror(with_item(state, id="si_second", price_id="price_foreign"))

    assert set(shop.look()) == {
        ("billed_twice", "acme"),
        ("foreign_price", "price_foreign"),
    }

    ended = {"status": "canceled", "ended_at": timezone.now()}
    mirror(with_item(replace(state, **ended), id="si_second", price_id="price_foreign"))
    assert shop.look() == {}


def test_prices_that_drifted_without_harm_are_notices_and_no_cases(shop):
    row = shop.join()
    state = shop.state(row)
    mirror(with_item(state, id="si_second", price_id="price_foreign", meter_id=""))
    shop.join("split", "tokens-split")
    price = Price.objects.get(lookup_key="default:tokens-payg:ai_tokens")
    Price.objects.filter(pk=price.pk).update(active=False)

    assert shop.look() == {}
    assert leaks(now=timezone.now()).notices == (
        (
            "price_foreign, a price that is not ours and bills none of our meters, is on si_second"
            " of acme."
        ),
        (
            "default:tokens-payg:ai_tokens is offered at another price now; 1 on it stays at"
            f" {price.stripe_price_id}."
        ),
        "No price bills llm_calls: what it counts is on no invoice by it.",
    )


# --- the look itself ------------------------------------------------------------------------------


def test_the_number_of_queries_does_not_grow_with_customers(shop):
    def count() -> int:
        with CaptureQueriesContext(connection) as asked:
            leaks(now=timezone.now())
        return len(asked)

    team = Price.objects.get(lookup_key="default:team:ai_tokens")
    counts = []
    for name in ("a", "b", "c"):
        create_customer(external_id=f"{name}-none")
        stopped = shop.join(f"{name}-stopped")
        twice = shop.state(shop.join(f"{name}-twice"))
        mirror(with_item(twice, id=f"si_{name}", price_id=team.stripe_price_id))
        foreign = shop.state(shop.join(f"{name}-foreign"))
        mirror(with_item(foreign, id=f"si_{name}_f", price_id=f"price_{name}"))
        later(shop, HOUR)
        mirror(replace(shop.state(stopped), status="unpaid"))
        for kind in ("none", "stopped", "twice", "foreign"):
            shop.use(subject=f"{name}-{kind}", ago=timedelta())
        counts.append(count())
        assert len(leaks(now=timezone.now()).leaks) == 5 * len(counts)

    assert len(set(counts)) == 1


def used_now(meter: str = "ai_tokens") -> None:
    """Usage by the database's clock, which the task and the command go by."""
    quarter = database_clock().replace(minute=0, second=0, microsecond=0)
    QuarterUsage.objects.create(
        subject="acme",
        meter=Meter.objects.get(slug=meter),
        quarter_start=quarter,
        model="",
        quantity=5,
        event_count=1,
    )


def told() -> tuple[str, int]:
    stdout = StringIO()
    try:
        call_command("check_leaks", stdout=stdout)
    except SystemExit as ended:
        return stdout.getvalue(), int(str(ended.code))
    return stdout.getvalue(), 0


def test_the_command_lists_leaks_and_blocked_meters_and_opens_nothing(shop):
    text, status = told()
    assert text.splitlines()[-1] == "All usage is on its way to an invoice."
    assert status == 0

    create_customer(external_id="acme")
    used_now()
    text, status = told()
    assert text.startswith("unbilled acme: No live subscription item bills what acme uses.")
    assert status == 1
    assert Case.objects.count() == 0

    QuarterUsage.objects.all().delete()
    open_case(kind=CaseKind.METER, reference="ai_tokens", reason="Off.", deadline_at=timezone.now())
    text, status = told()
    assert text.startswith("meter ai_tokens: Off.")
    assert status == 1


@pytest.mark.django_db(transaction=True)
def test_the_nightly_job_opens_the_cases(shop):
    create_customer(external_id="acme")
    used_now()

    tasks.check_leaks()

    assert Case.objects.get().kind == CaseKind.UNBILLED
