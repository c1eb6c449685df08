"""The pages of Checkout and the portal, as a person without scripts meets them."""

import pytest
import stripe

from stripe_emulator.core.moments import utc
from stripe_emulator.hosted.words import money, price_words

from .conftest import NOW
from .test_subscriptions import subscribe
from .visitor import Visitor

pytestmark = pytest.mark.unit
ASKS = "pm_card_authenticationRequired"
DECLINED = "pm_card_visa_chargeDeclined"
PAGES = {
    "success_url": "https://app.example/done?session={CHECKOUT_SESSION_ID}",
    "cancel_url": "https://app.example/plans?a=1&b='2'",
}


@pytest.fixture
def visitor(shop):
    return Visitor(shop.emulator)


@pytest.fixture
def sell(shop):
    def make(*lines, **params):
        return shop.client.v1.checkout.sessions.create(
            {"mode": "subscription", "line_items": list(lines), **PAGES, **params}
        )

    return make


@pytest.fixture
def plan(base_price, metered_price):
    return {"price": base_price.id, "quantity": 1}, {"price": metered_price.id}


def test_page_says_what_is_sold_and_what_is_due(visitor, sell, plan):
    page = visitor.open(sell(*plan).url)

    assert page.status == 200
    for said in (
        "Due today $20.00 Then $20.00 per month plus your usage, until you cancel.",
        "Base $20.00 $20.00 per month",
        "Tokens by usage $0.04 per 1,000 units, for what you use each month (each",
    ):
        assert said in page.text
    assert page.buttons == ["Pay $20.00"]
    assert page.links == {"Cancel": PAGES["cancel_url"]}
    assert page.choices[:2] == ["pm_card_visa", DECLINED]


def test_person_pays_and_is_sent_on(visitor, sell, plan, shop):
    made = sell(*plan)
    page = visitor.open(made.url)

    gone = visitor.send(page, email="new@example.com")

    now = shop.client.v1.checkout.sessions.retrieve(made.id, {"expand": ["customer"]})
    assert (gone.status, gone.headers["Location"]) == (
        303,
        f"https://app.example/done?session={made.id}",
    )
    assert (now.status, now.customer.email) == ("complete", "new@example.com")
    again = visitor.send(page, email="new@example.com")
    assert (again.status, again.headers["Location"]) == (303, gone.headers["Location"])
    assert len(shop.client.v1.subscriptions.list().data) == 1
    over = visitor.open(made.url)
    assert over.links == {"Continue": gone.headers["Location"]}


def test_declined_card_is_told_and_another_one_pays(visitor, sell, plan, shop):
    made = sell(*plan)

    page = visitor.open(made.url)
    declined = visitor.send(page, email="new@example.com", payment_method=DECLINED)

    assert declined.status == 402
    assert declined.text.startswith("Your card was declined. Nothing was charged")
    assert declined.fields == {"email": "new@example.com", "payment_method": DECLINED}
    assert shop.client.v1.subscriptions.list().data == []
    assert visitor.send(declined, payment_method="pm_card_visa").status == 303


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_bank_asks_on_a_page_of_its_own(visitor, sell, plan, shop, answer):
    made = sell(*plan)

    bank = visitor.send(visitor.open(made.url), email="new@example.com", payment_method=ASKS)
    after = visitor.send(bank, authenticated=answer)

    assert "wants to take $20.00 from your Visa ending in 3184. Is this you?" in bank.text
    assert bank.buttons == ["Approve", "Refuse"]
    assert after.status == (303 if answer == "yes" else 402)
    assert len(shop.client.v1.subscriptions.list().data) == (1 if answer == "yes" else 0)
    if answer == "no":
        assert "unable to authenticate" in after.text
        assert after.fields["email"] == "new@example.com"


def test_address_is_asked_for_only_when_nobody_is_known(visitor, sell, plan, shop):
    unknown = visitor.open(sell(*plan).url)
    known = visitor.open(sell(*plan, customer=shop.customer.id).url)

    assert "email" in unknown.fields
    assert "email" not in known.fields
    assert shop.customer.email in known.text
    missing = visitor.send(unknown, email="")
    assert (missing.status, "Enter your e-mail address." in missing.text) == (400, True)


def test_trial_says_until_when_and_what_then(visitor, sell, plan, shop):
    made = sell(
        *plan,
        customer=shop.customer.id,
        subscription_data={"trial_period_days": 14},
        payment_method_collection="if_required",
    )
    page = visitor.open(made.url)

    assert "Free until 7 December 2026, then $20.00 per month plus your usage." in page.text
    assert (page.buttons, page.choices) == (["Start trial"], [])
    assert visitor.send(page).status == 303


