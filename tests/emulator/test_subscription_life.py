"""Trials, starts in the past, pauses, resumptions and the move to flexible billing."""

import pytest
import stripe

from .conftest import NOW
from .test_prorations import HALF, lines, paying, price, update, waiting  # noqa: F401  a fixture among them
from .test_subscriptions import second, subscribe

pytestmark = pytest.mark.unit
HOUR, DAY = 3600, 86_400
END = second(2026, 12, 23, 12)


def go(shop, moment: int):
    shop.emulator.clock.set(moment, frozen=True)
    return shop.client.v1.invoices.list().data


def ending(behavior: str) -> dict:
    return {"end_behavior": {"missing_payment_method": behavior}}


def test_usage_in_a_trial_costs_nothing(paying):  # noqa: F811
    metered = price(paying, "1", metered=True)
    made = subscribe(paying, metered, price(paying, "900"), trial_end=NOW + 7 * DAY + 17)
    start = NOW + 7 * DAY + 17
    paying.send("free", "1000", at=NOW)
    go(paying, start - 1)
    for name, value, at in (("free too", "500", start - 1), ("billed", "7", start)):
        paying.send(name, value, at=at)
    [first, trial] = go(paying, start)
    [cycle, *_] = go(paying, second(2026, 12, 30, 12) + 17)

    assert (trial.billing_reason, trial.total, trial.status) == ("subscription_create", 0, "paid")
    assert (made.status, first.total, first.billing_reason) == (
        "trialing",
        900,
        "subscription_cycle",
    )
    assert [each.amount for each in cycle.lines.data] == [7, 900]


@pytest.mark.parametrize(
    ("behavior", "status", "invoices"),
    [("create_invoice", "active", 2), ("pause", "paused", 1), ("cancel", "canceled", 1)],
)
def test_a_trial_that_ends_without_a_card(shop, base_price, behavior, status, invoices, events):
    made = subscribe(shop, base_price, trial_period_days=7, trial_settings=ending(behavior))
    shop.emulator.forward("http://app/hook", "whsec_x")
    found = go(shop, NOW + 7 * DAY)
    after = shop.client.v1.subscriptions.retrieve(made.id)
    told = [event["type"] for event in events()]

    assert (after.status, len(found)) == (status, invoices)
    assert told[0] == "customer.subscription.trial_will_end"
    if behavior == "pause":
        assert after.status_details.paused.subscription.type == "trial_end_without_payment_method"
        assert told[1:] == ["customer.subscription.updated", "customer.subscription.paused"]


def test_a_trials_end_is_announced_three_days_before_or_at_once(shop, metered_price, events):
    shop.emulator.forward("http://app/hook", "whsec_x")
    subscribe(shop, metered_price, trial_period_days=2)
    subscribe(shop, metered_price, trial_period_days=9)
    at_once = [event["type"] for event in events()].count("customer.subscription.trial_will_end")
    go(shop, NOW + 6 * DAY - 1)
    before = [event["type"] for event in events()]
    go(shop, NOW + 6 * DAY)

    assert at_once == 1
    assert "customer.subscription.trial_will_end" not in before
    assert [event["type"] for event in events()] == ["customer.subscription.trial_will_end"]


def test_cancelling_in_a_trial_owes_nothing(paying):  # noqa: F811
    made = subscribe(
        paying, price(paying, "1", metered=True), price(paying, "900"), trial_period_days=7
    )
    paying.send("a", "1000", at=NOW)
    go(paying, NOW + DAY)
    paying.client.v1.subscriptions.cancel(made.id, {"invoice_now": True, "prorate": True})

    assert [each.total for each in paying.client.v1.invoices.list().data] == [0]
    assert waiting(paying) == []


def test_a_trial_can_end_now(paying, base_price):  # noqa: F811
    made = subscribe(paying, base_price, trial_period_days=7)
    go(paying, NOW + DAY)
    after = paying.client.v1.subscriptions.update(
        made.id, {"trial_end": "now", "expand": ["latest_invoice"]}
    )

    assert (after.status, after.latest_invoice.total, after.latest_invoice.status) == (
        "active",
        2000,
        "paid",
    )
    assert after["items"].data[0].current_period_start == NOW + DAY


