"""Payments: what each card does to first invoices, renewals and changes, and who is told."""

import pytest
import stripe

from .conftest import NOW
from .test_subscriptions import second, subscribe

pytestmark = pytest.mark.unit
HOUR, DAY = 3600, 86_400
END = second(2026, 12, 23, 12)
FINAL = END + HOUR
DECLINED = "pm_card_chargeDeclinedInsufficientFunds"
ASKS = "pm_card_authenticationRequired"


def card(shop, name: str) -> None:
    shop.client.v1.customers.update(
        shop.customer.id, {"invoice_settings": {"default_payment_method": name}}
    )


def go(shop, moment: int) -> None:
    """Move the clock, and let what fell due be done before anything else."""
    shop.emulator.clock.set(moment, frozen=True)
    shop.client.v1.customers.retrieve(shop.customer.id)


def status(shop, made) -> str:
    return shop.client.v1.subscriptions.retrieve(made.id).status


@pytest.fixture
def failing(shop, base_price):
    """A subscription whose renewal nobody pays."""
    card(shop, "pm_card_visa")
    made = subscribe(shop, base_price)
    card(shop, DECLINED)
    return made


def test_a_declined_first_payment_leaves_it_incomplete(shop, base_price, events):
    shop.emulator.forward("http://app/hook", "whsec_x")
    card(shop, DECLINED)
    events()
    made = subscribe(shop, base_price, expand=["latest_invoice"])
    invoice = made.latest_invoice

    assert (made.status, invoice.status, invoice.attempt_count, invoice.next_payment_attempt) == (
        "incomplete",
        "open",
        1,
        None,
    )
    assert [event["type"] for event in events()] == [
        "invoice.created",
        "invoice.finalized",
        "invoice.payment_failed",
        "customer.subscription.created",
    ]


def test_authentication_of_a_first_payment_is_asked_for(shop, base_price, events):
    shop.emulator.forward("http://app/hook", "whsec_x")
    card(shop, ASKS)
    events()
    made = subscribe(shop, base_price)

    assert made.status == "incomplete"
    assert [event["type"] for event in events()][2:4] == [
        "invoice.payment_failed",
        "invoice.payment_action_required",
    ]


@pytest.mark.parametrize(
    ("name", "code"),
    [(DECLINED, "card_declined"), (ASKS, "invoice_payment_intent_requires_action")],
)
def test_error_if_incomplete_leaves_nothing_behind(shop, base_price, name, code):
    card(shop, name)

    with pytest.raises(stripe.CardError) as caught:
        subscribe(shop, base_price, payment_behavior="error_if_incomplete")

    assert (caught.value.http_status, caught.value.code) == (402, code)
    assert shop.client.v1.subscriptions.list({"status": "all"}).data == []
    assert shop.client.v1.invoices.list().data == []


def test_an_incomplete_one_expires_and_its_invoice_is_void(shop, base_price):
    card(shop, DECLINED)
    made = subscribe(shop, base_price)
    go(shop, NOW + 23 * HOUR)

    assert status(shop, made) == "incomplete_expired"
    assert [each.status for each in shop.client.v1.invoices.list().data] == ["void"]


def test_a_failed_renewal_is_repeated_and_then_the_subscription_is_canceled(shop, failing, events):
    shop.emulator.settings.change(payment_retry_days=[2, 5])
    go(shop, FINAL)
    shop.emulator.forward("http://app/hook", "whsec_x")
    [invoice, _] = shop.client.v1.invoices.list().data
    tried = []
    for days in (0, 2, 5):
        go(shop, FINAL + days * DAY)
        now = shop.client.v1.invoices.retrieve(invoice.id)
        tried.append((now.attempt_count, now.next_payment_attempt, status(shop, failing)))

    assert tried == [
        (1, FINAL + 2 * DAY, "past_due"),
        (2, FINAL + 5 * DAY, "past_due"),
        (3, None, "canceled"),
    ]
    gone = shop.client.v1.subscriptions.retrieve(failing.id)
    assert (gone.cancellation_details.reason, gone.ended_at) == ("payment_failed", FINAL + 5 * DAY)
    assert [event["type"] for event in events()] == [
        "invoice.payment_failed",
        "invoice.payment_failed",
        "customer.subscription.deleted",
    ]


