"""The rows of the fact sheet's section 19 that are about Stripe's behaviour: the right behaviour, shown.

One test or more for each row, named by its number. Without a test, for these reasons: 15 and 19 are about the seed's
own code, 25, 35, 39 and 43 are figures nobody at Stripe stands behind, 41 and 42 are about labels of products.
"""

import json
from decimal import Decimal

import pytest
import stripe

from stripe_emulator import API_VERSION
from stripe_emulator.core.billing.pricing import amount

from .conftest import NOW, make_meter

pytestmark = pytest.mark.unit
HOUR, DAY = 3600, 86_400
TOLERANT = 10**9


@pytest.fixture
def subscribe(shop, metered_price):
    def make(*prices, **params):
        items = [{"price": price.id} for price in prices or [metered_price]]
        return shop.client.v1.subscriptions.create(
            {"customer": shop.customer.id, "items": items, **params}
        )

    make.world = shop.emulator.world
    return make


@pytest.fixture
def stream(client):
    token = client.v2.billing.meter_event_session.create().authentication_token

    def send(*events, **options):
        return client.v2.billing.meter_event_stream.create(
            {"events": list(events)}, options or {"api_key": token}
        )

    send.token = token
    return send


def streamed(shop, identifier="one", value="1", **extra):
    payload = {"stripe_customer_id": shop.customer.id, "value": value}
    return {"event_name": "tokens", "payload": payload, "identifier": identifier, **extra}


def refused(call, *args, **kwargs) -> stripe.StripeError:
    with pytest.raises(stripe.StripeError) as caught:
        call(*args, **kwargs)
    return caught.value


def make_alert(shop, **threshold):
    return shop.client.v1.billing.alerts.create(
        {
            "title": "x",
            "alert_type": "usage_threshold",
            "usage_threshold": {
                "meter": shop.meter.id,
                "gte": 100,
                "recurrence": "one_time",
                **threshold,
            },
        }
    )


def subscribe_paying(shop, *prices):
    return shop.client.v1.subscriptions.create(
        {
            "customer": shop.customer.id,
            "items": [{"price": price.id} for price in prices],
            "default_payment_method": "pm_card_visa",
        }
    )


def invoices_at(shop, moment):
    shop.emulator.clock.set(moment, frozen=True)
    return shop.client.v1.invoices.list().data


def test_row_01_formulas_are_sum_count_and_last(client):
    made = [
        make_meter(client, name, name).default_aggregation.formula
        for name in ("sum", "count", "last")
    ]

    assert made == ["sum", "count", "last"]
    assert refused(make_meter, client, "max", "max").param == "default_aggregation[formula]"


def test_row_02_metered_stays_and_usage_records_are_gone(client, metered_price):
    gone = refused(
        client.raw_request, "post", "/v1/subscription_items/si_1/usage_records", quantity=1
    )

    assert metered_price.recurring.usage_type == "metered"
    assert gone.http_status == 404


def test_row_03_metered_price_needs_a_meter(client):
    product = client.v1.products.create({"name": "x"})
    recurring = {"interval": "month", "usage_type": "metered"}

    error = refused(
        client.v1.prices.create,
        {"currency": "usd", "product": product.id, "unit_amount": 1, "recurring": recurring},
    )

    assert error.param == "recurring[meter]"


def test_row_04_current_version_makes_flexible_subscriptions(subscribe):
    made = subscribe()

    assert API_VERSION == stripe.api_version == "2026-10-28.endive"
    assert made.last_response.headers["Stripe-Version"] == API_VERSION
    assert made.billing_mode.type == "flexible"


def test_row_05_key_stops_a_second_meter_for_a_day_and_the_name_after_that(client, emulator):
    params = {"display_name": "x", "event_name": "x", "default_aggregation": {"formula": "sum"}}
    first = client.v1.billing.meters.create(params, {"idempotency_key": "k"})
    again = client.v1.billing.meters.create(params, {"idempotency_key": "k"})
    emulator.clock.advance(DAY)

    error = refused(client.v1.billing.meters.create, params, {"idempotency_key": "k"})

    assert again.id == first.id
    assert (error.http_status, error.param) == (400, "event_name")


