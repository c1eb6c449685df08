"""`create_preview`: what the real invoice would hold, and nothing of it kept."""

import pytest
import stripe

from .conftest import NOW
from .test_prorations import END, HALF, go, lines, paying, price, update, waiting  # noqa: F401  a fixture among them
from .test_subscriptions import subscribe

pytestmark = pytest.mark.unit
HOUR, DAY = 3600, 86_400


def preview(shop, **params):
    return shop.client.v1.invoices.create_preview(params)


def amounts(invoice) -> list[int]:
    return [each.amount for each in invoice.lines.data]


def test_the_next_invoice_is_the_one_that_comes(paying, base_price):  # noqa: F811
    made = subscribe(paying, price(paying, "1", metered=True), base_price)
    paying.send("a", "100", at=NOW)
    go(paying, HALF)
    update(paying, made, {"id": made["items"].data[1].id, "quantity": 2})
    found = preview(paying, customer=paying.customer.id)
    [real, _] = go(paying, END)

    assert (found.billing_reason, found.status, found.created) == ("upcoming", "draft", END)
    assert lines(found) == lines(real)
    assert (found.total, found.amount_due) == (real.total, real.amount_due) == (5100, 5100)


def test_nothing_is_kept(paying, base_price):  # noqa: F811
    made = subscribe(paying, base_price)
    world = paying.emulator.world
    before = (len(world.invoices), len(world.invoice_items), len(world.events))
    shown = paying.client.v1.subscriptions.retrieve(made.id).to_dict()
    item = {"id": made["items"].data[0].id, "quantity": 5}
    for details in (
        {"items": [item]},
        {"items": [item], "proration_behavior": "always_invoice"},
        {"billing_cycle_anchor": {"type": "now"}},
        {"cancel_now": True},
    ):
        preview(paying, subscription=made.id, subscription_details=details)

    assert (len(world.invoices), len(world.invoice_items), len(world.events)) == before
    assert paying.client.v1.subscriptions.retrieve(made.id).to_dict() == shown


def test_usage_lags_like_summaries(paying):  # noqa: F811
    subscribe(paying, price(paying, "1", metered=True))
    paying.emulator.settings.change(settle_lag_seconds=60)
    paying.send("a", "100", at=NOW)
    at_once = preview(paying, customer=paying.customer.id).total
    paying.emulator.clock.advance(60)

    assert (at_once, preview(paying, customer=paying.customer.id).total) == (0, 100)


def test_a_change_is_previewed_with_its_prorations(paying, base_price):  # noqa: F811
    made = subscribe(paying, base_price)
    go(paying, HALF)
    details = {"items": [{"id": made["items"].data[0].id, "quantity": 3}]}

    found = preview(paying, subscription=made.id, subscription_details=details)
    at_once = preview(
        paying,
        subscription=made.id,
        subscription_details={**details, "proration_behavior": "always_invoice"},
    )
    assert amounts(found) == [6000, -1000, 3000]
    assert amounts(at_once) == [-1000, 3000]
    recurring = preview(
        paying, subscription=made.id, subscription_details=details, preview_mode="recurring"
    )
    assert amounts(recurring) == [6000]


def test_a_new_subscription_is_previewed(paying, base_price):  # noqa: F811
    metered = price(paying, "1", metered=True)
    asked = {"customer": paying.customer.id}
    both = preview(
        paying,
        **asked,
        subscription_details={
            "items": [{"price": base_price.id, "quantity": 2}, {"price": metered.id}]
        },
    )
    usage = preview(paying, **asked, subscription_details={"items": [{"price": metered.id}]})

    assert amounts(both) == [4000]
    assert (amounts(usage), usage.lines.data[0].period.end) == ([0], END)
    assert paying.client.v1.subscriptions.list().data == []


def test_an_end_now_is_previewed(paying, base_price):  # noqa: F811
    made = subscribe(paying, base_price, price(paying, "1", metered=True))
    paying.send("a", "100", at=NOW)
    go(paying, HALF)

    found = preview(paying, subscription=made.id, subscription_details={"cancel_now": True})
    assert amounts(found) == [100, -1000]


def test_nothing_comes_without_a_subscription_that_lives(paying, base_price):  # noqa: F811
    made = subscribe(paying, base_price)
    paying.client.v1.subscriptions.cancel(made.id)

    for asked in ({"customer": paying.customer.id}, {"subscription": made.id}):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            preview(paying, **asked)
        assert (caught.value.http_status, caught.value.code) == (404, "invoice_upcoming_none")
    with pytest.raises(stripe.InvalidRequestError, match="must pass a `customer`"):
        preview(paying)
