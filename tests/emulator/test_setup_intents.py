"""Keeping a card: setup intents, and what a person does with a client secret."""

import pytest
import stripe

from stripe_emulator.core.billing import setup_intent_calls
from stripe_emulator.core.billing.payment_methods import AUTHENTICATION, PAYS, after_bank, card_of

from .test_judge import control
from .test_subscriptions import subscribe

pytestmark = pytest.mark.unit
ASKS = "pm_card_authenticationRequiredOnSetup"
DECLINED = "pm_card_visa_chargeDeclined"


def fields(cls: type) -> set[str]:
    """The fields the SDK's class has, apart from the name of its kind."""
    return {each for each in cls.__annotations__ if each != "OBJECT_NAME"}


def types(events) -> list[str]:
    return [event["type"] for event in events()]


@pytest.fixture
def intents(shop):
    return shop.client.v1.setup_intents


@pytest.fixture
def made(intents, shop):
    return intents.create({"customer": shop.customer.id})


@pytest.fixture
def listening(shop, made, events):
    shop.emulator.forward("http://app/hook", "whsec_x")
    return events


def test_card_that_is_kept_becomes_the_default_of_a_customer_without_one(
    intents, shop, made, listening
):
    done = intents.confirm(made.id, {"payment_method": "pm_card_visa"})
    customer = shop.client.v1.customers.retrieve(shop.customer.id)

    assert (done.status, done.payment_method, done.next_action) == (
        "succeeded",
        "pm_card_visa",
        None,
    )
    assert customer.invoice_settings.default_payment_method == "pm_card_visa"
    assert types(listening) == ["setup_intent.succeeded", "customer.updated"]


def test_default_a_customer_has_already_stays(intents, shop):
    shop.client.v1.customers.update(
        shop.customer.id, {"invoice_settings": {"default_payment_method": "pm_old"}}
    )

    intents.create(
        {"customer": shop.customer.id, "payment_method": "pm_card_visa", "confirm": True}
    )

    customer = shop.client.v1.customers.retrieve(shop.customer.id)
    assert customer.invoice_settings.default_payment_method == "pm_old"


def test_declined_card_is_a_402_and_the_intent_waits_for_another(intents, made, listening):
    with pytest.raises(stripe.CardError) as caught:
        intents.confirm(made.id, {"payment_method": "pm_card_chargeDeclinedInsufficientFunds"})

    error, now = caught.value.error, intents.retrieve(made.id)
    assert (caught.value.http_status, error.code, error.decline_code) == (
        402,
        "card_declined",
        "insufficient_funds",
    )
    assert error.setup_intent.id == made.id
    assert (now.status, now.payment_method) == ("requires_payment_method", None)
    assert now.last_setup_error.decline_code == "insufficient_funds"
    assert types(listening) == ["setup_intent.setup_failed"]
    assert intents.confirm(made.id, {"payment_method": "pm_card_visa"}).last_setup_error is None


def test_expired_card_has_a_code_of_its_own(intents, made):
    with pytest.raises(stripe.CardError) as caught:
        intents.confirm(made.id, {"payment_method": "pm_card_chargeDeclinedExpiredCard"})

    assert caught.value.error.code == "expired_card"


def test_card_that_asks_waits_for_the_person(intents, made, shop, listening):
    asked = intents.confirm(made.id, {"payment_method": ASKS})
    told = shop.emulator.confirm(made.client_secret, authenticated=True)

    assert (asked.status, asked.next_action.type) == ("requires_action", "use_stripe_sdk")
    assert told == {
        "object": "setup_intent",
        "id": made.id,
        "status": "succeeded",
        "error": None,
    }
    assert intents.retrieve(made.id).next_action is None
    assert types(listening) == [
        "setup_intent.requires_action",
        "setup_intent.succeeded",
        "customer.updated",
    ]


def test_person_who_refuses_leaves_the_intent_without_a_card(intents, made, shop):
    told = shop.emulator.confirm(made.client_secret, ASKS, authenticated=False)

    now = intents.retrieve(made.id)
    assert told["status"] == now.status == "requires_payment_method"
    assert told["error"]["code"] == "setup_intent_authentication_failure"
    assert (now.payment_method, now.last_setup_error.code) == (
        None,
        "setup_intent_authentication_failure",
    )


def test_pending_intent_gives_its_card_to_the_subscription(
    shop, metered_price, base_price, intents, events
):
    subscription = subscribe(shop, metered_price, expand=["pending_setup_intent"])
    shop.emulator.forward("http://app/hook", "whsec_x")

    shop.emulator.confirm(subscription.pending_setup_intent.client_secret, "pm_card_visa")

    now = shop.client.v1.subscriptions.retrieve(subscription.id)
    assert (now.default_payment_method, now.pending_setup_intent) == ("pm_card_visa", None)
    told = events()
    assert [event["type"] for event in told] == [
        "setup_intent.succeeded",
        "customer.updated",
        "customer.subscription.updated",
    ]
    assert told[-1]["data"]["previous_attributes"] == {
        "default_payment_method": None,
        "pending_setup_intent": subscription.pending_setup_intent.id,
    }