def test_saving_a_card_charges_nothing(visitor, shop):
    made = shop.client.v1.checkout.sessions.create(
        {"mode": "setup", "currency": "usd", "customer": shop.customer.id, **PAGES}
    )
    page = visitor.open(made.url)

    assert "Nothing is charged today." in page.text
    assert page.buttons == ["Save card"]
    bank = visitor.send(page, payment_method=ASKS)
    assert "keep, for payments to come, your Visa ending in 3184" in bank.text
    assert visitor.send(bank, authenticated="yes").status == 303


def test_expired_page_leads_back(visitor, sell, plan, shop):
    made = sell(*plan)
    page = visitor.open(made.url)
    shop.emulator.clock.advance(86_400)

    for late in (visitor.open(made.url), visitor.send(page, email="new@example.com")):
        assert (late.status, "expired" in late.text) == (410, True)
        assert late.links == {"Go back": PAGES["cancel_url"]}
    assert shop.client.v1.subscriptions.list().data == []


def test_texts_of_the_account_are_escaped(visitor, sell, shop):
    product = shop.client.v1.products.create({"name": "<script>x</script> & 'co'"})
    price = shop.client.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount": 1,
            "recurring": {"interval": "month"},
        }
    )
    made = sell({"price": price.id, "quantity": 1})

    page = visitor.send(visitor.open(made.url), email="'><b>", payment_method="'><b>")

    assert "<script>x</script> & 'co'" in page.text
    assert not {"script", "b"} & set(page.tags)
    assert page.status == 400


def test_entered_texts_are_escaped_on_the_banks_page(visitor, sell, plan):
    page = visitor.open(sell(*plan).url)

    bank = visitor.send(page, email="'><b>@example.com", payment_method=ASKS)

    assert bank.fields["email"] == "'><b>@example.com"
    assert "b" not in bank.tags


@pytest.mark.parametrize("path", ["/pay/cs_nothing", "/pay/", "/portal/bps_nothing", "/portal/"])
def test_unknown_page_is_not_found(visitor, path):
    assert visitor.open(path).status == 404


@pytest.mark.parametrize(
    ("params", "quantity", "words"),
    [
        (
            {"unit_amount": 900, "recurring": {"interval": "month", "interval_count": 3}},
            2,
            ["2 at $9.00 each, every 3 months"],
        ),
        (
            {"unit_amount_decimal": "0.004", "metered": True},
            None,
            ["$0.00004 per image, for what you use each month"],
        ),
        (
            {
                "unit_amount": 100,
                "transform_quantity": {"divide_by": 10, "round": "down"},
                "recurring": {"interval": "year"},
            },
            7,
            ["$1.00 per 10 images, per year (only full 10 count)"],
        ),
        (
            {
                "billing_scheme": "tiered",
                "tiers_mode": "graduated",
                "tiers": [
                    {"up_to": 100, "unit_amount": 0},
                    {"up_to": 5000, "unit_amount_decimal": "2.5"},
                    {"up_to": "inf", "unit_amount": 1, "flat_amount": 500},
                ],
                "metered": True,
            },
            None,
            [
                "Priced by tiers, for what you use each month",
                "First 100: free",
                "101 to 5,000: $0.025 per image",
                "More than 5,000: $5.00 flat plus $0.01 per image",
            ],
        ),
        (
            {
                "billing_scheme": "tiered",
                "tiers_mode": "volume",
                "tiers": [{"up_to": 10, "unit_amount": 50}, {"up_to": "inf", "unit_amount": 30}],
                "recurring": {"interval": "month"},
            },
            3,
            [
                "3 images, priced by tiers, per month",
                "Up to 10: $0.50 per image, for all of them",
                "More than 10: $0.30 per image, for all of them",
            ],
        ),
    ],
    ids=["every 3 months", "decimal", "package", "graduated", "volume"],
)
def test_prices_in_words(shop, params, quantity, words):
    product = shop.client.v1.products.create({"name": "Images", "unit_label": "image"})
    params = {"currency": "usd", "product": product.id, **params}
    if params.pop("metered", False):
        params["recurring"] = {
            "interval": "month",
            "usage_type": "metered",
            "meter": shop.meter.id,
        }
    made = shop.client.v1.prices.create(params)
    world = shop.emulator.world

    assert price_words(world, world.prices.find(made.id), quantity) == words


@pytest.mark.parametrize(
    ("minor", "currency", "said"),
    [
        (123456, "usd", "$1,234.56"),
        (500, "jpy", "¥500"),
        (1500, "kwd", "1.500 KWD"),
        (0, "eur", "€0.00"),
        (1000, "chf", "10.00 CHF"),
    ],
)
def test_money_is_written_as_its_currency_is(minor, currency, said):
    assert money(minor, currency) == said


