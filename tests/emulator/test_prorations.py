"""Changes within a period: licensed time to the second, usage at the price of its moment."""

from decimal import Decimal

import pytest
import stripe

from .conftest import NOW, make_meter
from .test_subscriptions import second, subscribe

pytestmark = pytest.mark.unit
HOUR, DAY = 3600, 86_400
END = second(2026, 12, 23, 12)
HALF = NOW + (END - NOW) // 2


@pytest.fixture
def paying(shop):
    shop.client.v1.customers.update(
        shop.customer.id, {"invoice_settings": {"default_payment_method": "pm_card_visa"}}
    )
    return shop


def price(shop, unit: str, interval: str = "month", *, metered: bool = False, **extra):
    usage = {"usage_type": "metered", "meter": shop.meter.id} if metered else {}
    product = shop.client.v1.products.create({"name": "x"})
    return shop.client.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount_decimal": unit,
            "recurring": {"interval": interval, **usage},
            **extra,
        }
    )


def go(shop, moment: int):
    shop.emulator.clock.set(moment, frozen=True)
    return shop.client.v1.invoices.list().data


def update(shop, made, *items, **params):
    return shop.client.v1.subscriptions.update(made.id, {"items": list(items), **params})


def lines(invoice) -> list[tuple]:
    return [(each.amount, each.period.start, each.period.end) for each in invoice.lines.data]


def waiting(shop) -> list[tuple]:
    items = shop.client.v1.invoice_items.list({"pending": True}).data
    return [(each.amount, each.proration) for each in reversed(items)]


def test_a_greater_quantity_is_charged_for_the_rest_of_the_period(paying, base_price):
    made = subscribe(paying, base_price)
    go(paying, HALF)
    update(paying, made, {"id": made["items"].data[0].id, "quantity": 3})
    pending = waiting(paying)
    [cycle, _] = go(paying, END)

    assert pending == [(-1000, True), (3000, True)]
    assert lines(cycle) == [
        (6000, END, second(2027, 1, 23, 12)),
        (-1000, HALF, END),
        (3000, HALF, END),
    ]
    assert (cycle.total, waiting(paying)) == (8000, [])


@pytest.mark.parametrize(
    ("behavior", "totals", "pending"),
    [
        ("none", [2000], []),
        ("create_prorations", [2000], [(-1000, True), (2000, True)]),
        ("always_invoice", [1000, 2000], []),
    ],
)
def test_proration_behaviors(paying, base_price, behavior, totals, pending):
    made = subscribe(paying, base_price)
    go(paying, HALF)
    update(
        paying,
        made,
        {"id": made["items"].data[0].id, "quantity": 2},
        proration_behavior=behavior,
    )

    found = paying.client.v1.invoices.list().data
    assert [(each.total, each.status) for each in found] == [(total, "paid") for total in totals]
    assert waiting(paying) == pending
    if behavior == "always_invoice":
        assert found[0].billing_reason == "subscription_update"


def test_a_proration_can_have_a_date_of_its_own(paying, base_price):
    made = subscribe(paying, base_price)
    go(paying, HALF + DAY)
    update(paying, made, {"id": made["items"].data[0].id, "quantity": 2}, proration_date=HALF)

    assert waiting(paying) == [(-1000, True), (2000, True)]
    with pytest.raises(stripe.InvalidRequestError, match="proration_date"):
        update(
            paying, made, {"id": made["items"].data[0].id, "quantity": 5}, proration_date=NOW - 1
        )


def test_half_a_minor_unit_is_rounded_up(paying):
    made = subscribe(paying, price(paying, "101"))
    go(paying, HALF)
    update(
        paying,
        made,
        {"id": made["items"].data[0].id, "deleted": True},
        {"price": price(paying, "103").id},
    )

    assert waiting(paying) == [(-51, True), (52, True)]


