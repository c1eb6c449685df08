"""Invoices made by hand: what may be done to them in which status, and what comes of it."""

import json

import pytest
import stripe

from .conftest import NOW
from .test_subscriptions import second, subscribe

pytestmark = pytest.mark.unit
HOUR, DAY = 3600, 86_400
CARD = {"payment_method": "pm_card_visa"}


def refused(call, *args, match=None) -> stripe.StripeError:
    with pytest.raises(stripe.StripeError, match=match) as caught:
        call(*args)
    return caught.value


@pytest.fixture
def invoices(shop):
    return shop.client.v1.invoices


@pytest.fixture
def draft(shop, invoices):
    """Make a draft with one line."""

    def make(amount=700, **params):
        made = invoices.create({"customer": shop.customer.id, **params})
        return invoices.add_lines(made.id, {"lines": [{"amount": amount}]})

    return make


@pytest.fixture
def in_status(draft, invoices):
    """Make an invoice and bring it into a status."""

    def make(status):
        made = draft(collection_method="send_invoice", days_until_due=1)
        moves = {
            "open": [invoices.finalize_invoice],
            "paid": [lambda each: invoices.pay(each, CARD)],
            "void": [invoices.finalize_invoice, invoices.void_invoice],
            "uncollectible": [invoices.finalize_invoice, invoices.mark_uncollectible],
        }
        for move in moves.get(status, []):
            move(made.id)
        return invoices.retrieve(made.id)

    return make


def types(events) -> list[str]:
    return [event["type"] for event in events()]


def test_new_one_is_an_empty_draft_that_stays_one(shop, invoices):
    made = invoices.create({"customer": shop.customer.id})
    shop.emulator.clock.advance(30 * DAY)

    kept = invoices.retrieve(made.id)

    assert (kept.status, kept.billing_reason, kept.auto_advance, kept.total) == (
        "draft",
        "manual",
        False,
        0,
    )
    assert (kept.parent, kept.automatically_finalizes_at, kept.number) == (None, None, None)
    assert kept.currency == "usd"


ACTIONS = {
    "finalize": (lambda c, i: c.finalize_invoice(i), {"draft"}),
    "pay": (lambda c, i: c.pay(i, CARD), {"draft", "open", "uncollectible"}),
    "send": (lambda c, i: c.send_invoice(i), {"draft", "open", "uncollectible", "paid"}),
    "void": (lambda c, i: c.void_invoice(i), {"open", "uncollectible"}),
    "mark_uncollectible": (lambda c, i: c.mark_uncollectible(i), {"open"}),
    "attach_payment": (lambda c, i: c.attach_payment(i, {"payment_intent": "pi_1"}), {"open"}),
    "delete": (lambda c, i: c.delete(i), {"draft"}),
    "describe": (lambda c, i: c.update(i, {"description": "x"}), {"draft"}),
    "add_lines": (lambda c, i: c.add_lines(i, {"lines": [{"amount": 5}]}), {"draft"}),
    "set_metadata": (
        lambda c, i: c.update(i, {"metadata": {"a": "1"}}),
        {"draft", "open", "paid", "void", "uncollectible"},
    ),
}


@pytest.mark.parametrize("status", ["draft", "open", "paid", "void", "uncollectible"])
@pytest.mark.parametrize("action", ACTIONS)
def test_status_decides_what_may_be_done(shop, invoices, in_status, action, status):
    act, allowed = ACTIONS[action]
    made = in_status(status)
    before = len(shop.client.v1.events.list({"limit": 100}).data)

    if status in allowed:
        act(invoices, made.id)
        return
    error = refused(act, invoices, made.id)

    assert (error.http_status, error.error.type) == (400, "invalid_request_error")
    assert invoices.retrieve(made.id) == made
    assert len(shop.client.v1.events.list({"limit": 100}).data) == before