@pytest.fixture
def portal(shop):
    def make(**params):
        return shop.client.v1.billing_portal.sessions.create(
            {"customer": shop.customer.id, "return_url": "https://app.example/account", **params}
        )

    return make


@pytest.fixture
def subscription(shop, base_price, metered_price):
    return subscribe(shop, base_price, metered_price, default_payment_method="pm_card_visa")


def now_of(shop, subscription):
    return shop.client.v1.subscriptions.retrieve(subscription.id)


def test_portal_shows_what_the_customer_has(visitor, portal, subscription, shop):
    page = visitor.open(portal().url)

    for said in (
        shop.customer.email,
        "Active Base $20.00 per month Tokens $0.04 per 1,000 units",
        "Current period: 23 November 2026 to 23 December 2026",
        "Next invoice on 23 December 2026, $20.00 by now Paid with Visa ending in 4242",
        "Payment method No card is kept.",
    ):
        assert said in page.text
    assert page.links["← Return"] == "https://app.example/account"


def test_portal_counts_usage_into_the_next_invoice(visitor, portal, subscription, shop):
    shop.send("one", "1001")

    assert "Next invoice on 23 December 2026, $20.08 by now" in visitor.open(portal().url).text


def test_portal_says_what_follows_a_trial(visitor, portal, base_price, shop):
    subscribe(shop, base_price, trial_period_days=14)

    text = visitor.open(portal().url).text

    assert "The trial ends on 7 December 2026, then $20.00 are due" in text


def test_portal_says_that_a_subscription_is_paused(visitor, portal, subscription, shop):
    shop.client.v1.subscriptions.pause(subscription.id, {"type": "subscription"})

    page = visitor.open(portal().url)

    assert "Paused" in page.text
    assert "Nothing is billed while it is paused." in page.text


def test_portal_cancels_at_the_period_end_and_takes_it_back(
    visitor, portal, subscription, shop, events
):
    home = visitor.open(portal().url)
    asked = visitor.open(home.links["Cancel subscription"])
    shop.emulator.forward("http://app/hook", "whsec_x")

    done = visitor.follow(visitor.send(asked))
    cancelled = now_of(shop, subscription)
    visitor.send(asked)
    back = visitor.follow(visitor.send(done))

    assert "It ends on 23 December 2026." in asked.text
    assert "Your subscription ends on 23 December 2026." in done.text
    # On flexible subscriptions the portal sets `cancel_at`, not `cancel_at_period_end`.
    assert (utc(cancelled.cancel_at).day, cancelled.cancel_at_period_end) == (23, False)
    assert "Next invoice on 23 December 2026" in back.text
    assert now_of(shop, subscription).cancel_at is None
    assert [event["type"] for event in events()] == ["customer.subscription.updated"] * 2


def test_end_that_is_planned_already_is_not_moved(visitor, portal, subscription, shop):
    home = visitor.open(portal().url)
    asked = visitor.open(home.links["Cancel subscription"])
    shop.client.v1.subscriptions.update(subscription.id, {"cancel_at": NOW + 86_400})

    visitor.send(asked)

    assert now_of(shop, subscription).cancel_at == NOW + 86_400


def test_portal_cancels_a_classic_subscription_in_the_classic_way(
    visitor, portal, base_price, shop
):
    made = subscribe(
        shop,
        base_price,
        billing_mode={"type": "classic"},
        default_payment_method="pm_card_visa",
    )
    home = visitor.open(portal().url)
    visitor.send(visitor.open(home.links["Cancel subscription"]))

    assert now_of(shop, made).cancel_at_period_end


@pytest.mark.parametrize("card", ["pm_card_mastercard", ASKS])
def test_portal_changes_the_card_everything_is_paid_with(visitor, portal, subscription, shop, card):
    home = visitor.open(portal().url)
    choice = visitor.open(home.links["Add a card"])

    declined = visitor.send(choice, payment_method=DECLINED)
    page = visitor.send(declined, payment_method=card)
    if card == ASKS:
        page = visitor.send(page, authenticated="yes")
    done = visitor.follow(page)

    customer = shop.client.v1.customers.retrieve(shop.customer.id)
    assert (declined.status, "Your card was declined." in declined.text) == (402, True)
    assert "You now pay with your" in done.text
    assert customer.invoice_settings.default_payment_method == card
    assert now_of(shop, subscription).default_payment_method == card
    assert len(shop.client.v1.setup_intents.list().data) == 1