def test_row_06_package_rounds_once_and_decimal_is_linear(client, metered_price):
    package = {
        "billing_scheme": "per_unit",
        "unit_amount_decimal": "4",
        "transform_quantity": metered_price.transform_quantity.to_dict(),
    }
    linear = {
        "billing_scheme": "per_unit",
        "unit_amount_decimal": "0.004",
        "transform_quantity": None,
    }

    assert [amount(price, Decimal(1001)) for price in (package, linear)] == [8, 4]
    assert amount(package, Decimal(500) + Decimal(500)) == 4


def test_row_06_once_per_period_total_shows_on_the_invoice(shop, metered_price):
    """1,001 in two reports: two packs of a thousand, where each report rounded up alone would make three."""
    linear = shop.client.v1.prices.create(
        {
            "currency": "usd",
            "product": metered_price.product,
            "unit_amount_decimal": "0.004",
            "recurring": {"interval": "month", "usage_type": "metered", "meter": shop.meter.id},
        }
    )
    made = subscribe_paying(shop, metered_price, linear)
    for identifier, value in (("a", "1"), ("b", "999"), ("c", "1")):
        shop.send(identifier, value)

    [invoice] = invoices_at(shop, made["items"].data[0].current_period_end + HOUR)

    assert [(line.quantity_decimal, line.amount) for line in invoice.lines.data] == [
        (2, 8),
        (1001, 4),
    ]


def test_row_06_package_is_not_for_tiers(client):
    error = refused(
        client.v1.prices.create,
        {
            "currency": "usd",
            "product_data": {"name": "x"},
            "recurring": {"interval": "month"},
            "billing_scheme": "tiered",
            "tiers_mode": "volume",
            "tiers": [{"up_to": "inf", "unit_amount": 1}],
            "transform_quantity": {"divide_by": 1000, "round": "up"},
        },
    )

    assert (error.http_status, error.param) == (400, "transform_quantity")


def test_row_07_customer_key_lasts_a_day(client, emulator):
    options = {"idempotency_key": "user-1"}
    first = client.v1.customers.create({}, options).id
    emulator.clock.advance(DAY)

    assert client.v1.customers.create({}, options).id != first


def test_row_08_the_secret_is_under_confirmation_secret(subscribe, base_price):
    error = refused(
        subscribe,
        base_price,
        payment_behavior="default_incomplete",
        expand=["latest_invoice.payment_intent"],
    )
    made = subscribe(
        base_price,
        payment_behavior="default_incomplete",
        expand=["latest_invoice.confirmation_secret"],
    )

    assert error.http_status == 400
    assert [each["id"] for each in subscribe.world.subscriptions] == [made.id]
    assert made.latest_invoice.confirmation_secret.client_secret.startswith("pi_")


def test_row_09_metered_only_has_no_invoice_but_a_setup_intent(subscribe, client):
    made = subscribe(
        payment_behavior="default_incomplete", expand=["latest_invoice", "pending_setup_intent"]
    )

    assert made.latest_invoice is None
    assert made.pending_setup_intent.client_secret.startswith("seti_")
    assert client.v1.invoices.list().data == []


def test_row_10_metered_only_is_active_at_once(subscribe):
    assert subscribe(payment_behavior="default_incomplete").status == "active"


def test_row_11_customer_is_named_in_the_payload(shop):
    create = shop.client.raw_request
    top = refused(
        create,
        "post",
        "/v1/billing/meter_events",
        event_name="tokens",
        customer_id=shop.customer.id,
        payload={"value": "1"},
    )
    wrong = refused(
        create,
        "post",
        "/v1/billing/meter_events",
        event_name="tokens",
        payload={"customer_id": shop.customer.id, "value": "1"},
    )

    assert (top.code, top.param) == ("parameter_unknown", "customer_id")
    assert wrong.param == "payload[stripe_customer_id]"


def test_row_12_timestamp_decides_the_hour_and_sending_time_does_not(shop):
    shop.send("late", "5", at=NOW - 30 * HOUR)
    shop.client.v1.billing.meter_events.create(
        {
            "event_name": "tokens",
            "payload": {"stripe_customer_id": shop.customer.id, "value": "1"},
            "identifier": "now",
        }
    )

    assert shop.total(NOW - 30 * HOUR, NOW - 29 * HOUR) == 5
    assert shop.total(NOW, NOW + HOUR) == 1


