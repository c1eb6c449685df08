"""The judge's books of invoices: every accepted unit is on an invoice, or there is a reason."""

import json

import pytest

from stripe_emulator import Request
from stripe_emulator.control import Control

from .conftest import NOW
from .test_cycle_invoices import END, START, billed, go  # noqa: F401  a fixture among them
from .test_subscriptions import subscribe

pytestmark = pytest.mark.unit
HOUR, DAY = 3600, 86_400


def unbilled(shop) -> dict[str, str]:
    return {each["reason"]: each["usage"] for each in shop.emulator.billed()["unbilled"]}


def on_invoices(shop) -> list[tuple]:
    return [
        (each["status"], each["quantity"], each["amount"], each["usage"])
        for each in shop.emulator.billed()["billed"]
    ]


def test_usage_goes_from_running_to_draft_to_paid(billed):  # noqa: F811
    billed.send("a", "1500", at=START)
    running = (on_invoices(billed), unbilled(billed))
    go(billed, END)
    draft = on_invoices(billed)
    billed.send("late", "1000", at=END - 1)
    counted = on_invoices(billed)
    go(billed, END + HOUR)
    billed.send("too late", "700", at=END - 2)

    assert running == ([], {"running": "1500"})
    assert draft == [("draft", "2", 8, "1500")]
    assert counted == [("draft", "2", 8, "2500")]
    assert on_invoices(billed) == [("paid", "3", 12, "2500")]
    assert unbilled(billed) == {"late": "700"}


def test_usage_ahead_of_a_period_that_has_not_begun_is_running(billed):  # noqa: F811
    billed.emulator.clock.set(END - 60, frozen=True)
    billed.send("ahead", "1500", at=END + 60)

    before = unbilled(billed)
    go(billed, END + HOUR)

    assert before == unbilled(billed) == {"running": "1500"}


def test_usage_ahead_of_a_planned_end_has_no_subscription(billed):  # noqa: F811
    billed.client.v1.subscriptions.update(billed.subscription.id, {"cancel_at": END})
    billed.emulator.clock.set(END - 60, frozen=True)
    billed.send("ahead", "1500", at=END + 60)

    assert unbilled(billed) == {"no subscription": "1500"}


def test_the_line_names_customer_meter_price_and_period(billed, metered_price):  # noqa: F811
    billed.send("a", "1500", at=START)
    [invoice] = go(billed, END)
    other = billed.client.v1.customers.create({})

    [line] = billed.emulator.billed(customer=billed.customer.id)["billed"]
    assert {name: line[name] for name in ("customer", "meter", "price", "invoice")} == {
        "customer": billed.customer.id,
        "meter": billed.meter.id,
        "price": metered_price.id,
        "invoice": invoice.id,
    }
    assert line["period"] == {"start": START, "end": END}
    assert billed.emulator.billed(customer=other.id) == {"billed": [], "unbilled": []}


def test_usage_without_a_subscription(shop, metered_price):
    shop.send("before", "7", at=NOW - 5)
    subscribe(shop, metered_price)

    assert unbilled(shop) == {"no subscription": "7"}


@pytest.mark.parametrize(("now", "reasons"), [(False, {"canceled": "1500"}), (True, {})])
def test_usage_of_a_cancelled_subscription(billed, now, reasons):  # noqa: F811
    billed.send("a", "1500", at=START)
    billed.emulator.clock.advance(DAY)
    billed.client.v1.subscriptions.cancel(billed.subscription.id, {"invoice_now": now})

    assert unbilled(billed) == reasons


def test_usage_in_a_trial(shop, metered_price):
    subscribe(shop, metered_price, trial_period_days=7)
    shop.send("a", "5", at=NOW)
    shop.emulator.clock.advance(8 * DAY)
    shop.send("b", "6", at=NOW + 8 * DAY)

    assert unbilled(shop) == {"trial": "5", "running": "6"}


def test_usage_of_a_removed_item_waits(billed, base_price):  # noqa: F811
    [item] = billed.client.v1.subscriptions.retrieve(billed.subscription.id)["items"].data
    billed.send("a", "1500", at=START)
    billed.emulator.clock.advance(10)
    billed.client.v1.subscriptions.update(
        billed.subscription.id,
        {"items": [{"price": base_price.id}, {"id": item.id, "deleted": True}]},
    )
    waiting = unbilled(billed)
    billed.send("late", "40", at=START + 1)
    go(billed, END + HOUR)

    assert waiting == {"pending": "1500"}
    assert on_invoices(billed) == [("paid", "2", 8, "1500")]
    assert unbilled(billed) == {"late": "40"}


def test_usage_of_an_item_removed_without_prorations_is_not_invoiced(billed, base_price):  # noqa: F811
    [item] = billed.client.v1.subscriptions.retrieve(billed.subscription.id)["items"].data
    billed.send("a", "1500", at=START)
    billed.emulator.clock.advance(10)
    billed.client.v1.subscriptions.update(
        billed.subscription.id,
        {
            "items": [{"price": base_price.id}, {"id": item.id, "deleted": True}],
            "proration_behavior": "none",
        },
    )

    assert unbilled(billed) == {"not invoiced": "1500"}


def test_usage_while_it_is_paused(billed):  # noqa: F811
    billed.client.v1.subscriptions.pause(billed.subscription.id)
    billed.send("a", "9", at=START + 5)

    assert unbilled(billed) == {"paused": "9"}


def test_what_was_taken_back_counts_only_where_it_was_billed(billed):  # noqa: F811
    def cancel(identifier):
        billed.client.v1.billing.meter_event_adjustments.create(
            {"event_name": "tokens", "type": "cancel", "cancel": {"identifier": identifier}}
        )

    billed.emulator.clock.set(END - 60, frozen=True)
    for identifier in ("in time", "too late"):
        billed.send(identifier, "1000", at=END - 60)
    cancel("in time")
    go(billed, END + HOUR)
    cancel("too late")

    assert on_invoices(billed) == [("paid", "1", 4, "1000")]
    assert unbilled(billed) == {}


def test_the_control_api_tells_it(billed):  # noqa: F811
    billed.send("a", "1500", at=START)
    asked = Request("GET", "/_emulator/invoices", query=f"customer={billed.customer.id}")

    answer = json.loads(Control(billed.emulator).handle(asked).body)

    assert answer == billed.emulator.billed()
    assert answer["unbilled"][0]["count"] == 1
