"""Checkout sessions: what they take, how a person completes one, and how they end."""

import pytest
import stripe

from stripe_emulator.core.billing.checkout_completion import CannotCompleteError

from .conftest import NOW
from .test_judge import control
from .test_setup_intents import fields

pytestmark = pytest.mark.unit
DAY = 86_400
ASKS = "pm_card_authenticationRequired"
DECLINED = "pm_card_visa_chargeDeclined"
PAGES = {"success_url": "https://app.example/done", "cancel_url": "https://app.example/plans"}


@pytest.fixture
def sessions(shop):
    return shop.client.v1.checkout.sessions


@pytest.fixture
def sell(sessions):
    """Make a session in subscription mode; metered prices go without a quantity."""

    def make(*prices, **params):
        lines = [
            {"price": price.id}
            if price.recurring.usage_type == "metered"
            else {"price": price.id, "quantity": 1}
            for price in prices
        ]
        return sessions.create({"mode": "subscription", "line_items": lines, **PAGES, **params})

    return make


def subscriptions(shop):
    return shop.client.v1.subscriptions.list({"status": "all"}).data


def test_session_waits_open_for_a_day(sell, base_price, metered_price, shop):
    made = sell(base_price, metered_price, client_reference_id="user-7")

    assert (made.status, made.payment_status, made.mode) == ("open", "unpaid", "subscription")
    assert (made.amount_total, made.currency, made.expires_at) == (2000, "usd", NOW + DAY)
    assert made.url.endswith(f"/pay/{made.id}")
    assert (made.client_reference_id, made.customer, made.subscription) == ("user-7", None, None)
    assert "line_items" not in made.to_dict()
    assert subscriptions(shop) == []


@pytest.mark.contract
def test_session_has_the_fields_of_its_class(sell, base_price):
    made = sell(base_price, allowed_payment_method_types=["card"], expand=["line_items"])

    assert set(made.to_dict()) == fields(stripe.checkout.Session)
    assert made.payment_method_types == ["card"]


def test_lines_are_listed_with_their_prices(sell, sessions, base_price, metered_price):
    made = sell(base_price, metered_price, expand=["line_items"])

    lines = sessions.line_items.list(made.id).data
    assert [
        (line.price.id, line.quantity, line.amount_total, line.description) for line in lines
    ] == [(base_price.id, 1, 2000, "Base"), (metered_price.id, None, 0, "Tokens")]
    assert [line.id for line in made.line_items.data] == [line.id for line in lines]
    after = sessions.line_items.list(made.id, {"starting_after": lines[0].id})
    assert [line.id for line in after.data] == [lines[1].id]


def test_completion_makes_customer_subscription_and_payment(sell, base_price, shop, events):
    made = sell(
        base_price,
        metadata={"where": "session"},
        subscription_data={"metadata": {"where": "subscription"}},
    )
    shop.emulator.forward("http://app/hook", "whsec_x")

    shop.emulator.complete_checkout(made.id, "pm_card_visa", email="new@example.com")

    [subscription] = subscriptions(shop)
    now = shop.client.v1.checkout.sessions.retrieve(made.id, {"expand": ["invoice", "customer"]})
    assert (now.status, now.payment_status, now.url) == ("complete", "paid", None)
    assert (now.subscription, now.metadata["where"]) == (subscription.id, "session")
    assert (now.customer.email, now.customer_details.email) == ("new@example.com",) * 2
    assert (now.invoice.status, now.invoice.amount_paid) == ("paid", 2000)
    assert (subscription.status, subscription.customer) == ("active", now.customer.id)
    assert subscription.default_payment_method == "pm_card_visa"
    assert subscription.metadata["where"] == "subscription"
    assert [event["type"] for event in events()] == [
        "customer.created",
        "invoice.created",
        "invoice.finalized",
        "customer.subscription.created",
        "invoice.paid",
        "invoice.payment_succeeded",
        "customer.subscription.updated",
        "checkout.session.completed",
    ]


