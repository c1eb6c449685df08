"""Billing thresholds: an invoice in the middle of a period, and each unit on one invoice only."""

import pytest

from .conftest import NOW
from .test_prorations import END, HALF, lines, paying, price  # noqa: F401  a fixture among them
from .test_subscriptions import subscribe

pytestmark = pytest.mark.unit
HOUR, DAY = 3600, 86_400


def go(shop, moment: int):
    shop.emulator.clock.set(moment, frozen=True)
    return shop.client.v1.invoices.list().data


def item_with(shop, gte: int):
    metered = price(shop, "1", metered=True)
    return shop.client.v1.subscriptions.create(
        {
            "customer": shop.customer.id,
            "items": [{"price": metered.id, "billing_thresholds": {"usage_gte": gte}}],
        }
    )


def test_usage_that_reaches_the_threshold_is_billed_at_once(paying):  # noqa: F811
    made = item_with(paying, 100)
    paying.send("a", "99", at=NOW)
    below = go(paying, HALF)
    paying.send("b", "51", at=HALF)
    [early] = go(paying, HALF)
    paying.send("same second, later", "5", at=HALF)
    paying.send("next", "7", at=HALF + 1)
    [final] = go(paying, HALF + HOUR)
    [cycle, _] = go(paying, END + HOUR)

    assert (made["items"].data[0].billing_thresholds.usage_gte, below) == (100, [])
    assert (early.billing_reason, early.status, early.total) == (
        "subscription_threshold",
        "draft",
        150,
    )
    reason = early.threshold_reason.item_reasons[0]
    assert (reason.usage_gte, reason.line_item_ids) == (100, [early.lines.data[0].id])
    assert (final.status, lines(final)) == ("paid", [(155, NOW, HALF + 1)])
    assert lines(cycle) == [(7, HALF + 1, END)]


def test_an_amount_reaches_the_threshold_of_the_subscription(paying):  # noqa: F811
    subscribe(paying, price(paying, "3", metered=True), billing_thresholds={"amount_gte": 300})
    paying.send("a", "99", at=NOW)
    below = go(paying, NOW + 1)
    paying.send("b", "1", at=NOW + 1)
    [early] = go(paying, NOW + 1)

    assert (below, early.total, early.threshold_reason.amount_gte) == ([], 300, 300)


def test_the_anchor_can_begin_again_there(paying, base_price):  # noqa: F811
    made = subscribe(
        paying,
        price(paying, "1", metered=True),
        base_price,
        billing_thresholds={"amount_gte": 100, "reset_billing_cycle_anchor": True},
    )
    go(paying, HALF - 1)
    paying.send("a", "100", at=HALF - 1)
    [early, _] = go(paying, HALF - 1)
    after = paying.client.v1.subscriptions.retrieve(made.id)

    assert [line.amount for line in early.lines.data] == [100, 2000, -1000]
    assert after.billing_cycle_anchor == HALF


@pytest.mark.parametrize(("moment", "count"), [(END - DAY - 1, 1), (END - DAY, 0)])
def test_not_in_the_last_day_of_a_period(paying, moment, count):  # noqa: F811
    item_with(paying, 100)
    go(paying, moment)
    paying.send("a", "100", at=moment)

    assert len(go(paying, moment)) == count


def test_not_in_a_trial_and_not_once_it_is_taken_back(paying):  # noqa: F811
    made = subscribe(
        paying,
        price(paying, "1", metered=True),
        trial_period_days=7,
        billing_thresholds={"amount_gte": 100},
    )
    paying.send("a", "1000", at=NOW)
    in_trial = go(paying, NOW + 8 * DAY)
    paying.client.v1.subscriptions.update(made.id, {"billing_thresholds": ""})
    paying.send("b", "1000", at=NOW + 8 * DAY)

    assert (in_trial, go(paying, NOW + 8 * DAY)) == ([], [])
