"""Usage alerts: once per customer ever."""

import pytest
import stripe

from .conftest import make_meter

pytestmark = pytest.mark.unit


def make(shop, gte=10, **extra):
    threshold = {"gte": gte, "meter": shop.meter.id, "recurrence": "one_time", **extra}
    return shop.client.v1.billing.alerts.create(
        {"title": "x", "alert_type": "usage_threshold", "usage_threshold": threshold}
    )


def only(customer):
    return {"filters": [{"type": "customer", "customer": customer.id}]}


@pytest.fixture
def triggered(shop, events):
    shop.emulator.forward("http://app/hook", "whsec_x")

    def take():
        return [
            (event["data"]["object"]["customer"], event["data"]["object"]["value"])
            for event in events()
            if event["type"] == "billing.alert.triggered"
        ]

    return take


def test_alert_fires_when_the_total_reaches_its_threshold(shop, triggered):
    make(shop, 10)
    shop.send("a", "9.9")
    before = triggered()
    shop.send("b", "0.1")

    assert (before, triggered()) == ([], [(shop.customer.id, 10)])


def test_alert_fires_once_per_customer_ever(shop, triggered):
    make(shop, 10)
    other = shop.client.v1.customers.create({})
    for index in range(3):
        shop.send(f"a{index}", "10")
    shop.emulator.clock.advance(90 * 86_400)
    shop.send("later", "100", at=int(shop.emulator.clock.now()))
    shop.customer = other
    shop.send("other", "11", at=int(shop.emulator.clock.now()))

    fired = triggered()

    assert [value for _, value in fired] == [10, 11]
    assert len({customer for customer, _ in fired}) == 2


def test_usage_from_before_counts_but_is_looked_at_only_with_new_usage(shop, triggered):
    shop.send("a", "50")
    make(shop, 10)
    before = triggered()
    shop.send("b", "1")

    assert (before, triggered()) == ([], [(shop.customer.id, 51)])


def test_alert_of_one_customer_ignores_others(shop, triggered):
    make(shop, 10, **only(shop.client.v1.customers.create({})))
    shop.send("a", "50")

    assert triggered() == []


def test_inactive_and_archived_alerts_are_silent(shop, triggered):
    first, second = make(shop), make(shop)
    shop.client.v1.billing.alerts.deactivate(first.id)
    shop.client.v1.billing.alerts.archive(second.id)
    shop.send("a", "50")

    assert triggered() == []
    assert [each.id for each in shop.client.v1.billing.alerts.list({}).data] == [first.id]
    with pytest.raises(stripe.InvalidRequestError, match="archived"):
        shop.client.v1.billing.alerts.activate(second.id)


def test_alert_waits_until_usage_counts(shop, triggered):
    shop.emulator.settings.change(settle_lag_seconds=60)
    make(shop)
    shop.send("a", "50")
    before = triggered()
    shop.emulator.clock.advance(60)

    assert (before, triggered()) == ([], [(shop.customer.id, 50)])


def test_customer_on_a_test_clock_triggers_nothing(shop, triggered):
    clock = shop.client.v1.test_helpers.test_clocks.create(
        {"frozen_time": int(shop.emulator.clock.now())}
    )
    shop.customer = shop.client.v1.customers.create({"test_clock": clock.id})
    make(shop)
    shop.send("a", "50")

    assert triggered() == []


def test_twenty_five_alerts_concern_one_pair_at_most(shop):
    for _ in range(20):
        make(shop)
    for _ in range(5):
        make(shop, **only(shop.customer))

    with pytest.raises(stripe.InvalidRequestError, match="At most 25"):
        make(shop, **only(shop.customer))
    other = shop.client.v1.customers.create({})
    assert make(shop, **only(other)).status == "active"
    with pytest.raises(stripe.InvalidRequestError, match="At most 25"):
        make(shop)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"gte": 0}, "usage_threshold[gte]"),
        ({"gte": "12.5"}, "usage_threshold[gte]"),
        ({"recurrence": "monthly"}, "usage_threshold[recurrence]"),
        ({"customer": "cus_x"}, "usage_threshold[customer]"),
        ({"meter": "mtr_nothing"}, "usage_threshold[meter]"),
        (
            {"filters": [{"type": "customer", "customer": "cus_x"}]},
            "usage_threshold[filters][0][customer]",
        ),
    ],
)
def test_bad_alerts_are_refused(shop, change, param):
    with pytest.raises(stripe.InvalidRequestError) as caught:
        make(shop, **change)

    assert caught.value.param == param


def test_customer_does_not_stand_at_the_top(shop):
    with pytest.raises(stripe.InvalidRequestError, match="unknown parameter: customer"):
        shop.client.raw_request("post", "/v1/billing/alerts", customer=shop.customer.id)


def test_count_meter_is_compared_by_count(shop, triggered):
    shop.meter = make_meter(shop.client, "calls", "count")
    make(shop, 2)
    shop.send("a", "100")
    shop.send("b", "100")

    assert triggered() == [(shop.customer.id, 2)]
