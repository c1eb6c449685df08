"""Test clocks: forward only, in order, and apart from everybody else's time."""

import pytest
import stripe

from .conftest import NOW
from .test_subscriptions import at, second, subscribe

pytestmark = pytest.mark.unit
DAY = 86_400


@pytest.fixture
def clocks(client):
    return client.v1.test_helpers.test_clocks


@pytest.fixture
def clock(clocks):
    return clocks.create({"frozen_time": second(2027, 1, 31)})


@pytest.fixture
def on_clock(shop, clock):
    shop.customer = shop.client.v1.customers.create({"test_clock": clock.id})
    return shop


def test_advancing_takes_a_moment(clocks, clock):
    moving = clocks.advance(clock.id, {"frozen_time": second(2027, 2, 1)})
    there = clocks.retrieve(clock.id)

    assert (
        moving.status,
        moving.frozen_time,
        moving.status_details.advancing.target_frozen_time,
    ) == (
        "advancing",
        second(2027, 1, 31),
        second(2027, 2, 1),
    )
    assert (there.status, there.frozen_time) == ("ready", second(2027, 2, 1))


def test_advancing_takes_as_long_as_it_is_told(clocks, clock, emulator):
    emulator.settings.change(test_clock_advance_seconds=30)
    clocks.advance(clock.id, {"frozen_time": second(2027, 2, 1)})
    with pytest.raises(stripe.InvalidRequestError, match="still advancing"):
        clocks.advance(clock.id, {"frozen_time": second(2027, 2, 2)})
    emulator.clock.advance(30)

    assert clocks.retrieve(clock.id).status == "ready"


@pytest.mark.parametrize("target", [(2027, 1, 31), (2027, 1, 30)])
def test_clock_only_moves_forward(clocks, clock, target):
    with pytest.raises(stripe.InvalidRequestError, match="forward"):
        clocks.advance(clock.id, {"frozen_time": second(*target)})


def test_clock_without_subscription_moves_two_years_at_most(clocks, clock):
    with pytest.raises(stripe.InvalidRequestError):
        clocks.advance(clock.id, {"frozen_time": second(2029, 1, 31) + 1})
    clocks.advance(clock.id, {"frozen_time": second(2029, 1, 31)})


def test_clock_with_a_monthly_subscription_moves_two_months_at_most(
    clocks, clock, on_clock, metered_price
):
    subscribe(on_clock, metered_price)

    with pytest.raises(stripe.InvalidRequestError):
        clocks.advance(clock.id, {"frozen_time": second(2027, 3, 31) + 1})
    clocks.advance(clock.id, {"frozen_time": second(2027, 3, 31)})


def test_periods_follow_the_clock_in_order(clocks, clock, on_clock, metered_price, events):
    made = subscribe(on_clock, metered_price)
    on_clock.emulator.forward("http://app/hook", "whsec_x")
    clocks.advance(clock.id, {"frozen_time": second(2027, 3, 31)})

    item = on_clock.client.v1.subscriptions.retrieve(made.id)["items"].data[0]
    told = [
        (each["type"], at(each["created"])[:10])
        for each in events()
        if not each["type"].startswith("invoice.")
    ]

    assert (at(item.current_period_start)[:10], at(item.current_period_end)[:10]) == (
        "2027-03-31",
        "2027-04-30",
    )
    assert told == [
        ("test_helpers.test_clock.advancing", "2026-11-23"),
        ("customer.subscription.updated", "2027-02-28"),
        ("customer.subscription.updated", "2027-03-31"),
        ("test_helpers.test_clock.ready", "2026-11-23"),
    ]


def test_everybody_else_stays_where_they_are(clocks, clock, shop, metered_price):
    made = subscribe(shop, metered_price)
    clocks.advance(clock.id, {"frozen_time": second(2028, 1, 31)})

    assert (
        at(shop.client.v1.subscriptions.retrieve(made.id)["items"].data[0].current_period_end)
        == "2026-12-23 12:00"
    )


def test_real_time_does_not_move_customers_on_a_clock(clocks, on_clock, metered_price):
    made = subscribe(on_clock, metered_price)
    on_clock.emulator.clock.advance(29 * DAY)

    item = on_clock.client.v1.subscriptions.retrieve(made.id)["items"].data[0]
    assert at(item.current_period_end)[:10] == "2027-02-28"


def test_event_time_limits_follow_the_customers_clock(on_clock):
    now = second(2027, 1, 31)
    on_clock.send("fits", at=now - 35 * DAY)

    for identifier, moment in (("real now", NOW), ("ahead", now + 301)):
        with pytest.raises(stripe.InvalidRequestError):
            on_clock.send(identifier, at=moment)

    assert on_clock.total(now - 36 * DAY, now + 3600) == 1


def test_three_customers_fit_on_a_clock(client, clock):
    for _ in range(3):
        client.v1.customers.create({"test_clock": clock.id})

    with pytest.raises(stripe.InvalidRequestError, match="at most 3"):
        client.v1.customers.create({"test_clock": clock.id})


def test_existing_customer_is_attached_with_its_subscriptions(clocks, shop, metered_price):
    made = subscribe(shop, metered_price)
    clock = clocks.create({"frozen_time": NOW, "customer": shop.customer.id})
    clocks.advance(clock.id, {"frozen_time": NOW + 31 * DAY})
    moved = shop.client.v1.subscriptions.retrieve(made.id)

    assert moved.test_clock == clock.id
    assert shop.client.v1.customers.retrieve(shop.customer.id).test_clock == clock.id
    assert at(moved["items"].data[0].current_period_end)[:10] == "2027-01-23"


def test_deleting_a_clock_deletes_its_customers(clocks, clock, on_clock, metered_price):
    made = subscribe(on_clock, metered_price)
    clocks.delete(clock.id)

    assert on_clock.client.v1.customers.retrieve(on_clock.customer.id).deleted is True
    assert on_clock.client.v1.subscriptions.retrieve(made.id).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError):
        clocks.retrieve(clock.id)


def test_clocks_do_not_exist_in_live_mode(transport):
    live = stripe.StripeClient("sk_live_x", http_client=transport)

    with pytest.raises(stripe.InvalidRequestError, match="test mode only"):
        live.v1.test_helpers.test_clocks.create({"frozen_time": NOW})


def test_clock_is_deleted_when_its_days_are_over(clocks, clock, on_clock):
    on_clock.emulator.clock.advance(30 * DAY - 1)
    before = clocks.retrieve(clock.id).deletes_after
    on_clock.emulator.clock.advance(1)

    assert before == NOW + 30 * DAY
    with pytest.raises(stripe.InvalidRequestError, match="No such"):
        clocks.retrieve(clock.id)
    assert on_clock.client.v1.customers.retrieve(on_clock.customer.id).deleted is True


def test_customer_has_one_clock(clocks, on_clock):
    with pytest.raises(stripe.InvalidRequestError, match="already has a test clock"):
        clocks.create({"frozen_time": NOW, "customer": on_clock.customer.id})

    assert len(clocks.list().data) == 1