def test_usage_is_billed_at_the_price_of_its_moment(paying):
    cheap, dear = price(paying, "1", metered=True), price(paying, "3", metered=True)
    made = subscribe(paying, cheap)
    item = made["items"].data[0].id
    go(paying, HALF)
    for name, value, at in (("a", "100", NOW), ("b", "10", HALF - 1)):
        paying.send(name, value, at=at)
    update(paying, made, {"id": item, "price": dear.id})
    for name, value, at in (("c", "1000", HALF), ("late", "5", HALF - 2)):
        paying.send(name, value, at=at)
    go(paying, END)
    paying.send("very late", "7", at=HALF - 3)
    [invoice] = go(paying, END + HOUR)

    assert [
        (line.quantity_decimal, line.amount, line.pricing.price_details.price)
        for line in invoice.lines.data
    ] == [(Decimal(122), 122, cheap.id), (Decimal(1000), 3000, dear.id)]
    assert [(line.period.start, line.period.end) for line in invoice.lines.data] == [
        (NOW, HALF),
        (HALF, END),
    ]
    assert waiting(paying) == []


def test_a_proration_date_does_not_bill_usage_twice(paying):
    cheap, dear = price(paying, "1", metered=True), price(paying, "3", metered=True)
    made = subscribe(paying, cheap)
    paying.send("a", "100", at=NOW)
    go(paying, HALF)
    update(
        paying, made, {"id": made["items"].data[0].id, "price": dear.id}, proration_date=HALF - DAY
    )

    assert waiting(paying) == []
    assert [each.total for each in go(paying, END + HOUR)] == [100]


def test_classic_mode_forgets_usage_before_a_change_of_price(paying):
    cheap, dear = price(paying, "1", metered=True), price(paying, "3", metered=True)
    made = subscribe(paying, cheap, billing_mode={"type": "classic"})
    paying.send("a", "100", at=NOW)
    go(paying, HALF)
    update(paying, made, {"id": made["items"].data[0].id, "price": dear.id})
    paying.send("b", "50", at=HALF)

    assert go(paying, END + HOUR)[0].total == 150


@pytest.mark.parametrize(("behavior", "billed"), [("create_prorations", 100), ("none", 0)])
def test_a_removed_item_leaves_its_usage(paying, base_price, behavior, billed):
    made = subscribe(paying, price(paying, "1", metered=True), base_price)
    paying.send("a", "100", at=NOW)
    go(paying, HALF)
    update(
        paying,
        made,
        {"id": made["items"].data[0].id, "deleted": True},
        proration_behavior=behavior,
    )
    [cycle, _] = go(paying, END)

    assert cycle.total == 2000 + billed


def test_classic_mode_forgets_the_usage_of_a_removed_item(paying, base_price):
    made = subscribe(
        paying, price(paying, "1", metered=True), base_price, billing_mode={"type": "classic"}
    )
    paying.send("a", "100", at=NOW)
    go(paying, HALF)
    update(paying, made, {"id": made["items"].data[0].id, "deleted": True})

    assert waiting(paying) == []


def test_another_interval_ends_the_running_usage(paying):
    made = subscribe(paying, price(paying, "1", metered=True))
    paying.send("a", "100", at=NOW)
    go(paying, HALF)
    weekly = price(paying, "2", "week", metered=True)
    update(paying, made, {"id": made["items"].data[0].id, "price": weekly.id})

    assert waiting(paying) == [(100, False)]


def test_an_added_item_is_charged_from_its_moment(paying, base_price):
    made = subscribe(paying, price(paying, "1", metered=True))
    go(paying, HALF)
    update(paying, made, {"price": base_price.id, "quantity": 2})

    assert waiting(paying) == [(2000, True)]


def test_a_new_anchor_bills_everything_until_now_and_begins_again(paying, base_price):
    made = subscribe(paying, base_price, price(paying, "1", metered=True))
    paying.send("a", "100", at=NOW)
    go(paying, HALF)
    moved = paying.client.v1.subscriptions.update(
        made.id, {"billing_cycle_anchor": {"type": "now"}, "expand": ["latest_invoice"]}
    )
    end = moved["items"].data[0].current_period_end

    assert (moved.billing_cycle_anchor, moved.latest_invoice.status) == (HALF, "paid")
    assert lines(moved.latest_invoice) == [(100, NOW, HALF), (2000, HALF, end), (-1000, HALF, END)]
    paying.send("b", "7", at=HALF)
    go(paying, end)
    assert lines(go(paying, end)[0])[1] == (7, HALF, end)