def test_metered_only_collects_a_card_and_charges_nothing(sell, metered_price, shop):
    made = sell(metered_price, customer=shop.customer.id)
    shop.emulator.complete_checkout(made.id, "pm_card_visa")

    [subscription] = subscriptions(shop)
    now = shop.client.v1.checkout.sessions.retrieve(made.id)
    assert (made.amount_total, made.payment_status) == (0, "no_payment_required")
    assert (now.payment_status, now.invoice, now.customer) == (
        "no_payment_required",
        None,
        shop.customer.id,
    )
    assert (subscription.status, subscription.latest_invoice) == ("active", None)
    assert subscription.default_payment_method == "pm_card_visa"
    assert subscription.pending_setup_intent is None


@pytest.mark.parametrize(
    ("card", "ends"), [("pm_card_visa", "active"), ("pm_card_chargeCustomerFail", "incomplete")]
)
def test_what_waited_for_an_invoice_is_charged_with_the_new_card(
    sell, metered_price, shop, card, ends
):
    shop.client.v1.invoice_items.create(
        {"customer": shop.customer.id, "amount": 500, "currency": "usd"}
    )
    made = sell(metered_price, customer=shop.customer.id)

    shop.emulator.complete_checkout(made.id, card)

    [subscription] = subscriptions(shop)
    invoice = shop.client.v1.invoices.retrieve(subscription.latest_invoice)
    assert (subscription.status, invoice.amount_due) == (ends, 500)
    assert invoice.status == ("paid" if ends == "active" else "open")


def test_trial_owes_nothing_today(sell, base_price, shop):
    made = sell(
        base_price,
        customer=shop.customer.id,
        subscription_data={"trial_period_days": 14, "billing_mode": {"type": "classic"}},
    )
    shop.emulator.complete_checkout(made.id)

    [subscription] = subscriptions(shop)
    assert (made.amount_total, subscription.status) == (0, "trialing")
    assert subscription.trial_end == NOW + 14 * DAY
    assert subscription.billing_mode.type == "classic"


@pytest.mark.parametrize("what", ["base_price", "metered_price"])
def test_declined_card_makes_nothing_and_another_pays(sell, shop, request, events, what):
    made = sell(request.getfixturevalue(what))
    shop.emulator.forward("http://app/hook", "whsec_x")

    told = shop.emulator.complete_checkout(made.id, DECLINED, email="new@example.com")

    assert (told["status"], told["error"]["code"]) == ("requires_payment_method", "card_declined")
    assert shop.client.v1.checkout.sessions.retrieve(made.id).status == "open"
    assert (subscriptions(shop), len(shop.client.v1.customers.list().data)) == ([], 1)
    assert events() == []

    shop.emulator.complete_checkout(made.id, email="new@example.com")
    assert [each.status for each in subscriptions(shop)] == ["active"]


@pytest.mark.parametrize("what", ["base_price", "metered_price"])
def test_bank_is_asked_before_anything_is_made(sell, shop, request, what):
    made = sell(request.getfixturevalue(what), customer=shop.customer.id)

    asked = shop.emulator.complete_checkout(made.id, ASKS)
    refused = shop.emulator.complete_checkout(made.id, ASKS, authenticated=False)
    before = subscriptions(shop)
    approved = shop.emulator.complete_checkout(made.id, ASKS, authenticated=True)

    assert [told["status"] for told in (asked, refused, approved)] == [
        "requires_action",
        "requires_payment_method",
        "succeeded",
    ]
    assert refused["error"]["code"] == "payment_intent_authentication_failure"
    assert before == []
    assert [each.status for each in subscriptions(shop)] == ["active"]


def test_second_completion_makes_nothing(sell, base_price, shop, events):
    made = sell(base_price)
    first = shop.emulator.complete_checkout(made.id, email="new@example.com")
    shop.emulator.forward("http://app/hook", "whsec_x")

    second = shop.emulator.complete_checkout(made.id, DECLINED, email="new@example.com")

    assert second == first
    assert len(subscriptions(shop)) == 1
    assert events() == []


