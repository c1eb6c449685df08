"""Subscriptions as far as usage billing needs them."""

from datetime import UTC, datetime

import pytest
import stripe

from stripe_emulator.core.billing.periods import period_at

from .conftest import NOW

pytestmark = pytest.mark.unit


def second(*parts) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp())


def at(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


def subscribe(shop, *prices, **params):
    items = [{"price": price.id} for price in prices]
    return shop.client.v1.subscriptions.create(
        {"customer": shop.customer.id, "items": items, **params}
    )


def test_metered_only_is_active_at_once_without_any_invoice(shop, metered_price):
    made = subscribe(shop, metered_price, expand=["pending_setup_intent"])

    assert (made.status, made.latest_invoice) == ("active", None)
    assert made.billing_mode.type == "flexible"
    assert made.pending_setup_intent.client_secret.startswith(
        made.pending_setup_intent.id + "_secret_"
    )
    assert shop.client.v1.invoices.list().data == []
    assert "current_period_start" not in made.to_dict()
    item = made["items"].data[0]
    assert (at(item.current_period_start), at(item.current_period_end)) == (
        "2026-11-23 12:00",
        "2026-12-23 12:00",
    )
    assert "quantity" not in item.to_dict()


def test_metered_item_takes_no_quantity(shop, metered_price):
    with pytest.raises(stripe.InvalidRequestError, match="Quantity should not be specified"):
        shop.client.v1.subscriptions.create(
            {"customer": shop.customer.id, "items": [{"price": metered_price.id, "quantity": 1}]}
        )

    assert shop.client.v1.subscriptions.list().data == []


def test_base_price_waits_for_its_first_payment(shop, metered_price, base_price, events):
    shop.emulator.forward("http://app/hook", "whsec_x")
    made = subscribe(
        shop,
        metered_price,
        base_price,
        payment_behavior="default_incomplete",
        expand=["latest_invoice.confirmation_secret"],
    )

    invoice = made.latest_invoice
    assert (made.status, invoice.status, invoice.amount_due, invoice.billing_reason) == (
        "incomplete",
        "open",
        2000,
        "subscription_create",
    )
    assert "_secret_" in invoice.confirmation_secret.client_secret
    assert "confirmation_secret" not in shop.client.v1.invoices.retrieve(invoice.id).to_dict()
    shop.client.v1.invoices.pay(invoice.id, {"payment_method": "pm_card_visa"})
    assert shop.client.v1.subscriptions.retrieve(made.id).status == "active"
    assert [event["type"] for event in events()] == [
        "invoice.created",
        "invoice.finalized",
        "customer.subscription.created",
        "invoice.paid",
        "invoice.payment_succeeded",
        "customer.subscription.updated",
    ]


def test_expired_payment_intent_expansion_is_refused(shop, base_price):
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        subscribe(
            shop,
            base_price,
            payment_behavior="default_incomplete",
            expand=["latest_invoice.payment_intent"],
        )


def test_base_price_without_a_card_is_refused_by_default(shop, base_price):
    with pytest.raises(stripe.InvalidRequestError, match="no attached payment source"):
        subscribe(shop, base_price)

    assert shop.client.v1.subscriptions.list({"status": "all"}).data == []


def test_base_price_with_a_card_is_paid_and_active(shop, base_price):
    shop.client.v1.customers.update(
        shop.customer.id, {"invoice_settings": {"default_payment_method": "pm_card_visa"}}
    )

    made = subscribe(shop, base_price, expand=["latest_invoice"])

    assert (made.status, made.latest_invoice.status, made.pending_setup_intent) == (
        "active",
        "paid",
        None,
    )


def test_unpaid_first_invoice_expires_after_23_hours(shop, base_price):
    made = subscribe(shop, base_price, payment_behavior="default_incomplete")
    shop.emulator.clock.advance(23 * 3600 - 1)
    before = shop.client.v1.subscriptions.retrieve(made.id).status
    shop.emulator.clock.advance(1)

    after = shop.client.v1.subscriptions.retrieve(made.id)

    assert (before, after.status) == ("incomplete", "incomplete_expired")
    assert shop.client.v1.invoices.retrieve(after.latest_invoice).status == "void"


def test_sent_invoice_starts_as_a_draft_and_opens_after_an_hour(shop, base_price):
    made = subscribe(shop, base_price, collection_method="send_invoice", days_until_due=14)
    draft = shop.client.v1.invoices.retrieve(made.latest_invoice)
    shop.emulator.clock.advance(3600)

    opened = shop.client.v1.invoices.retrieve(made.latest_invoice)

    assert (made.status, draft.status, draft.automatically_finalizes_at) == (
        "active",
        "draft",
        NOW + 3600,
    )
    assert (opened.status, opened.number is not None) == ("open", True)


def test_classic_metered_only_gets_an_invoice_over_nothing(shop, metered_price):
    made = subscribe(
        shop, metered_price, billing_mode={"type": "classic"}, expand=["latest_invoice"]
    )

    assert (made.latest_invoice.total, made.latest_invoice.status) == (0, "paid")


@pytest.mark.parametrize(
    ("anchor", "moment", "expected"),
    [
        ((2027, 1, 31), (2027, 2, 10), ("2027-01-31", "2027-02-28")),
        ((2027, 1, 31), (2027, 3, 1), ("2027-02-28", "2027-03-31")),
        ((2027, 1, 31), (2028, 2, 29), ("2028-02-29", "2028-03-31")),
        ((2027, 1, 31), (2027, 4, 30), ("2027-04-30", "2027-05-31")),
        ((2027, 1, 31), (2026, 12, 30), ("2026-11-30", "2026-12-31")),
    ],
)
def test_month_ends_are_clamped_and_the_anchor_day_is_kept(anchor, moment, expected):
    start, end = period_at(second(*anchor), "month", 1, second(*moment))

    assert (at(start)[:10], at(end)[:10]) == expected


@pytest.mark.parametrize(
    ("interval", "count", "days"),
    [("day", 1, 1), ("day", 3, 3), ("week", 2, 14), ("year", 1, 365), ("month", 3, 92)],
)
def test_other_intervals(interval, count, days):
    start, end = period_at(NOW, interval, count, NOW)

    assert (start, (end - start) // 86_400) == (NOW, days)


def test_leap_day_anchor_in_other_years():
    anchor = second(2028, 2, 29)

    assert [
        at(period_at(anchor, "year", 1, second(y, 6, 1))[0])[:10] for y in (2028, 2029, 2032)
    ] == [
        "2028-02-29",
        "2029-02-28",
        "2032-02-29",
    ]


def test_periods_roll_on_with_time(shop, metered_price, events):
    made = subscribe(shop, metered_price)
    shop.emulator.forward("http://app/hook", "whsec_x")
    shop.emulator.clock.advance(31 * 86_400)

    item = shop.client.v1.subscriptions.retrieve(made.id)["items"].data[0]
    told = events()

    assert (at(item.current_period_start), at(item.current_period_end)) == (
        "2026-12-23 12:00",
        "2027-01-23 12:00",
    )
    assert [(event["type"], at(event["created"])) for event in told] == [
        ("invoice.upcoming", "2026-12-16 12:00"),
        ("customer.subscription.updated", "2026-12-23 12:00"),
        ("invoice.created", "2026-12-23 12:00"),
    ]
    old = told[1]["data"]["previous_attributes"]["items"]["data"][0]
    assert at(old["current_period_end"]) == "2026-12-23 12:00"


def test_every_period_in_between_is_told_when_time_jumps(shop, metered_price, events):
    subscribe(shop, metered_price)
    shop.emulator.forward("http://app/hook", "whsec_x")
    shop.emulator.clock.advance(100 * 86_400)

    rolled = [each for each in events() if each["type"] == "customer.subscription.updated"]
    assert [at(event["created"])[:10] for event in rolled] == [
        "2026-12-23",
        "2027-01-23",
        "2027-02-23",
    ]


def test_future_anchor_makes_a_short_first_period(shop, metered_price):
    made = subscribe(shop, metered_price, billing_cycle_anchor=second(2026, 12, 1))
    item = made["items"].data[0]

    assert (at(item.current_period_start), at(item.current_period_end)) == (
        "2026-11-23 12:00",
        "2026-12-01 00:00",
    )


def test_anchor_by_day_of_month(shop, metered_price):
    made = subscribe(
        shop,
        metered_price,
        billing_cycle_anchor_config={"day_of_month": 31, "hour": 0, "minute": 0, "second": 0},
    )

    assert at(made.billing_cycle_anchor) == "2026-11-30 00:00"


def test_cancel_now(shop, metered_price, events):
    made = subscribe(shop, metered_price)
    shop.emulator.forward("http://app/hook", "whsec_x")

    gone = shop.client.v1.subscriptions.cancel(made.id, {"invoice_now": True, "prorate": False})

    assert (gone.status, gone.ended_at, gone.canceled_at) == ("canceled", NOW, NOW)
    assert [event["type"] for event in events()] == ["customer.subscription.deleted"]
    assert shop.client.v1.subscriptions.list().data == []
    assert [each.id for each in shop.client.v1.subscriptions.list({"status": "all"}).data] == [
        made.id
    ]


def test_cancel_at_period_end_happens_then(shop, metered_price):
    made = subscribe(shop, metered_price)
    planned = shop.client.v1.subscriptions.update(made.id, {"cancel_at_period_end": True})
    shop.emulator.clock.advance(30 * 86_400)

    gone = shop.client.v1.subscriptions.retrieve(made.id)

    assert (planned.status, at(planned.cancel_at)) == ("active", "2026-12-23 12:00")
    assert (gone.status, at(gone.ended_at)) == ("canceled", "2026-12-23 12:00")


def test_planned_cancellation_can_be_taken_back(shop, metered_price):
    made = subscribe(shop, metered_price, cancel_at="min_period_end")
    back = shop.client.v1.subscriptions.update(made.id, {"cancel_at": ""})
    shop.emulator.clock.advance(40 * 86_400)

    assert (back.cancel_at, back.canceled_at) == (None, None)
    assert shop.client.v1.subscriptions.retrieve(made.id).status == "active"


def test_deleting_the_customer_cancels(shop, metered_price):
    made = subscribe(shop, metered_price)
    shop.client.v1.customers.delete(shop.customer.id)

    assert shop.client.v1.subscriptions.retrieve(made.id).status == "canceled"


def test_items_are_added_swapped_and_removed(shop, metered_price, base_price):
    made = subscribe(shop, metered_price)
    added = shop.client.v1.subscriptions.update(
        made.id, {"items": [{"price": base_price.id, "quantity": 2}]}
    )
    first = made["items"].data[0].id

    left = shop.client.v1.subscriptions.update(made.id, {"items": [{"id": first, "deleted": True}]})

    assert [(i.price.id, i.to_dict().get("quantity")) for i in added["items"].data] == [
        (metered_price.id, None),
        (base_price.id, 2),
    ]
    assert [i.price.id for i in left["items"].data] == [base_price.id]
    with pytest.raises(stripe.InvalidRequestError, match="at least one active item"):
        shop.client.v1.subscriptions.update(
            made.id, {"items": [{"id": left["items"].data[0].id, "deleted": True}]}
        )


def test_trial_delays_billing(shop, base_price):
    made = subscribe(shop, base_price, trial_period_days=7)
    shop.emulator.clock.advance(7 * 86_400)

    after = shop.client.v1.subscriptions.retrieve(made.id)

    assert (made.status, at(made["items"].data[0].current_period_end)) == (
        "trialing",
        "2026-11-30 12:00",
    )
    assert (after.status, at(after["items"].data[0].current_period_end)) == (
        "active",
        "2026-12-30 12:00",
    )


def test_anchor_on_update_is_an_object(shop, metered_price):
    made = subscribe(shop, metered_price)
    shop.emulator.clock.advance(86_400)

    moved = shop.client.v1.subscriptions.update(made.id, {"billing_cycle_anchor": {"type": "now"}})

    assert moved.billing_cycle_anchor == NOW + 86_400
    with pytest.raises(stripe.InvalidRequestError, match="Invalid object"):
        shop.client.raw_request("post", f"/v1/subscriptions/{made.id}", billing_cycle_anchor="now")
