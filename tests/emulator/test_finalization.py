"""When a draft becomes final: the grace period, the answers to its webhook, and a moment of its own."""

import pytest

from .conftest import NOW
from .test_cycle_invoices import END, START, billed, go, line_of  # noqa: F401  a fixture among them

pytestmark = pytest.mark.unit
HOUR, DAY = 3600, 86_400


def answer(shop, status: int, *, types: str = "invoice.created") -> int:
    """Deliver what is due; events of `types` get `status`, all others 200."""
    answered = 0
    for delivery in shop.emulator.pop_deliveries():
        wanted = types.encode() in delivery.body
        answered += wanted
        shop.emulator.report_delivery(delivery, status if wanted else 200)
    return answered


def invoice_at(shop, moment: int):
    [invoice] = go(shop, moment)
    return invoice


def test_without_a_receiver_the_delay_begins_at_once(billed):  # noqa: F811
    draft = invoice_at(billed, END)

    assert (draft.webhooks_delivered_at, draft.automatically_finalizes_at) == (END, END + HOUR)
    assert [invoice_at(billed, END + moment).status for moment in (HOUR - 1, HOUR)] == [
        "draft",
        "paid",
    ]


def test_the_grace_period_can_be_longer_and_never_above_72_hours(billed):  # noqa: F811
    billed.emulator.settings.change(finalization_delay_seconds=72 * HOUR)
    billed.send("a", "1000", at=START)
    go(billed, END + 72 * HOUR - 1)
    billed.send("late", "1000", at=END - 1)

    assert line_of(invoice_at(billed, END + 72 * HOUR))[0] == 2
    with pytest.raises(ValueError, match="at most 259200"):
        billed.emulator.settings.change(finalization_delay_seconds=72 * HOUR + 1)


def test_the_delay_counts_from_the_answer(billed):  # noqa: F811
    billed.emulator.forward("http://app/hook", "whsec_x")
    waiting = invoice_at(billed, END)
    invoice_at(billed, END + 600)
    answer(billed, 200)
    answered = invoice_at(billed, END + 600)

    assert (waiting.webhooks_delivered_at, waiting.automatically_finalizes_at) == (
        None,
        END + HOUR,
    )
    assert (answered.webhooks_delivered_at, answered.automatically_finalizes_at) == (
        END + 600,
        END + 600 + HOUR,
    )
    assert invoice_at(billed, END + 600 + HOUR - 1).status == "draft"
    assert invoice_at(billed, END + 600 + HOUR).status == "paid"


def test_every_receiver_must_have_answered(billed):  # noqa: F811
    for name in ("one", "two"):
        billed.client.v1.webhook_endpoints.create(
            {"url": f"http://app/{name}", "enabled_events": ["invoice.created"]}
        )
    go(billed, END)
    first, second = billed.emulator.pop_deliveries()
    billed.emulator.report_delivery(first, 200)
    one = invoice_at(billed, END + 60).webhooks_delivered_at
    billed.emulator.report_delivery(second, 200)

    assert (one, invoice_at(billed, END + 60).webhooks_delivered_at) == (None, END + 60)


def test_a_receiver_of_other_events_is_not_waited_for(billed):  # noqa: F811
    billed.client.v1.webhook_endpoints.create(
        {"url": "http://app/paid", "enabled_events": ["invoice.paid"]}
    )

    assert invoice_at(billed, END + HOUR).status == "paid"


def test_without_a_good_answer_it_waits_72_hours(billed):  # noqa: F811
    billed.emulator.forward("http://app/hook", "whsec_x")
    go(billed, END)
    assert answer(billed, 500) == 1
    put_off = invoice_at(billed, END + HOUR)
    billed.send("late", "1000", at=END - 1)
    before = invoice_at(billed, END + 72 * HOUR - 1)
    final = invoice_at(billed, END + 72 * HOUR)

    assert (put_off.status, put_off.automatically_finalizes_at) == ("draft", END + 72 * HOUR)
    assert (before.status, final.status, line_of(final)[0]) == ("draft", "paid", 1)


def test_an_answer_after_hours_starts_the_delay(billed):  # noqa: F811
    billed.emulator.forward("http://app/hook", "whsec_x")
    go(billed, END + 5 * HOUR)
    answer(billed, 200)

    assert invoice_at(billed, END + 6 * HOUR - 1).status == "draft"
    assert invoice_at(billed, END + 6 * HOUR).status == "paid"