def test_no_card_is_asked_for_when_none_is_required(sell, metered_price, base_price, shop):
    free = sell(metered_price, customer=shop.customer.id, payment_method_collection="if_required")
    paid = sell(base_price, customer=shop.customer.id, payment_method_collection="if_required")

    shop.emulator.complete_checkout(free.id, None)
    with pytest.raises(CannotCompleteError, match="Choose a card"):
        shop.emulator.complete_checkout(paid.id, None)

    [subscription] = subscriptions(shop)
    assert (subscription.status, subscription.default_payment_method) == ("active", None)


def test_address_is_asked_for_when_nobody_is_known(sell, base_price, shop):
    unknown = sell(base_price)
    told = sell(base_price, customer_email="told@example.com")

    for email in (None, " ", "nonsense", "a@b@c", "a b@c", "a\x00@b", "a@" + "b" * 511):
        with pytest.raises(CannotCompleteError, match="e-mail"):
            shop.emulator.complete_checkout(unknown.id, email=email)
    shop.emulator.complete_checkout(told.id)

    emails = [each.email for each in shop.client.v1.customers.list().data]
    assert emails == ["told@example.com", shop.customer.email]


def test_customer_without_an_address_is_given_the_one_that_is_entered(sell, base_price, shop):
    customer = shop.client.v1.customers.create({})
    made = sell(base_price, customer=customer.id)

    shop.emulator.complete_checkout(made.id, email="new@example.com")

    assert shop.client.v1.customers.retrieve(customer.id).email == "new@example.com"


@pytest.mark.parametrize(
    ("change", "said"), [("archive", "is inactive"), ("delete", "No such customer")]
)
def test_what_can_no_longer_be_sold_is_told_and_makes_nothing(sell, base_price, shop, change, said):
    params = {"customer": shop.customer.id} if change == "delete" else {}
    made = sell(base_price, **params)
    if change == "delete":
        shop.client.v1.customers.delete(shop.customer.id)
    else:
        shop.client.v1.prices.update(base_price.id, {"active": False})
    count = len(shop.emulator.world.customers)

    with pytest.raises(CannotCompleteError, match=said):
        shop.emulator.complete_checkout(made.id, email="new@example.com")

    assert (subscriptions(shop), len(shop.emulator.world.customers)) == ([], count)
    assert shop.client.v1.checkout.sessions.retrieve(made.id).status == "open"


def test_session_expires_at_its_time(sell, base_price, shop, events, sessions):
    made = sell(base_price, expires_at=NOW + 1800)
    shop.emulator.forward("http://app/hook", "whsec_x")
    shop.emulator.clock.advance(1799)
    before = sessions.retrieve(made.id).status
    shop.emulator.clock.advance(1)

    after = sessions.retrieve(made.id)

    [told] = events()
    assert (before, after.status, after.url) == ("open", "expired", None)
    assert (told["type"], told["created"]) == ("checkout.session.expired", NOW + 1800)
    with pytest.raises(CannotCompleteError, match="expired"):
        shop.emulator.complete_checkout(made.id, email="new@example.com")
    assert subscriptions(shop) == []


def test_completed_session_neither_expires_nor_is_expired(sell, metered_price, shop, sessions):
    made = sell(metered_price, customer=shop.customer.id)
    shop.emulator.complete_checkout(made.id)
    shop.emulator.clock.advance(2 * DAY)

    with pytest.raises(stripe.InvalidRequestError, match="status of `complete`"):
        sessions.expire(made.id)
    assert sessions.retrieve(made.id).status == "complete"