def test_row_12_late_flush_stays_in_its_period_only_by_the_usages_timestamp(shop, metered_price):
    end = subscribe_paying(shop, metered_price)["items"].data[0].current_period_end
    shop.emulator.clock.set(end + 600, frozen=True)
    shop.send("used before the end", "1000", at=end - 1)
    shop.send("dated by its flush", "5000", at=end + 600)

    [invoice] = invoices_at(shop, end + HOUR)

    assert invoice.total == 4


def test_row_13_without_identifier_nothing_is_deduplicated(shop):
    event = {
        "event_name": "tokens",
        "payload": {"stripe_customer_id": shop.customer.id, "value": "1"},
    }
    identifiers = {shop.client.v1.billing.meter_events.create(event).identifier for _ in range(2)}

    assert len(identifiers) == 2
    assert shop.total() == 2


def test_row_14_new_key_and_same_identifier_is_a_duplicate_that_proves_delivery(shop):
    shop.send("fact", options={"idempotency_key": "first"})

    error = refused(shop.send, "fact", options={"idempotency_key": "second"})

    assert error.http_status == 400
    assert error.error.message.startswith("An event already exists with identifier fact")
    assert error.headers["Stripe-Should-Retry"] == "false"
    assert shop.total() == 1


def test_row_16_age_is_looked_at_when_it_is_sent(shop):
    """Usage that was young enough when it was stored can be too old when its turn comes: keep a margin."""
    shop.send("in time", at=NOW - 35 * DAY + 60)
    shop.emulator.clock.advance(61)

    error = refused(shop.send, "a minute later", at=NOW - 35 * DAY + 60)

    assert (error.http_status, error.param) == (400, "timestamp")
    assert shop.emulator.truth.as_dict()["event_names"]["tokens"]["count"] == 1


def test_row_17_window_is_35_days_and_5_minutes(shop):
    for identifier, moment in (("a", NOW - 35 * DAY), ("b", NOW + 300)):
        shop.send(identifier, at=moment)

    for identifier, moment in (("c", NOW - 35 * DAY - 1), ("d", NOW + 301)):
        refused(shop.send, identifier, at=moment)
    assert shop.emulator.truth.as_dict()["event_names"]["tokens"]["count"] == 2


def test_row_18_too_old_is_a_400_on_v1_and_a_report_on_the_stream(shop, stream, client):
    error = refused(shop.send, "one", at=NOW - 36 * DAY)
    stream(streamed(shop, "two", timestamp="2026-10-01T00:00:00Z"))
    shop.emulator.clock.advance(10)

    [event] = client.v2.core.events.list({}).data
    report = client.v2.core.events.retrieve(event.id).data.reason

    assert (error.http_status, error.param) == (400, "timestamp")
    assert report.error_types[0].code == "timestamp_too_far_in_past"


def test_row_20_sandbox_allows_25_a_second_and_a_request_100_events(shop, stream):
    assert refused(stream, *(streamed(shop, str(i)) for i in range(101))).http_status == 400
    shop.emulator.settings.change(rate_limits="sandbox")
    for index in range(25):
        stream(streamed(shop, f"s{index}"))

    assert refused(stream, streamed(shop, "one more")).http_status == 429


def test_row_21_session_ends_after_15_minutes_and_says_so(shop, stream):
    shop.emulator.clock.advance(15 * 60)

    error = refused(stream, streamed(shop))

    assert isinstance(error, stripe.TemporarySessionExpiredError)
    assert error.code == "billing_meter_event_session_expired"


def test_row_22_the_stream_is_opened_by_the_token_and_not_by_the_key(shop, stream):
    """The sheet says the SDK overwrites a header of ours; Python's 16.1.0 sends it, so the key's way is the sure one."""
    error = refused(stream, streamed(shop, "with the secret key"), api_key="sk_test_emulator")
    stream(streamed(shop, "with the token as key"))

    assert error.http_status == 401
    assert shop.total() == 1


def test_row_23_stream_takes_identifier_and_timestamp(shop, stream):
    stream(
        streamed(shop, "one", timestamp="2026-11-23T10:30:00Z"),
        streamed(shop, "one", timestamp="2026-11-23T10:30:00Z"),
    )

    assert shop.total(NOW - 2 * HOUR, NOW - HOUR) == 1