def test_items_with_their_own_intervals_share_an_invoice_when_they_end_together(paying):
    weekly, monthly = price(paying, "10", "week"), price(paying, "1", metered=True)
    meter = make_meter(paying.client, "calls")
    daily = paying.client.v1.prices.create(
        {
            "currency": "usd",
            "product": paying.client.v1.products.create({"name": "Calls"}).id,
            "unit_amount": 2,
            "recurring": {
                "interval": "day",
                "interval_count": 7,
                "usage_type": "metered",
                "meter": meter.id,
            },
        }
    )
    subscribe(paying, weekly, monthly, daily, proration_behavior="none")
    week = NOW + 7 * DAY
    [shared, _] = go(paying, week)

    assert lines(shared) == [(10, week, week + 7 * DAY), (0, NOW, week)]
    assert [each.created for each in go(paying, END)][:2] == [END, NOW + 28 * DAY]
    assert lines(go(paying, END)[0]) == [(0, NOW, END)]


def test_a_refused_change_leaves_nothing_behind(paying, base_price, metered_price):
    made = subscribe(paying, base_price)
    item = made["items"].data[0].id

    with pytest.raises(stripe.InvalidRequestError, match="at least one active item"):
        update(paying, made, {"id": item, "deleted": True})
    with pytest.raises(stripe.InvalidRequestError, match="Quantity should not"):
        update(
            paying,
            made,
            {"id": item, "quantity": 7},
            {"price": metered_price.id, "quantity": 2},
            description="x",
        )

    after = paying.client.v1.subscriptions.retrieve(made.id)
    assert [(each.id, each.quantity) for each in after["items"].data] == [(item, 1)]
    assert (after.description, waiting(paying)) == (None, [])


def test_cancelling_with_prorate_credits_the_rest(paying, base_price):
    made = subscribe(paying, base_price, price(paying, "1", metered=True))
    paying.send("a", "100", at=NOW)
    go(paying, HALF)
    paying.client.v1.subscriptions.cancel(made.id, {"invoice_now": True, "prorate": True})
    [last, _] = paying.client.v1.invoices.list().data

    assert lines(last) == [(100, NOW, HALF), (-1000, HALF, END)]
    assert (last.total, last.amount_due, last.ending_balance) == (-900, 0, -900)
    assert paying.client.v1.customers.retrieve(paying.customer.id).balance == -900


@pytest.mark.parametrize(("behavior", "credit"), [("none", 0), ("create_prorations", -1000)])
def test_a_planned_end_within_a_period_bills_usage_until_then(paying, base_price, behavior, credit):
    made = subscribe(paying, base_price, price(paying, "1", metered=True))
    paying.client.v1.subscriptions.update(
        made.id, {"cancel_at": HALF + 17, "proration_behavior": behavior}
    )
    go(paying, HALF + 10)
    for name, value, at in (("a", "30", HALF + 10), ("b", "500", HALF + 17)):
        paying.send(name, value, at=at)
    go(paying, HALF + 17)
    paying.send("late", "1", at=HALF + 16)
    [last, _] = go(paying, HALF + 17 + HOUR)

    assert last.lines.data[0].amount == 31
    assert abs(last.total - (31 + credit)) <= 1
    assert paying.client.v1.subscriptions.retrieve(made.id).ended_at == HALF + 17


@pytest.mark.parametrize(
    ("word", "end"),
    [
        ("min_period_end", NOW + 7 * DAY),
        ("max_period_end", END),
        ("max_billed_until", END),
    ],
)
def test_words_for_the_end(paying, word, end):
    made = subscribe(
        paying, price(paying, "1", metered=True), price(paying, "1", "week"), cancel_at=word
    )

    assert made.cancel_at == end
    with pytest.raises(stripe.InvalidRequestError, match="future"):
        paying.client.v1.subscriptions.update(made.id, {"cancel_at": NOW})