def test_every_status_says_since_when(shop, invoices, draft):
    made = draft()
    shop.emulator.clock.advance(10)
    opened = invoices.finalize_invoice(made.id)
    shop.emulator.clock.advance(10)
    given_up = invoices.mark_uncollectible(made.id)
    shop.emulator.clock.advance(10)
    paid = invoices.pay(made.id, CARD)

    assert (opened.status, given_up.status, paid.status) == ("open", "uncollectible", "paid")
    assert paid.status_transitions.to_dict() == {
        "finalized_at": NOW + 10,
        "marked_uncollectible_at": NOW + 20,
        "paid_at": NOW + 30,
        "voided_at": None,
    }
    assert opened.effective_at == NOW + 10


def test_events_of_a_life(shop, invoices, draft, events):
    shop.emulator.forward("http://app/hook", "whsec_x")
    made = draft()
    invoices.finalize_invoice(made.id)
    invoices.pay(made.id, CARD)

    assert types(events) == [
        "invoice.created",
        "invoiceitem.created",
        "invoice.updated",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_succeeded",
    ]


def test_paying_a_draft_finalizes_it(invoices, draft):
    paid = invoices.pay(draft().id, CARD)

    assert (paid.status, paid.amount_paid, paid.amount_remaining, paid.attempt_count) == (
        "paid",
        700,
        0,
        1,
    )
    assert paid.number == "EMULATOR-000001"


def test_paid_elsewhere_is_paid_without_a_payment(shop, invoices, draft, events):
    made = invoices.finalize_invoice(draft().id)
    shop.emulator.forward("http://app/hook", "whsec_x")
    paid = invoices.pay(made.id, {"paid_out_of_band": True, "expand": ["payments"]})

    assert types(events) == ["invoice.paid"]
    assert (paid.status, paid.amount_paid, paid.amount_paid_off_stripe) == ("paid", 700, 700)
    assert [each.status for each in paid.payments.data] == ["canceled"]


@pytest.mark.parametrize(
    ("method", "off_session", "code", "decline"),
    [
        ("pm_card_visa_chargeDeclined", True, "card_declined", "generic_decline"),
        ("pm_card_chargeDeclinedExpiredCard", True, "expired_card", "expired_card"),
        (
            "pm_card_authenticationRequired",
            True,
            "authentication_required",
            "authentication_required",
        ),
        (
            "pm_card_authenticationRequired",
            False,
            "invoice_payment_intent_requires_action",
            None,
        ),
    ],
)
def test_refused_payment_leaves_it_open_and_counts_once(
    shop, invoices, draft, events, method, off_session, code, decline
):
    made = invoices.finalize_invoice(draft().id)
    shop.emulator.forward("http://app/hook", "whsec_x")
    asked = {"payment_method": method, "off_session": off_session}
    error = refused(invoices.pay, made.id, asked)
    told = types(events)
    refused(invoices.pay, made.id, asked)

    kept = invoices.retrieve(made.id)
    assert isinstance(error, stripe.CardError)
    assert (error.http_status, error.code) == (402, code)
    assert error.json_body["error"].get("decline_code") == decline
    assert (kept.status, kept.attempted, kept.attempt_count, kept.amount_remaining) == (
        "open",
        True,
        1,
        700,
    )
    action = ["invoice.payment_action_required"] if "uthentication" in method else []
    assert told == ["invoice.payment_failed", *action]


def test_off_session_is_the_default(invoices, draft):
    error = refused(invoices.pay, draft().id, {"payment_method": "pm_card_authenticationRequired"})

    assert error.code == "authentication_required"


def test_nobody_pays_without_a_payment_method(invoices, draft):
    made = invoices.finalize_invoice(draft().id)

    error = refused(invoices.pay, made.id, match="no attached payment source")

    assert (error.http_status, error.code) == (400, "resource_missing")
    assert invoices.retrieve(made.id).attempted is False