def test_usage_since_a_start_in_the_past_is_on_the_first_invoice(paying):  # noqa: F811
    start = second(2026, 10, 18, 12)
    month = second(2026, 11, 18, 12)
    metered = price(paying, "1", metered=True)
    for name, value, at in (
        ("before", "5000", start - 60),
        ("first", "100", start),
        ("second", "30", month),
        ("now", "7", NOW),
    ):
        paying.send(name, value, at=max(at, NOW - 35 * DAY))
    made = subscribe(
        paying,
        metered,
        backdate_start_date=NOW - 35 * DAY + 60,
        billing_cycle_anchor=second(2026, 12, 18, 12),
        expand=["latest_invoice"],
    )
    [cycle, _] = go(paying, second(2026, 12, 18, 12))

    assert (made.status, made.start_date) == ("active", NOW - 35 * DAY + 60)
    assert [(each[0], each[2]) for each in lines(made.latest_invoice)] == [(0, month), (30, NOW)]
    assert lines(cycle) == [(7, NOW, second(2026, 12, 18, 12))]


def test_a_start_in_the_past_without_usage_has_no_invoice(shop, metered_price):
    made = subscribe(shop, metered_price, backdate_start_date=NOW - 10 * DAY)

    assert made.latest_invoice is None
    shop.send("later", "1000", at=NOW - 5 * DAY)
    [cycle] = go(shop, made["items"].data[0].current_period_end)
    assert cycle.total == 4


def test_pausing_bills_usage_and_credits_time(paying, base_price, events):  # noqa: F811
    made = subscribe(paying, base_price, price(paying, "1", metered=True))
    paying.send("a", "100", at=NOW)
    go(paying, HALF)
    paying.emulator.forward("http://app/hook", "whsec_x")
    paused = paying.client.v1.subscriptions.pause(made.id)
    told = [event["type"] for event in events()]
    found = go(paying, END + 40 * DAY)

    assert (paused.status, paused.status_details.paused.subscription.type) == (
        "paused",
        "pause_requested",
    )
    assert waiting(paying) == [(-1000, True), (100, False)]
    assert told[-2:] == ["customer.subscription.updated", "customer.subscription.paused"]
    assert len(found) == 1


@pytest.mark.parametrize(
    ("through", "since", "expected"),
    [
        ("none", "none", []),
        ("now", "none", [(100, False)]),
        ("none", "item_current_period_start", [(-2000, True)]),
    ],
)
def test_what_a_pause_bills_for(paying, base_price, through, since, expected):  # noqa: F811
    made = subscribe(paying, base_price, price(paying, "1", metered=True))
    paying.send("a", "100", at=NOW)
    go(paying, HALF)
    paying.client.v1.subscriptions.pause(
        made.id,
        {
            "bill_for": {
                "outstanding_usage_through": {"type": through},
                "unused_time_from": {"type": since},
            }
        },
    )

    assert waiting(paying) == expected


def test_a_pause_can_be_invoiced_at_once(paying):  # noqa: F811
    made = subscribe(paying, price(paying, "1", metered=True))
    paying.send("a", "100", at=NOW)
    go(paying, HALF)
    paused = paying.client.v1.subscriptions.pause(
        made.id, {"invoicing_behavior": "invoice", "expand": ["latest_invoice"]}
    )

    assert (paused.latest_invoice.total, paused.latest_invoice.status) == (100, "paid")


def test_resuming_begins_again_and_bills_nothing_of_the_pause(paying, base_price):  # noqa: F811
    made = subscribe(paying, base_price, price(paying, "1", metered=True))
    paying.client.v1.subscriptions.pause(
        made.id, {"bill_for": {"unused_time_from": {"type": "none"}}}
    )
    go(paying, HALF)
    paying.send("paused", "1000", at=HALF - 1)
    resumed = paying.client.v1.subscriptions.resume(made.id, {"expand": ["latest_invoice"]})
    paying.send("resumed", "5", at=HALF)
    end = resumed["items"].data[0].current_period_end
    [cycle, *_] = go(paying, end)

    assert (resumed.status, resumed.billing_cycle_anchor) == ("active", HALF)
    assert lines(resumed.latest_invoice)[0] == (2000, HALF, end)
    assert lines(cycle)[:2] == [(2000, end, second(2027, 2, 8, 12)), (5, HALF, end)]