@pytest.mark.parametrize("choice", ["unpaid", "past_due"])
def test_after_the_last_repeat_the_setting_decides(shop, failing, choice):
    shop.emulator.settings.change(after_last_retry=choice, payment_retry_days=[1])
    go(shop, FINAL + DAY)
    after = status(shop, failing)
    go(shop, second(2027, 1, 23, 12) + 2 * HOUR)
    latest = shop.client.v1.invoices.list().data[0]

    assert after == choice
    held = choice == "unpaid"
    assert (latest.status, latest.auto_advance) == ("draft" if held else "open", not held)


def test_a_repeat_with_another_card_makes_it_active_again(shop, failing, events):
    go(shop, FINAL)
    card(shop, "pm_card_visa")
    shop.emulator.forward("http://app/hook", "whsec_x")
    go(shop, FINAL + DAY)

    assert status(shop, failing) == "active"
    assert [event["type"] for event in events()] == [
        "invoice.paid",
        "invoice.payment_succeeded",
        "customer.subscription.updated",
    ]


def test_a_renewal_that_needs_its_owner_says_so(shop, failing, events):
    card(shop, ASKS)
    go(shop, END)
    shop.emulator.forward("http://app/hook", "whsec_x")
    go(shop, FINAL)

    assert [event["type"] for event in events()][:3] == [
        "invoice.finalized",
        "invoice.payment_failed",
        "invoice.payment_action_required",
    ]


def test_a_small_amount_is_carried_to_the_next_invoice(shop, metered_price):
    card(shop, "pm_card_visa")
    subscribe(shop, metered_price)
    shop.send("a", "11500", at=NOW)
    go(shop, FINAL)
    [small] = shop.client.v1.invoices.list().data
    owed = shop.client.v1.customers.retrieve(shop.customer.id).balance
    shop.send("b", "3000", at=FINAL)
    go(shop, second(2027, 1, 23, 13))
    [next_, _] = shop.client.v1.invoices.list().data

    assert (small.status, small.total, small.amount_due, small.ending_balance) == (
        "paid",
        48,
        0,
        48,
    )
    assert owed == 48
    assert (next_.total, next_.amount_due, next_.amount_paid, next_.ending_balance) == (
        12,
        60,
        60,
        0,
    )


def test_an_invoice_that_is_sent_is_overdue_at_its_date(shop, base_price):
    made = subscribe(shop, base_price, collection_method="send_invoice", days_until_due=14)
    go(shop, NOW + 14 * DAY - 1)
    before = status(shop, made)
    go(shop, NOW + 14 * DAY)

    assert (before, status(shop, made)) == ("active", "past_due")
    assert [each.attempt_count for each in shop.client.v1.invoices.list().data] == [0]


@pytest.mark.parametrize(
    ("behavior", "state", "charged", "attempted"),
    [
        ("keep_as_draft", "draft", 0, False),
        ("void", "void", 0, False),
        ("mark_uncollectible", "uncollectible", 0, False),
    ],
)
def test_paused_collection_goes_on_making_invoices(
    shop, base_price, behavior, state, charged, attempted
):
    card(shop, "pm_card_visa")
    made = subscribe(shop, base_price)
    shop.client.v1.subscriptions.update(made.id, {"pause_collection": {"behavior": behavior}})
    go(shop, FINAL)
    [invoice, _] = shop.client.v1.invoices.list().data

    assert (invoice.status, invoice.amount_paid, invoice.attempted) == (state, charged, attempted)
    assert status(shop, made) == "active"


def test_collection_goes_on_by_itself_when_it_is_told_to(shop, base_price):
    card(shop, "pm_card_visa")
    made = subscribe(shop, base_price)
    shop.client.v1.subscriptions.update(
        made.id, {"pause_collection": {"behavior": "void", "resumes_at": NOW + DAY}}
    )
    go(shop, NOW + DAY)

    assert shop.client.v1.subscriptions.retrieve(made.id).pause_collection is None
    go(shop, FINAL)
    assert shop.client.v1.invoices.list().data[0].status == "paid"


@pytest.mark.parametrize(("days", "announced"), [(3, [END - 3 * DAY]), (0, [])])
def test_the_next_invoice_is_announced(shop, metered_price, events, days, announced):
    shop.emulator.settings.change(upcoming_invoice_days=days)
    subscribe(shop, metered_price)
    shop.send("a", "4000", at=NOW)
    shop.emulator.forward("http://app/hook", "whsec_x")
    go(shop, END - 1)
    told = [event for event in events() if event["type"] == "invoice.upcoming"]

    assert [event["created"] for event in told] == announced
    assert [event["data"]["object"]["total"] for event in told] == [16] * len(announced)
    assert shop.client.v1.invoices.list().data == []