@pytest.mark.parametrize("place", ["invoice", "customer"])
def test_default_payment_method_pays(shop, invoices, draft, place):
    declined = "pm_card_chargeDeclined"
    if place == "invoice":
        made = draft(default_payment_method=declined)
    else:
        shop.client.v1.customers.update(
            shop.customer.id, {"invoice_settings": {"default_payment_method": declined}}
        )
        made = draft()

    assert refused(invoices.pay, made.id).http_status == 402
    assert invoices.pay(made.id, CARD).status == "paid"


def test_key_of_a_refused_payment_replays_the_refusal(invoices, draft):
    made = invoices.finalize_invoice(draft().id)
    asked, key = {"payment_method": "pm_card_chargeDeclined"}, {"idempotency_key": "k"}
    first, again = (
        refused(invoices.pay, made.id, asked, key),
        refused(invoices.pay, made.id, asked, key),
    )

    assert (first.http_status, again.http_status) == (402, 402)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert invoices.retrieve(made.id).attempt_count == 1


def test_payments_and_secret_appear_only_when_expanded(invoices, draft):
    opened = invoices.finalize_invoice(draft().id)
    shown = invoices.retrieve(opened.id, {"expand": ["payments", "confirmation_secret"]})

    assert not {"payments", "confirmation_secret"} & opened.to_dict().keys()
    [payment] = shown.payments.data
    assert (payment.status, payment.is_default, payment.amount_requested) == ("open", True, 700)
    assert shown.confirmation_secret.client_secret.startswith(payment.payment.payment_intent)


def test_attached_payment_record_pays_and_an_intent_waits(invoices, draft):
    made = invoices.finalize_invoice(draft().id)
    expand = {"expand": ["payments"]}
    waiting = invoices.attach_payment(made.id, {"payment_intent": "pi_1", **expand})
    paid = invoices.attach_payment(made.id, {"payment_record": "payrec_1", **expand})

    assert [each.status for each in waiting.payments.data] == ["open", "open"]
    assert (waiting.status, paid.status, paid.amount_paid_off_stripe) == ("open", "paid", 700)
    assert [each.status for each in paid.payments.data] == ["canceled", "canceled", "paid"]


@pytest.mark.parametrize("asked", [{}, {"payment_intent": "pi_1", "payment_record": "payrec_1"}])
def test_one_payment_is_attached_at_a_time(invoices, draft, asked):
    made = invoices.finalize_invoice(draft().id)

    refused(invoices.attach_payment, made.id, asked, match="not both")


def test_automatic_one_is_finalized_and_collected_after_an_hour(shop, invoices, draft):
    made = draft(auto_advance=True)
    shop.client.v1.customers.update(
        shop.customer.id, {"invoice_settings": {"default_payment_method": "pm_card_visa"}}
    )
    shop.emulator.clock.advance(HOUR - 1)
    before = invoices.retrieve(made.id).status
    shop.emulator.clock.advance(1)

    after = invoices.retrieve(made.id)
    assert (made.automatically_finalizes_at, before) == (NOW + HOUR, "draft")
    assert (after.status, after.automatically_finalizes_at) == ("paid", None)


@pytest.mark.parametrize(("advances", "status"), [(True, "paid"), (False, "open")])
def test_finalizing_by_hand_collects_only_what_advances(shop, invoices, draft, advances, status):
    shop.client.v1.customers.update(
        shop.customer.id, {"invoice_settings": {"default_payment_method": "pm_card_visa"}}
    )
    made = draft(auto_advance=not advances)

    assert invoices.finalize_invoice(made.id, {"auto_advance": advances}).status == status


def test_draft_that_is_paid_is_charged_once_and_as_asked(shop, invoices, draft):
    shop.client.v1.customers.update(
        shop.customer.id, {"invoice_settings": {"default_payment_method": "pm_card_visa"}}
    )
    made = draft(auto_advance=True)

    refused(invoices.pay, made.id, {"payment_method": "pm_card_chargeDeclined"})

    kept = invoices.retrieve(made.id)
    assert (kept.status, kept.attempt_count) == ("open", 1)


