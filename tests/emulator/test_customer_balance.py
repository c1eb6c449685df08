"""What invoices leave on a customer's balance, and take from it."""

import pytest

from .conftest import NOW
from .test_invoices import CARD
from .test_subscriptions import second, subscribe

pytestmark = pytest.mark.unit


@pytest.fixture
def invoices(shop):
    return shop.client.v1.invoices


@pytest.fixture
def billed(shop, invoices):
    """Finalize an invoice over an amount, against a balance if one is given."""

    def make(amount, balance=None):
        if balance is not None:
            shop.client.v1.customers.update(shop.customer.id, {"balance": balance})
        made = invoices.create({"customer": shop.customer.id})
        if amount:
            invoices.add_lines(made.id, {"lines": [{"amount": amount}]})
        return invoices.finalize_invoice(made.id)

    return make


def balance(shop) -> int:
    return shop.client.v1.customers.retrieve(shop.customer.id).balance


@pytest.mark.parametrize(
    ("amount", "before", "due", "after", "status"),
    [
        (1000, 0, 1000, 0, "open"),
        (1000, -300, 700, 0, "open"),
        (1000, -1000, 0, 0, "paid"),
        (1000, -1300, 0, -300, "paid"),
        (1000, 300, 1300, 0, "open"),
        (0, -300, 0, -300, "paid"),
        (0, 300, 300, 0, "open"),
        (-400, 0, 0, -400, "paid"),
        (-400, 1000, 600, 0, "open"),
        (50, 0, 50, 0, "open"),
        (49, 0, 0, 49, "paid"),
        (49, 1, 50, 0, "open"),
        (100, -51, 0, 49, "paid"),
        (1, 0, 0, 1, "paid"),
    ],
)
def test_what_is_due_and_what_stays(shop, billed, amount, before, due, after, status):
    made = billed(amount, before)

    assert (made.total, made.amount_due, made.amount_remaining, made.status) == (
        amount,
        due,
        due if status == "open" else 0,
        status,
    )
    assert (made.starting_balance, made.ending_balance) == (before, after)
    assert balance(shop) == after


def test_draft_shows_what_it_would_come_to(shop, invoices):
    shop.client.v1.customers.update(shop.customer.id, {"balance": -300})
    made = invoices.create({"customer": shop.customer.id})
    draft = invoices.add_lines(made.id, {"lines": [{"amount": 1000}]})

    assert (draft.starting_balance, draft.ending_balance, draft.amount_due) == (-300, None, 700)
    assert balance(shop) == -300


def test_small_amounts_are_carried_until_they_can_be_charged(shop, billed):
    made = [billed(20) for _ in range(4)]

    assert [(each.amount_due, each.status) for each in made] == [
        (0, "paid"),
        (0, "paid"),
        (60, "open"),
        (0, "paid"),
    ]
    assert balance(shop) == 20


def test_small_usage_never_produces_a_payment_of_its_own(shop, invoices, metered_price, events):
    subscription = subscribe(shop, metered_price)
    shop.send("a", "1000")
    shop.emulator.forward("http://app/hook", "whsec_x")
    shop.emulator.clock.set(second(2026, 12, 23, 12), frozen=True)
    told = events()
    shop.emulator.clock.set(second(2026, 12, 23, 13), frozen=True)
    [small] = invoices.list().data
    told = [event["type"] for event in told + events()]
    shop.send("b", "20000", at=second(2026, 12, 23, 13))
    shop.emulator.clock.set(second(2027, 1, 23, 12), frozen=True)
    events()
    shop.emulator.clock.set(second(2027, 1, 23, 13), frozen=True)
    following = invoices.list().data[0]

    assert (small.total, small.amount_due, small.status, small.attempt_count) == (4, 0, "paid", 0)
    assert (following.total, following.starting_balance, following.amount_due) == (80, 4, 84)
    assert told == [
        "invoice.upcoming",
        "customer.subscription.updated",
        "invoice.created",
        "customer.updated",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_succeeded",
    ]
    assert shop.client.v1.subscriptions.retrieve(subscription.id).status == "past_due"


def test_change_of_the_balance_is_told(shop, billed, events):
    shop.emulator.forward("http://app/hook", "whsec_x")
    billed(1000, -300)
    told = [event for event in events() if event["type"] == "customer.updated"]

    assert [event["data"]["previous_attributes"] for event in told[-1:]] == [{"balance": -300}]
    assert told[-1]["data"]["object"]["balance"] == 0


@pytest.mark.parametrize("before", [-300, 0, 300])
def test_voided_invoice_gives_the_balance_back(shop, invoices, billed, before):
    made = billed(1000, before)
    applied = balance(shop)
    invoices.void_invoice(made.id)

    assert (applied, balance(shop)) == (0, before)


def test_balance_that_moved_since_keeps_its_moves_when_an_invoice_is_voided(shop, invoices, billed):
    made = billed(1000, -300)
    shop.client.v1.customers.update(shop.customer.id, {"balance": -50})
    invoices.void_invoice(made.id)

    assert balance(shop) == -350


def test_paid_invoice_leaves_the_balance_alone(shop, invoices, billed):
    made = billed(1000, -300)
    paid = invoices.pay(made.id, CARD)

    assert (paid.amount_paid, balance(shop)) == (700, 0)


def test_invoice_of_a_deleted_customer_is_finalized_without_a_balance(shop, invoices):
    made = invoices.create({"customer": shop.customer.id, "auto_advance": True})
    invoices.add_lines(made.id, {"lines": [{"amount": 20}]})
    shop.client.v1.customers.delete(shop.customer.id)
    shop.emulator.clock.advance(3600)

    after = invoices.retrieve(made.id)
    assert (after.status, after.status_transitions.finalized_at) == ("paid", NOW + 3600)