def test_setup_mode_keeps_a_card(sessions, shop, events):
    made = sessions.create(
        {
            "mode": "setup",
            "currency": "eur",
            "customer": shop.customer.id,
            "setup_intent_data": {"metadata": {"a": "1"}},
            **PAGES,
        }
    )
    shop.emulator.forward("http://app/hook", "whsec_x")

    shop.emulator.complete_checkout(made.id, DECLINED)
    shop.emulator.complete_checkout(made.id, "pm_card_visa")

    intent = shop.client.v1.setup_intents.retrieve(made.setup_intent)
    customer = shop.client.v1.customers.retrieve(shop.customer.id)
    assert (made.payment_status, made.amount_total) == ("no_payment_required", None)
    assert (intent.status, intent.customer, intent.metadata["a"]) == (
        "succeeded",
        shop.customer.id,
        "1",
    )
    assert customer.invoice_settings.default_payment_method == "pm_card_visa"
    assert [event["type"] for event in events()] == [
        "setup_intent.setup_failed",
        "setup_intent.succeeded",
        "customer.updated",
        "checkout.session.completed",
    ]


def test_intent_of_a_session_is_confirmed_and_cancelled_with_it_only(sessions, shop):
    made = sessions.create({"mode": "setup", "currency": "eur", **PAGES})
    intents = shop.client.v1.setup_intents

    for call in (intents.cancel, lambda i: intents.confirm(i, {"payment_method": "pm_card_visa"})):
        with pytest.raises(stripe.InvalidRequestError, match="belongs to a Checkout Session"):
            call(made.setup_intent)
    secret = intents.retrieve(made.setup_intent).client_secret
    with pytest.raises(ValueError, match="cannot be confirmed this way"):
        shop.emulator.confirm(secret, "pm_card_visa")
    sessions.expire(made.id)

    now = intents.retrieve(made.setup_intent)
    assert (now.status, now.cancellation_reason) == ("canceled", "abandoned")


def test_setup_mode_makes_a_customer_on_request(sessions, shop):
    params = {"mode": "setup", "currency": "eur", **PAGES}
    nobody = sessions.create(params)
    somebody = sessions.create({**params, "customer_creation": "always"})

    shop.emulator.complete_checkout(nobody.id)
    shop.emulator.complete_checkout(somebody.id, email="new@example.com")

    assert sessions.retrieve(nobody.id).customer is None
    made = shop.client.v1.customers.retrieve(sessions.retrieve(somebody.id).customer)
    assert (made.email, made.invoice_settings.default_payment_method) == (
        "new@example.com",
        "pm_card_visa",
    )