def test_intent_that_is_over_is_neither_confirmed_nor_cancelled(intents, made):
    intents.confirm(made.id, {"payment_method": "pm_card_visa"})

    for call in (
        lambda: intents.confirm(made.id, {"payment_method": "pm_other"}),
        lambda: intents.cancel(made.id),
        lambda: intents.update(made.id, {"payment_method": "pm_other"}),
    ):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            call()
        assert caught.value.code == "setup_intent_unexpected_state"
    assert intents.update(made.id, {"metadata": {"a": "1"}}).metadata["a"] == "1"
    assert intents.retrieve(made.id).payment_method == "pm_card_visa"


def test_confirmation_needs_a_card(intents, made, shop):
    with pytest.raises(stripe.InvalidRequestError, match="missing a payment method"):
        intents.confirm(made.id)
    with pytest.raises(ValueError, match="none waits for its bank"):
        shop.emulator.confirm(made.client_secret)
    with pytest.raises(stripe.InvalidRequestError, match="without a payment method"):
        intents.create({"confirm": True})

    assert [each.id for each in intents.list().data] == [made.id]


def test_wrong_secrets_find_nothing(intents, made, shop):
    with pytest.raises(stripe.InvalidRequestError, match="client_secret"):
        intents.retrieve(made.id, {"client_secret": "seti_other"})
    with pytest.raises(ValueError, match="No setup intent or invoice"):
        shop.emulator.confirm(f"{made.id}_secret_guessed", "pm_card_visa")

    assert intents.retrieve(made.id).status == "requires_payment_method"


def open_invoice(shop, price):
    return subscribe(
        shop,
        price,
        payment_behavior="default_incomplete",
        payment_settings={"save_default_payment_method": "on_subscription"},
        expand=["latest_invoice.confirmation_secret"],
    )


def test_person_pays_the_first_invoice(shop, base_price, events):
    subscription = open_invoice(shop, base_price)
    secret = subscription.latest_invoice.confirmation_secret.client_secret
    shop.emulator.forward("http://app/hook", "whsec_x")

    declined = shop.emulator.confirm(secret, DECLINED)
    asked = shop.emulator.confirm(secret, ASKS)
    paid = shop.emulator.confirm(secret, authenticated=True)

    now = shop.client.v1.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]})
    assert [told["status"] for told in (declined, asked, paid)] == [
        "requires_payment_method",
        "requires_action",
        "succeeded",
    ]
    assert declined["error"]["code"] == "card_declined"
    assert (now.status, now.default_payment_method, now.latest_invoice.status) == (
        "active",
        ASKS,
        "paid",
    )
    assert types(events) == [
        "invoice.payment_failed",
        "invoice.payment_failed",
        "invoice.payment_action_required",
        "invoice.paid",
        "invoice.payment_succeeded",
        "customer.subscription.updated",
        "customer.subscription.updated",
    ]
    with pytest.raises(ValueError, match="is paid, not open"):
        shop.emulator.confirm(secret, "pm_card_visa")


def test_invoice_stays_open_when_its_person_refuses(shop, base_price):
    subscription = open_invoice(shop, base_price)
    secret = subscription.latest_invoice.confirmation_secret.client_secret

    told = shop.emulator.confirm(secret, ASKS, authenticated=False)

    now = shop.client.v1.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]})
    assert told["error"]["code"] == "payment_intent_authentication_failure"
    assert (now.status, now.latest_invoice.status) == ("incomplete", "open")


def test_control_call_confirms(shop, made):
    asked = {"client_secret": made.client_secret, "payment_method": DECLINED}
    status, told = control(shop.emulator, "POST", "confirm", asked)
    refused, said = control(shop.emulator, "POST", "confirm", {**asked, "card": "x"})

    assert (status, told["status"]) == (200, "requires_payment_method")
    assert told["error"]["message"] == "Your card was declined."
    assert (refused, said["error"]) == (400, "Object contains unknown field `card`")


@pytest.mark.contract
def test_intents_have_the_fields_of_their_class(made):
    assert set(made.to_dict()) == fields(stripe.SetupIntent)


@pytest.mark.contract
@pytest.mark.parametrize("verb", ["create", "update", "confirm", "cancel", "list", "retrieve"])
def test_calls_take_what_the_sdk_sends(verb):
    ours = getattr(setup_intent_calls, verb.upper()).fields
    about_the_request = set(fields(stripe.params.SetupIntentRetrieveParams)) - {
        "client_secret",
        "expand",
    }

    theirs = fields(getattr(stripe.params, f"SetupIntent{verb.capitalize()}Params"))

    assert set(ours) == theirs - about_the_request


def test_allowed_kinds_of_payment_methods_are_shown(intents, made):
    changed = intents.update(made.id, {"allowed_payment_method_types": ["card", "link"]})

    assert changed.payment_method_types == ["card", "link"]
    assert changed.allowed_payment_method_types == ["card", "link"]


def test_only_a_question_is_answered():
    assert after_bank(PAYS, authenticated=False) == PAYS
    assert after_bank(AUTHENTICATION, authenticated=None) == AUTHENTICATION
    assert after_bank(AUTHENTICATION, authenticated=True) == PAYS


@pytest.mark.parametrize(
    ("payment_method", "shown"),
    [
        ("pm_card_visa", ("visa", "4242")),
        ("pm_card_mastercard", ("mastercard", "4444")),
        ("pm_card_visa_chargeDeclined", ("visa", "0002")),
        ("pm_anything", ("visa", "4242")),
    ],
)
def test_cards_are_shown_by_their_last_digits(payment_method, shown):
    assert card_of(payment_method) == shown