@pytest.mark.parametrize("moment", [END + 60, END + 40 * HOUR])
def test_a_moment_of_its_own_waits_for_nobody(billed, moment):  # noqa: F811
    billed.emulator.forward("http://app/hook", "whsec_x")
    draft = invoice_at(billed, END)
    billed.client.v1.invoices.update(draft.id, {"automatically_finalizes_at": moment})
    answer(billed, 200)

    assert invoice_at(billed, moment - 1).status == "draft"
    assert invoice_at(billed, moment).status == "paid"


def test_a_draft_that_does_not_advance_stays_one(billed):  # noqa: F811
    draft = invoice_at(billed, END)
    billed.client.v1.invoices.update(draft.id, {"auto_advance": False})

    assert invoice_at(billed, END + 20 * DAY).status == "draft"


def test_test_clocks_wait_for_no_webhook(billed, metered_price, events):  # noqa: F811
    clocks = billed.client.v1.test_helpers.test_clocks
    clock = clocks.create({"frozen_time": NOW})
    customer = billed.client.v1.customers.create({"test_clock": clock.id})
    billed.client.v1.subscriptions.create(
        {"customer": customer.id, "items": [{"price": metered_price.id}]}
    )
    billed.emulator.forward("http://app/hook", "whsec_x")
    clocks.advance(clock.id, {"frozen_time": NOW + 31 * DAY})

    [invoice] = billed.client.v1.invoices.list({"customer": customer.id}).data
    assert (invoice.status, invoice.created) == ("paid", NOW + 30 * DAY)


def test_a_new_tier_that_late_usage_reaches_gets_its_line(billed):  # noqa: F811
    price = billed.client.v1.prices.create(
        {
            "currency": "usd",
            "product": billed.client.v1.products.create({"name": "Tiers"}).id,
            "billing_scheme": "tiered",
            "tiers_mode": "graduated",
            "tiers": [
                {"up_to": 10, "unit_amount": 10},
                {"up_to": "inf", "unit_amount_decimal": "0.5"},
            ],
            "recurring": {"interval": "month", "usage_type": "metered", "meter": billed.meter.id},
        }
    )
    item = billed.client.v1.subscriptions.retrieve(billed.subscription.id)["items"].data[0].id
    billed.client.v1.subscriptions.update(
        billed.subscription.id, {"items": [{"id": item, "price": price.id}]}
    )
    billed.send("a", "8", at=START)
    draft = invoice_at(billed, END)
    billed.send("late", "5.5", at=END - 1)
    final = invoice_at(billed, END + HOUR)

    def shown(invoice):
        return [(str(each.quantity_decimal), each.amount) for each in invoice.lines.data]

    assert shown(draft) == [("8", 80)]
    assert shown(final) == [("10", 100), ("3.5", 2)]
    assert (final.lines.data[0].id, final.total) == (draft.lines.data[0].id, 102)


def test_lines_of_several_tiers_are_counted_once(billed):  # noqa: F811
    price = billed.client.v1.prices.create(
        {
            "currency": "usd",
            "product": billed.client.v1.products.create({"name": "Tiers"}).id,
            "billing_scheme": "tiered",
            "tiers_mode": "graduated",
            "tiers": [{"up_to": 10, "unit_amount": 10}, {"up_to": "inf", "unit_amount": 1}],
            "recurring": {"interval": "month", "usage_type": "metered", "meter": billed.meter.id},
        }
    )
    item = billed.client.v1.subscriptions.retrieve(billed.subscription.id)["items"].data[0].id
    billed.client.v1.subscriptions.update(
        billed.subscription.id, {"items": [{"id": item, "price": price.id}]}
    )
    billed.send("a", "15", at=START)
    draft = invoice_at(billed, END)
    final = invoice_at(billed, END + HOUR)

    assert [each.amount for each in draft.lines.data] == [100, 5]
    assert [each.id for each in final.lines.data] == [each.id for each in draft.lines.data]


def test_the_second_event_for_one_draft_answers_nothing(billed):  # noqa: F811
    billed.emulator.forward("http://app/hook", "whsec_x")
    go(billed, END)
    billed.emulator.faults.switch_on("webhook_second_event")
    first, second = (
        each for each in billed.emulator.pop_deliveries() if b"invoice.created" in each.body
    )
    billed.emulator.report_delivery(second, 200)
    waiting = invoice_at(billed, END + 60).webhooks_delivered_at
    billed.emulator.report_delivery(first, 200)

    assert (waiting, invoice_at(billed, END + 60).webhooks_delivered_at) == (None, END + 60)