@pytest.mark.parametrize(
    ("change", "said", "param"),
    [
        ({"mode": "payment"}, "no payment intents", "mode"),
        ({"mode": None}, "Missing required param: mode", "mode"),
        ({"line_items": None}, "Missing required param: line_items", "line_items"),
        ({"success_url": None}, "Missing required param: success_url", "success_url"),
        ({"success_url": "javascript:alert(1)"}, "Not a valid URL", "success_url"),
        ({"cancel_url": "https://a.b/\r\nSet-Cookie: x"}, "Not a valid URL", "cancel_url"),
        ({"ui_mode": "embedded_page"}, "no Stripe.js", "ui_mode"),
        ({"customer_email": "a@b.c"}, "only specify one of these", "customer"),
        ({"customer": "cus_nobody"}, "No such customer", "customer"),
        ({"customer_creation": "always"}, "in `subscription` mode", "customer_creation"),
        ({"expires_at": NOW + 1799}, "at least 30 minutes", "expires_at"),
        ({"expires_at": NOW + DAY + 1}, "less than 24 hours", "expires_at"),
        (
            {"subscription_data": {"trial_end": NOW + 2 * DAY - 1}},
            "at least 2 days",
            "subscription_data[trial_end]",
        ),
        (
            {"subscription_data": {"trial_end": NOW + 3 * DAY, "trial_period_days": 3}},
            "exclude each other",
            "subscription_data[trial_end]",
        ),
        (
            {"subscription_data": {"billing_cycle_anchor": NOW + DAY}},
            "begins the cycle at its completion",
            "subscription_data[billing_cycle_anchor]",
        ),
        ({"quantity": {"metered": 1}}, "should not be specified", "line_items[1][quantity]"),
        ({"quantity": {"base": None}}, "Quantity is required", "line_items[0][quantity]"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_session_leaves_nothing(
    shop, sessions, base_price, metered_price, change, said, param
):
    quantity = {"base": 1, "metered": None, **change.pop("quantity", {})}
    lines = [
        {"price": price.id, **({} if quantity[name] is None else {"quantity": quantity[name]})}
        for name, price in (("base", base_price), ("metered", metered_price))
    ]
    params = {
        "mode": "subscription",
        "customer": shop.customer.id,
        "line_items": lines,
        **PAGES,
        **change,
    }
    told = len(shop.emulator.world.events)

    with pytest.raises(stripe.InvalidRequestError, match=said) as caught:
        sessions.create({key: value for key, value in params.items() if value is not None})

    assert caught.value.param == param
    assert (sessions.list().data, len(shop.emulator.world.events)) == ([], told)


def test_one_time_prices_are_not_sold(sell, sessions, shop):
    product = shop.client.v1.products.create({"name": "Once"})
    once = shop.client.v1.prices.create(
        {"currency": "usd", "product": product.id, "unit_amount": 500}
    )

    with pytest.raises(stripe.InvalidRequestError, match="needs `recurring`"):
        sessions.create(
            {"mode": "subscription", "line_items": [{"price": once.id, "quantity": 1}], **PAGES}
        )


def test_sessions_are_found_by_what_is_known_of_them(sell, base_price, shop, sessions):
    mine = sell(base_price, customer=shop.customer.id)
    told = sell(base_price, customer_email="told@example.com")
    shop.emulator.complete_checkout(mine.id)
    [subscription] = subscriptions(shop)

    def found(**params):
        return [each.id for each in sessions.list(params).data]

    assert found() == [told.id, mine.id]
    assert found(customer=shop.customer.id) == [mine.id]
    assert found(status="open") == [told.id]
    assert found(subscription=subscription.id) == [mine.id]
    assert found(customer_details={"email": "told@example.com"}) == [told.id]


def test_only_metadata_of_a_hosted_session_changes(sell, base_price, sessions):
    made = sell(base_price, metadata={"a": "1"})

    changed = sessions.update(made.id, {"metadata": {"b": "2"}})
    with pytest.raises(stripe.InvalidRequestError, match="ui_mode=hosted_page"):
        sessions.update(made.id, {"line_items": [{"price": base_price.id, "quantity": 2}]})

    assert changed.metadata.to_dict() == {"a": "1", "b": "2"}


def test_address_of_the_page_follows_the_setting(sell, base_price, shop):
    shop.emulator.settings.change(pages_base_url="http://127.0.0.1:12111/")

    made = sell(base_price)

    assert made.url == f"http://127.0.0.1:12111/pay/{made.id}"
    with pytest.raises(ValueError, match="takes str"):
        shop.emulator.settings.change(pages_base_url=1)


def test_control_call_completes(sell, base_price, shop):
    made = sell(base_price)

    refused, said = control(shop.emulator, "POST", "checkout", {"session": made.id})
    missing, _ = control(shop.emulator, "POST", "checkout", {"session": "cs_nothing"})
    status, told = control(
        shop.emulator, "POST", "checkout", {"session": made.id, "email": "new@example.com"}
    )

    assert (refused, said["error"], missing) == (400, "Enter your e-mail address.", 400)
    assert (status, told["status"]) == (200, "succeeded")


def test_session_survives_a_snapshot(sell, base_price, shop):
    made = sell(base_price)
    snapshot = shop.emulator.snapshot()
    shop.emulator.complete_checkout(made.id, email="new@example.com")
    shop.emulator.restore(snapshot)

    assert shop.client.v1.checkout.sessions.retrieve(made.id).status == "open"
    shop.emulator.clock.advance(DAY)
    assert shop.client.v1.checkout.sessions.retrieve(made.id).status == "expired"