@pytest.mark.parametrize(("behavior", "amounts"), [("create_prorations", [1000]), ("none", [])])
def test_resuming_in_the_old_rhythm(paying, base_price, behavior, amounts):  # noqa: F811
    made = subscribe(paying, base_price)
    paying.client.v1.subscriptions.pause(
        made.id, {"bill_for": {"unused_time_from": {"type": "none"}}}
    )
    go(paying, HALF)
    resumed = paying.client.v1.subscriptions.resume(
        made.id,
        {"billing_cycle_anchor": {"type": "unchanged"}, "proration_behavior": behavior},
    )

    found = paying.client.v1.invoices.list().data
    assert [each.total for each in found] == [*amounts, 2000]
    assert resumed["items"].data[0].current_period_end == END


@pytest.mark.parametrize("paid", [True, False])
def test_resuming_can_wait_for_its_payment(paying, base_price, paid):  # noqa: F811
    made = subscribe(paying, base_price)
    paying.client.v1.subscriptions.pause(
        made.id, {"bill_for": {"unused_time_from": {"type": "none"}}}
    )
    paying.client.v1.customers.update(
        paying.customer.id,
        {"invoice_settings": {"default_payment_method": "pm_card_chargeDeclined"}},
    )
    go(paying, NOW + 40 * DAY)
    waits = paying.client.v1.subscriptions.resume(
        made.id,
        {"payment_behavior": "resume_on_payment_success", "expand": ["latest_invoice"]},
    )
    with pytest.raises(stripe.InvalidRequestError, match="still open"):
        paying.client.v1.subscriptions.resume(made.id)
    if paid:
        paying.client.v1.invoices.pay(waits.latest_invoice.id, {"payment_method": "pm_card_visa"})
    go(paying, NOW + 41 * DAY)
    after = paying.client.v1.subscriptions.retrieve(made.id, {"expand": ["latest_invoice"]})

    assert (waits.status, after.status) == ("paused", "active" if paid else "paused")
    assert after.latest_invoice.status == ("paid" if paid else "void")


def test_only_what_is_paused_resumes_and_only_what_lives_pauses(paying, base_price):  # noqa: F811
    made = subscribe(paying, base_price)
    with pytest.raises(stripe.InvalidRequestError, match="Only a paused"):
        paying.client.v1.subscriptions.resume(made.id)
    paying.client.v1.subscriptions.cancel(made.id)

    with pytest.raises(stripe.InvalidRequestError, match="cannot be paused"):
        paying.client.v1.subscriptions.pause(made.id)


def test_classic_becomes_flexible_once(shop, metered_price, events):
    made = subscribe(shop, metered_price, billing_mode={"type": "classic"})
    shop.emulator.forward("http://app/hook", "whsec_x")
    moved = shop.client.v1.subscriptions.migrate(made.id, {"billing_mode": {"type": "flexible"}})

    assert moved.billing_mode.type == "flexible"
    assert events()[0]["data"]["previous_attributes"]["billing_mode"]["type"] == "classic"
    with pytest.raises(stripe.InvalidRequestError, match="flexible"):
        shop.client.v1.subscriptions.migrate(made.id, {"billing_mode": {"type": "flexible"}})


def test_months_are_clamped_to_their_last_day(paying):  # noqa: F811
    go(paying, second(2027, 1, 31, 10, 5, 7))
    subscribe(paying, price(paying, "1", metered=True))
    go(paying, second(2027, 4, 1))

    ends = [each.period_end for each in reversed(paying.client.v1.invoices.list().data)]
    assert ends == [second(2027, 2, 28, 10, 5, 7), second(2027, 3, 31, 10, 5, 7)]


def test_cancelling_what_is_paused_bills_nothing_twice(paying):  # noqa: F811
    made = subscribe(paying, price(paying, "1", metered=True))
    paying.send("a", "100", at=NOW)
    go(paying, HALF)
    paying.client.v1.subscriptions.pause(made.id)
    paying.send("paused", "30", at=HALF)
    go(paying, HALF + DAY)
    paying.client.v1.subscriptions.cancel(made.id, {"invoice_now": True})

    [last] = paying.client.v1.invoices.list().data
    assert lines(last) == [(100, NOW, HALF)]


def test_a_subscription_waits_for_one_moment_only(paying, base_price):  # noqa: F811
    made = subscribe(paying, base_price)
    for count in range(20):
        paying.client.v1.subscriptions.update(made.id, {"description": str(count)})
    go(paying, END + 400 * DAY)

    kinds = [kind for _, _, kind, _ in paying.emulator.world.agenda._heap]
    assert kinds.count("subscription") == 1