def test_finalization_can_be_put_off_and_stopped(shop, invoices, draft):
    late, never = draft(auto_advance=True), draft(auto_advance=True)
    invoices.update(late.id, {"automatically_finalizes_at": NOW + DAY})
    stopped = invoices.update(never.id, {"auto_advance": False})
    shop.emulator.clock.advance(DAY - 1)
    before = [invoices.retrieve(each.id).status for each in (late, never)]
    shop.emulator.clock.advance(1)

    after = [invoices.retrieve(each.id).status for each in (late, never)]
    assert stopped.automatically_finalizes_at is None
    assert (before, after) == (["draft", "draft"], ["open", "draft"])


def test_period_stays_billable_while_its_draft_is_put_off(shop, invoices, metered_price):
    subscribe(shop, metered_price)
    end = second(2026, 12, 23, 12)
    shop.emulator.clock.set(end, frozen=True)
    [made] = invoices.list().data
    invoices.update(made.id, {"automatically_finalizes_at": end + 2 * DAY})
    shop.emulator.clock.set(end + DAY, frozen=True)
    shop.send("late", "20000", at=end - 1)
    shop.emulator.clock.set(end + 2 * DAY, frozen=True)

    after = invoices.retrieve(made.id)
    assert (made.total, after.status, after.total) == (0, "open", 80)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"automatically_finalizes_at": NOW + 10}, "automatically_finalizes_at"),
        (
            {"auto_advance": True, "automatically_finalizes_at": NOW},
            "automatically_finalizes_at",
        ),
        (
            {"auto_advance": True, "automatically_finalizes_at": second(2031, 11, 23, 12) + 1},
            "automatically_finalizes_at",
        ),
        ({"days_until_due": 3}, "days_until_due"),
        ({"collection_method": "send_invoice"}, "days_until_due"),
        (
            {"collection_method": "send_invoice", "days_until_due": 3, "due_date": NOW + 10},
            "due_date",
        ),
        ({"collection_method": "send_invoice", "due_date": NOW - 1}, "due_date"),
        ({"from_invoice": {"action": "revision", "invoice": "in_1"}}, "from_invoice"),
        ({"subscription": "sub_nothing"}, "subscription"),
        ({"customer": "cus_nothing"}, "customer"),
    ],
)
def test_wrong_creation_makes_nothing(shop, invoices, asked, param):
    error = refused(invoices.create, {"customer": shop.customer.id, **asked})

    assert (error.http_status, error.param) == (400, param)
    assert invoices.list().data == []


def test_five_years_ahead_is_the_furthest(shop, invoices):
    made = invoices.create(
        {
            "customer": shop.customer.id,
            "auto_advance": True,
            "automatically_finalizes_at": second(2031, 11, 23, 12),
        }
    )

    assert made.automatically_finalizes_at == second(2031, 11, 23, 12)


def test_draft_takes_every_change_and_tells_of_it(shop, invoices, draft, events):
    made = draft()
    shop.emulator.forward("http://app/hook", "whsec_x")
    changed = invoices.update(
        made.id,
        {
            "collection_method": "send_invoice",
            "days_until_due": 7,
            "description": "Work",
            "footer": "Thanks",
            "metadata": {"a": "1"},
        },
    )
    [told] = events()

    assert (changed.due_date, changed.description, changed.footer) == (
        NOW + 7 * DAY,
        "Work",
        "Thanks",
    )
    assert told["type"] == "invoice.updated"
    assert told["data"]["previous_attributes"] == {
        "collection_method": "charge_automatically",
        "description": None,
        "due_date": None,
        "footer": None,
        "metadata": {},
    }
    assert invoices.update(made.id, {"description": ""}).description is None
    assert invoices.update(made.id, {"collection_method": "charge_automatically"}).due_date is None


def test_finalized_one_keeps_its_money(invoices, draft):
    made = invoices.finalize_invoice(draft().id)

    error = refused(
        invoices.update, made.id, {"metadata": {"a": "1"}, "collection_method": "send_invoice"}
    )

    assert error.code == "invoice_not_editable"
    assert invoices.retrieve(made.id).metadata.to_dict() == {}
    assert invoices.update(made.id, {"auto_advance": True}).auto_advance is True


