"""Invoices at period ends: drafts, late usage, and what nobody bills."""

from decimal import Decimal

import pytest
import stripe

from stripe_emulator import Request
from stripe_emulator.control import Control

from .conftest import NOW
from .test_subscriptions import second, subscribe

pytestmark = pytest.mark.unit
HOUR, DAY = 3600, 86_400
START = NOW + 17
END = second(2026, 12, 23, 12) + 17
"""The period begins and ends in the middle of a minute."""


@pytest.fixture
def billed(shop, metered_price):
    shop.client.v1.customers.update(
        shop.customer.id, {"invoice_settings": {"default_payment_method": "pm_card_visa"}}
    )
    shop.emulator.clock.set(START, frozen=True)
    shop.subscription = subscribe(shop, metered_price)
    return shop


def go(shop, moment):
    shop.emulator.clock.set(moment, frozen=True)
    return shop.client.v1.invoices.list().data


def line_of(invoice):
    line = invoice.lines.data[0]
    return line.quantity_decimal, line.amount, invoice.total


def test_period_ends_with_a_draft_that_is_paid_an_hour_later(billed):
    billed.send("a", "1500", at=START + 10)
    [draft] = go(billed, END)
    [paid] = go(billed, END + HOUR)

    assert (draft.status, draft.billing_reason, draft.automatically_finalizes_at) == (
        "draft",
        "subscription_cycle",
        END + HOUR,
    )
    assert line_of(draft) == (Decimal(2), 8, 8)
    assert (paid.id, paid.status, line_of(paid)) == (draft.id, "paid", (Decimal(2), 8, 8))
    period = paid.lines.data[0].period
    assert (period.start, period.end) == (START, END)


def test_page_for_people_shows_invoices(billed):
    billed.send("a", "1500", at=START + 10)
    [draft] = go(billed, END)

    html = Control(billed.emulator).handle(Request("GET", "/")).body.decode()

    shown = (draft.id, billed.customer.id, "subscription_cycle", "draft", "8 usd")
    cells = "".join(
        f"<td class=number>{each}</td>" if each == "8 usd" else f"<td>{each}</td>" for each in shown
    )
    assert cells in html
    assert "2026-12-23T13:00:17" in html


def test_late_usage_counts_until_finalization_and_then_never(billed):
    billed.send("a", "1000", at=START + 10)
    go(billed, END + HOUR - 1)
    billed.send("in time", "1000", at=END - 1)
    [paid] = go(billed, END + HOUR)
    billed.send("too late", "1000", at=END - 2)
    later = go(billed, END + 2 * HOUR)

    assert line_of(paid) == (Decimal(2), 8, 8)
    assert [line_of(each) for each in later] == [(Decimal(2), 8, 8)]
    assert billed.total(NOW, END // 60 * 60 + 60) == 3000
    assert [line_of(each)[2] for each in go(billed, END + 40 * DAY)] == [0, 8]


def test_second_of_the_period_decides(billed, base_price):
    for identifier, value, moment in (("before", "100000", START - 1), ("first", "1000", START)):
        billed.send(identifier, value, at=moment)
    billed.emulator.clock.set(END - 2, frozen=True)
    for identifier, value, moment in (
        ("last", "2000", END - 1),
        ("next", "4000", END),
        ("next too", "8000", END + 20),
    ):
        billed.send(identifier, value, at=moment)

    [first] = go(billed, END)
    second_, _ = go(billed, END + 31 * DAY)

    assert line_of(first)[0] == 3
    assert line_of(second_)[0] == 12


def test_settling_lag_can_push_usage_out_of_the_draft_but_not_out_of_the_invoice(billed):
    billed.emulator.settings.change(settle_lag_seconds=600)
    billed.emulator.clock.set(END - 10, frozen=True)
    billed.send("a", "1000", at=END - 10)

    [draft] = go(billed, END)
    [paid] = go(billed, END + HOUR)

    assert (line_of(draft)[2], line_of(paid)[2]) == (0, 4)


def test_unpaid_period_makes_it_past_due(billed, events):
    billed.client.v1.customers.update(
        billed.customer.id, {"invoice_settings": {"default_payment_method": ""}}
    )
    billed.emulator.forward("http://app/hook", "whsec_x")
    billed.send("a", "20000", at=START)
    go(billed, END)
    told = [event["type"] for event in events()]
    [invoice] = go(billed, END + HOUR)
    told += [event["type"] for event in events()]
    status = billed.client.v1.subscriptions.retrieve(billed.subscription.id).status
    billed.client.v1.invoices.pay(invoice.id, {"payment_method": "pm_card_visa"})

    assert (invoice.status, status) == ("open", "past_due")
    assert told == [
        "invoice.upcoming",
        "customer.subscription.updated",
        "invoice.created",
        "invoice.finalized",
        "invoice.payment_failed",
        "customer.subscription.updated",
    ]
    assert billed.client.v1.subscriptions.retrieve(billed.subscription.id).status == "active"


def test_licensed_item_is_billed_ahead(billed, base_price):
    billed.client.v1.subscriptions.update(
        billed.subscription.id,
        {"items": [{"price": base_price.id, "quantity": 2}], "proration_behavior": "none"},
    )
    [invoice] = go(billed, END)

    assert [(line.amount, line.period.start) for line in invoice.lines.data] == [
        (0, START),
        (4000, END),
    ]


@pytest.mark.parametrize(("now", "totals"), [(True, [8]), (False, [])])
def test_cancelling_bills_running_usage_only_with_invoice_now(billed, now, totals):
    billed.send("a", "1500", at=START + 10)
    billed.emulator.clock.advance(DAY)
    gone = billed.client.v1.subscriptions.cancel(billed.subscription.id, {"invoice_now": now})

    invoices = billed.client.v1.invoices.list().data
    assert [(each.total, each.status) for each in invoices] == [(total, "paid") for total in totals]
    assert (gone.latest_invoice is not None) is now


def test_cancelling_at_period_end_bills_the_last_usage(billed):
    billed.client.v1.subscriptions.update(billed.subscription.id, {"cancel_at_period_end": True})
    billed.send("a", "1500", at=START + 10)
    [invoice] = go(billed, END + HOUR)

    assert (invoice.status, invoice.total) == ("paid", 8)
    assert billed.client.v1.subscriptions.retrieve(billed.subscription.id).status == "canceled"


def test_negative_total_is_billed_as_nothing(billed):
    billed.send("a", "-1500", at=START + 10)

    assert line_of(go(billed, END + HOUR)[0]) == (0, 0, 0)


def test_unpaid_invoice_can_be_refused_twice(billed):
    billed.send("a", "1000", at=START)
    [paid] = go(billed, END + HOUR)

    with pytest.raises(stripe.InvalidRequestError, match="already paid"):
        billed.client.v1.invoices.pay(paid.id)


def test_usage_of_the_same_minute_before_the_subscription_is_not_its_own(shop, metered_price):
    shop.emulator.clock.set(START, frozen=True)
    shop.send("before", "9000", at=START - 5)
    subscribe(shop, metered_price)
    shop.send("after", "1000", at=START)
    [invoice] = go(shop, END)

    assert line_of(invoice)[0] == 1