def test_row_24_stream_failures_come_only_as_thin_events(shop, stream):
    shop.emulator.forward("http://app/thin", "whsec_x", thin=True)
    answer = stream(streamed(shop, "bad", "x"))
    shop.emulator.clock.advance(10)

    [delivery] = shop.emulator.pop_deliveries()
    notice = json.loads(delivery.body)

    assert answer is None
    assert notice["type"] == "v1.billing.meter.error_report_triggered"
    assert "data" not in notice


def test_row_26_alert_counts_meter_units(shop, events):
    shop.emulator.forward("http://app/hook", "whsec_x")
    make_alert(shop, gte=100)
    shop.send("a", "99")
    quiet = events()
    shop.send("b", "1")

    assert quiet == []
    assert [event["data"]["object"]["value"] for event in events()] == [100]


def test_row_26_no_fraction_of_a_unit_and_no_money_is_a_threshold(shop):
    assert refused(make_alert, shop, gte="0.5").param == "usage_threshold[gte]"
    assert refused(make_alert, shop, currency="usd").param == "usage_threshold[currency]"


def test_row_27_alerts_customer_stands_in_a_filter(shop):
    top = refused(
        shop.client.raw_request,
        "post",
        "/v1/billing/alerts",
        alert_type="usage_threshold",
        title="x",
        customer=shop.customer.id,
        usage_threshold={"meter": shop.meter.id, "gte": 1, "recurrence": "one_time"},
    )
    made = make_alert(shop, filters=[{"type": "customer", "customer": shop.customer.id}])

    assert top.param == "customer"
    assert made.usage_threshold.filters[0].customer == shop.customer.id


def test_row_28_alert_fires_once_ever_and_25_fit(shop, events):
    shop.emulator.forward("http://app/hook", "whsec_x")
    for _ in range(25):
        make_alert(shop, gte=5)
    shop.send("a", "5")
    first = len(events())
    shop.emulator.clock.advance(31 * DAY)
    shop.send("b", "5", at=NOW + 31 * DAY)

    assert (first, len(events())) == (25, 0)
    assert refused(make_alert, shop).http_status == 400


def test_row_28_alert_is_silent_about_customers_on_test_clocks(shop, events):
    shop.emulator.forward("http://app/hook", "whsec_x")
    clock = shop.client.v1.test_helpers.test_clocks.create({"frozen_time": NOW})
    shop.customer = shop.client.v1.customers.create({"test_clock": clock.id})
    make_alert(shop, gte=5)
    shop.send("a", "5")

    assert "billing.alert.triggered" not in [event["type"] for event in events()]
    assert shop.total() == 5


def test_row_29_alert_message_names_the_customer_by_id(shop, events):
    shop.emulator.forward("http://app/hook", "whsec_x")
    made = make_alert(shop, gte=1)
    shop.send("a", "1")

    triggered = events()[-1]

    assert triggered["type"] == "billing.alert.triggered"
    assert triggered["data"]["object"]["customer"] == shop.customer.id
    assert triggered["data"]["object"]["alert"]["id"] == made.id


def test_row_30_the_same_event_can_arrive_twice_at_once(shop):
    shop.emulator.forward("http://app/hook", "whsec_x")
    shop.emulator.faults.switch_on("webhook_duplicate")
    shop.client.v1.customers.create({})

    first, second = shop.emulator.pop_deliveries()

    assert json.loads(first.body)["id"] == json.loads(second.body)["id"]


def test_row_30_one_change_can_have_two_event_ids(shop):
    shop.emulator.forward("http://app/hook", "whsec_x")
    shop.emulator.faults.switch_on("webhook_second_event")
    shop.client.v1.customers.create({})

    first, second = (json.loads(each.body) for each in shop.emulator.pop_deliveries())

    assert first["id"] != second["id"]
    assert (first["type"], first["data"]) == (second["type"], second["data"])


def test_row_31_deliveries_are_signed_over_the_raw_body(shop):
    shop.emulator.forward("http://app/hook", "whsec_x")
    shop.client.v1.customers.create({})
    [delivery] = shop.emulator.pop_deliveries()
    header = delivery.headers["Stripe-Signature"]

    assert shop.client.construct_event(delivery.body, header, "whsec_x", tolerance=TOLERANT)
    for body, secret in ((delivery.body + b" ", "whsec_x"), (delivery.body, "whsec_y")):
        with pytest.raises(stripe.SignatureVerificationError):
            shop.client.construct_event(body, header, secret, tolerance=TOLERANT)