def test_only_sent_invoices_are_sent(shop, invoices, draft, events):
    charged = draft()
    sent = draft(collection_method="send_invoice", days_until_due=1)
    shop.emulator.forward("http://app/hook", "whsec_x")
    refused(invoices.send_invoice, charged.id, match="collection method")
    opened = invoices.send_invoice(sent.id)

    assert (opened.status, opened.due_date) == ("open", NOW + DAY)
    assert types(events) == ["invoice.finalized", "invoice.sent"]
    assert invoices.retrieve(charged.id).status == "draft"


def test_deleted_draft_is_gone_and_its_items_wait_again(shop, invoices, draft):
    made = draft()

    gone = invoices.delete(made.id)

    assert json.loads(gone.last_response.body) == {
        "id": made.id,
        "object": "invoice",
        "deleted": True,
    }
    assert refused(invoices.retrieve, made.id).http_status == 404
    [item] = shop.client.v1.invoice_items.list().data
    assert (item.invoice, item.amount) == (None, 700)


def test_draft_of_a_subscription_is_not_deleted(shop, invoices, base_price):
    made = subscribe(shop, base_price, collection_method="send_invoice", days_until_due=14)

    refused(invoices.delete, made.latest_invoice, match="created by subscriptions")

    assert invoices.retrieve(made.latest_invoice).status == "draft"


def test_one_customer_has_one_currency(shop, invoices, draft):
    draft(currency="EUR")

    assert shop.client.v1.customers.retrieve(shop.customer.id).currency == "eur"
    refused(
        invoices.create,
        {"customer": shop.customer.id, "currency": "usd"},
        match="cannot combine currencies",
    )


def test_list_filters_by_due_date(invoices, draft):
    draft()
    due = draft(collection_method="send_invoice", days_until_due=2)

    page = invoices.list({"due_date": {"gte": NOW + DAY}})

    assert [each.id for each in page.data] == [due.id]


def test_search_finds_invoices_and_subscriptions(shop, invoices, draft, metered_price, base_price):
    made = subscribe(shop, base_price, payment_behavior="default_incomplete")
    other = subscribe(shop, metered_price, metadata={"team": "blue"})
    by_hand = draft(metadata={"team": "red"})

    def found(service, query):
        return [each.id for each in service.search({"query": query}).data]

    assert found(invoices, f"subscription:'{made.id}'") == [made.latest_invoice]
    assert found(invoices, "metadata['team']:'red' AND status:'draft'") == [by_hand.id]
    assert found(invoices, "total>1000") == [made.latest_invoice]
    subscriptions = shop.client.v1.subscriptions
    assert found(subscriptions, "metadata['team']:'blue'") == [other.id]
    assert found(subscriptions, "status:'incomplete'") == [made.id]
    [shown] = subscriptions.search({"query": "status:'active'"}).data
    assert shown["items"].data[0].price.id == metered_price.id


def test_invoice_lives_on_its_customers_clock(shop, invoices):
    clock = shop.client.v1.test_helpers.test_clocks.create({"frozen_time": NOW + DAY})
    customer = shop.client.v1.customers.create({"test_clock": clock.id})
    made = invoices.create({"customer": customer.id, "auto_advance": True})
    invoices.add_lines(made.id, {"lines": [{"amount": 900}]})
    shop.emulator.clock.advance(2 * HOUR)
    before = invoices.retrieve(made.id).status
    shop.client.v1.test_helpers.test_clocks.advance(clock.id, {"frozen_time": NOW + DAY + 2 * HOUR})

    after = invoices.retrieve(made.id)
    assert (made.created, made.test_clock, before) == (NOW + DAY, clock.id, "draft")
    assert (after.status, after.status_transitions.finalized_at) == ("open", NOW + DAY + HOUR)