@pytest.mark.parametrize("paid", [True, False])
def test_a_change_waits_for_its_payment(shop, base_price, paid):
    card(shop, "pm_card_visa")
    made = subscribe(shop, base_price)
    item = made["items"].data[0].id
    card(shop, DECLINED)
    held = shop.client.v1.subscriptions.update(
        made.id,
        {
            "items": [{"id": item, "quantity": 3}],
            "payment_behavior": "pending_if_incomplete",
            "proration_behavior": "always_invoice",
            "expand": ["latest_invoice"],
        },
    )
    if paid:
        shop.client.v1.invoices.pay(held.latest_invoice.id, {"payment_method": "pm_card_visa"})
    go(shop, NOW + 23 * HOUR)
    after = shop.client.v1.subscriptions.retrieve(made.id, {"expand": ["latest_invoice"]})

    assert (held.status, held["items"].data[0].quantity, held.pending_update.expires_at) == (
        "active",
        1,
        NOW + 23 * HOUR,
    )
    assert (after.status, after["items"].data[0].quantity, after.pending_update) == (
        "active",
        3 if paid else 1,
        None,
    )
    assert after.latest_invoice.status == ("paid" if paid else "void")


def test_a_change_that_cannot_be_paid_is_refused_whole(shop, base_price):
    card(shop, "pm_card_visa")
    made = subscribe(shop, base_price)
    card(shop, DECLINED)

    with pytest.raises(stripe.CardError):
        shop.client.v1.subscriptions.update(
            made.id,
            {
                "items": [{"id": made["items"].data[0].id, "quantity": 3}],
                "payment_behavior": "error_if_incomplete",
                "proration_behavior": "always_invoice",
                "metadata": {"a": "b"},
            },
        )

    after = shop.client.v1.subscriptions.retrieve(made.id)
    assert (after["items"].data[0].quantity, after.metadata.to_dict()) == (1, {})
    assert len(shop.client.v1.invoices.list().data) == 1
    assert shop.client.v1.invoice_items.list().data == []


def test_a_change_waits_no_longer_than_its_period(shop, base_price):
    card(shop, "pm_card_visa")
    made = subscribe(shop, base_price)
    go(shop, END - HOUR)
    card(shop, DECLINED)
    held = shop.client.v1.subscriptions.update(
        made.id,
        {
            "items": [{"id": made["items"].data[0].id, "quantity": 300}],
            "payment_behavior": "pending_if_incomplete",
            "proration_behavior": "always_invoice",
        },
    )
    go(shop, END + HOUR)
    [cycle, change, _] = shop.client.v1.invoices.list().data

    assert held.pending_update.expires_at == END
    assert (change.status, cycle.total) == ("void", 2000)


def test_a_newer_change_takes_the_place_of_one_that_waits(shop, base_price):
    card(shop, "pm_card_visa")
    made = subscribe(shop, base_price)
    item = made["items"].data[0].id
    card(shop, DECLINED)
    waiting = {"payment_behavior": "pending_if_incomplete", "proration_behavior": "always_invoice"}
    shop.client.v1.subscriptions.update(
        made.id, {"items": [{"id": item, "quantity": 3}], **waiting}
    )
    shop.client.v1.subscriptions.update(
        made.id, {"items": [{"id": item, "quantity": 2}], "proration_behavior": "none"}
    )
    after = shop.client.v1.subscriptions.retrieve(made.id)

    assert (after["items"].data[0].quantity, after.pending_update) == (2, None)
    assert shop.client.v1.invoices.list().data[0].status == "void"


def test_one_paid_invoice_of_two_leaves_it_past_due(shop, failing):
    shop.emulator.settings.change(payment_retry_days=[], after_last_retry="past_due")
    go(shop, second(2027, 1, 23, 13))
    newest, older, _ = shop.client.v1.invoices.list().data
    shop.client.v1.invoices.pay(newest.id, {"payment_method": "pm_card_visa"})
    one = status(shop, failing)
    shop.client.v1.invoices.pay(older.id, {"payment_method": "pm_card_visa"})

    assert (one, status(shop, failing)) == ("past_due", "active")