def test_declined_card_changes_nothing(visitor, portal, subscription, shop):
    home = visitor.open(portal().url)
    visitor.send(visitor.open(home.links["Add a card"]), payment_method=DECLINED)

    customer = shop.client.v1.customers.retrieve(shop.customer.id)
    assert customer.invoice_settings.default_payment_method is None
    assert now_of(shop, subscription).default_payment_method == "pm_card_visa"


def test_portal_touches_nobody_elses_subscription(visitor, portal, subscription, shop):
    other = shop.client.v1.customers.create({})
    url = portal(customer=other.id).url
    visitor.open(url)
    form = visitor.open(f"{url}/card")
    form.action = f"/portal/{url.rsplit('/', 1)[1]}/cancel/{subscription.id}"

    visitor.send(form)

    assert "You have no subscription." in visitor.open(f"{url}/cancel/{subscription.id}").text
    assert now_of(shop, subscription).cancel_at is None


def test_portal_address_is_short_lived(visitor, portal, shop):
    unused, used = portal(), portal()
    visitor.open(used.url)
    shop.emulator.clock.advance(300)

    assert visitor.open(unused.url).status == 404
    assert visitor.open(used.url).status == 200
    shop.emulator.clock.advance(3599)
    assert visitor.open(used.url).status == 200
    shop.emulator.clock.advance(3600)
    assert visitor.open(used.url).status == 404


def test_portal_of_a_deleted_customer_is_gone(visitor, portal, shop):
    url = portal().url
    shop.client.v1.customers.delete(shop.customer.id)

    assert visitor.open(url).status == 404


def flow(after, **params):
    return {"flow_data": {"after_completion": after, **params}}


def test_flow_of_cancelling_leads_straight_there_and_back(visitor, portal, subscription, shop):
    after = {"type": "redirect", "redirect": {"return_url": "https://app.example/bye"}}
    made = portal(
        **flow(
            after,
            type="subscription_cancel",
            subscription_cancel={"subscription": subscription.id},
        )
    )

    page = visitor.open(made.url)
    gone = visitor.send(page)

    assert page.buttons == ["Cancel subscription"]
    assert (gone.status, gone.headers["Location"]) == (303, "https://app.example/bye")
    assert now_of(shop, subscription).cancel_at is not None


def test_flow_of_a_new_card_ends_with_its_own_words(visitor, portal):
    after = {
        "type": "hosted_confirmation",
        "hosted_confirmation": {"custom_message": "Thank you <3"},
    }
    made = portal(**flow(after, type="payment_method_update"))

    done = visitor.send(visitor.open(made.url))

    assert "Thank you <3" in done.text
    assert done.links == {"Continue": "https://app.example/account"}
    assert "Your subscriptions" in visitor.open(made.url).text


@pytest.mark.parametrize(
    ("params", "said", "param"),
    [
        ({"customer": "cus_nobody"}, "No such customer", "customer"),
        ({"return_url": "javascript:x"}, "Not a valid URL", "return_url"),
        (
            {"flow_data": {"type": "subscription_update"}},
            "knows the flows payment_method_update and subscription_cancel",
            "flow_data[type]",
        ),
        (
            {"flow_data": {"type": "subscription_cancel"}},
            "Missing required param",
            "flow_data[subscription_cancel][subscription]",
        ),
        (
            {
                "flow_data": {
                    "type": "subscription_cancel",
                    "subscription_cancel": {"subscription": "sub_nothing"},
                }
            },
            "No such subscription",
            "flow_data[subscription_cancel][subscription]",
        ),
        (
            flow({"type": "redirect"}, type="payment_method_update"),
            "Missing required param",
            "flow_data[after_completion][redirect]",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_portal_session_leaves_nothing(portal, shop, params, said, param):
    with pytest.raises(stripe.InvalidRequestError, match=said) as caught:
        portal(**params)

    assert caught.value.param == param
    assert len(shop.emulator.world.portal_sessions) == 0


def test_flow_cannot_cancel_another_customers_subscription(portal, subscription, shop):
    other = shop.client.v1.customers.create({})

    with pytest.raises(stripe.InvalidRequestError, match="not one this customer can cancel"):
        portal(
            customer=other.id,
            flow_data={
                "type": "subscription_cancel",
                "subscription_cancel": {"subscription": subscription.id},
            },
        )


def test_portal_session_is_made_now(portal, shop):
    made = portal()

    assert (made.created, made.customer, made.flow) == (NOW, shop.customer.id, None)
    assert made.url.endswith(f"/portal/{made.id}")
    assert made.configuration == portal().configuration