@pytest.mark.parametrize("end", [NOW - NOW % DAY + DAY - 1, NOW - NOW % DAY + DAY - 59])
def test_row_32_the_last_second_of_a_day_is_no_end(shop, end):
    error = refused(shop.total, NOW - NOW % DAY, end)

    assert (error.http_status, error.param) == (400, "end_time")


def test_row_33_one_page_is_enough_only_without_a_window(shop):
    asked = {"customer": shop.customer.id, "start_time": NOW - DAY, "end_time": NOW}
    summaries = shop.client.v1.billing.meters.event_summaries

    whole = summaries.list(shop.meter.id, asked)
    hours = summaries.list(shop.meter.id, {**asked, "value_grouping_window": "hour"})

    assert (len(whole.data), whole.has_more) == (1, False)
    assert (len(hours.data), hours.has_more) == (10, True)


def test_row_34_totals_go_by_the_timestamp_that_was_sent(shop):
    shop.send("a", "3", at=NOW - 2 * HOUR)
    created = NOW

    assert shop.total(created, created + HOUR) == 0
    assert shop.total(NOW - 2 * HOUR, NOW - HOUR) == 3


def test_row_36_a_total_read_at_once_can_be_old(shop):
    shop.emulator.settings.change(settle_lag_seconds=120)
    shop.send("a", "3")
    at_once = shop.total()
    shop.emulator.clock.advance(120)

    assert (at_once, shop.total()) == (0, 3)


def test_row_37_late_usage_counts_until_the_draft_is_final_and_then_never(shop, subscribe):
    item = subscribe(default_payment_method="pm_card_visa")["items"].data[0]
    end = item.current_period_end

    def invoices_at(moment):
        shop.emulator.clock.set(moment, frozen=True)
        return [(each.status, each.total) for each in shop.client.v1.invoices.list().data]

    draft = invoices_at(end)
    shop.send("late", "1000", at=end - 1)
    final = invoices_at(end + HOUR)
    shop.send("too late", "1000", at=end - 1)

    assert (draft, final, invoices_at(end + DAY)) == ([("draft", 0)], [("paid", 4)], [("paid", 4)])


@pytest.mark.parametrize(("invoice_now", "billed"), [(False, []), (True, [20])])
def test_row_38_usage_of_a_cancelled_subscription_is_lost_without_invoice_now(
    shop, subscribe, invoice_now, billed
):
    made = subscribe(default_payment_method="pm_card_visa")
    shop.send("a", "5000")
    shop.emulator.clock.advance(1)
    gone = shop.client.v1.subscriptions.cancel(made.id, {"invoice_now": invoice_now})

    assert gone.status == "canceled"
    assert [invoice.total for invoice in shop.client.v1.invoices.list().data] == billed
    assert shop.total() == 5000


@pytest.mark.parametrize("how", [{"cancel_at_period_end": True}, {"cancel_at": "min_period_end"}])
def test_row_38_cancelled_at_the_period_end_bills_the_last_usage(shop, metered_price, how):
    made = subscribe_paying(shop, metered_price)
    end = made["items"].data[0].current_period_end
    shop.client.v1.subscriptions.update(made.id, how)
    shop.send("a", "5000")
    shop.emulator.clock.set(end + 60, frozen=True)
    shop.send("late", "1000", at=end - 1)
    shop.send("after the end", "9000", at=end)

    [invoice] = invoices_at(shop, end + HOUR)

    assert (invoice.status, invoice.total) == ("paid", 24)
    assert shop.client.v1.subscriptions.retrieve(made.id).status == "canceled"
    assert [each.total for each in invoices_at(shop, end + 40 * DAY)] == [24]


def test_row_40_alerts_carry_a_preview_label_and_yet_need_no_preview_version(shop):
    """The pages have the label, the description has the calls: nothing but the ordinary version is asked for."""
    made = make_alert(shop)

    assert made.last_response.headers["Stripe-Version"] == API_VERSION
    assert "preview" not in API_VERSION
