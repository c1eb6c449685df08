"""What v1 takes, refuses and remembers of a meter event."""

import pytest
import stripe

from stripe_emulator import Settings

from .conftest import NOW, make_meter

pytestmark = pytest.mark.unit
DAY = 86_400


def refusal(call, *args, **kwargs) -> stripe.InvalidRequestError:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        call(*args, **kwargs)
    return caught.value


def test_event_is_accepted_and_echoed_without_an_id(shop):
    event = shop.send("one", "12.5")

    assert event.to_dict() == {
        "object": "billing.meter_event",
        "created": NOW,
        "event_name": "tokens",
        "identifier": "one",
        "livemode": False,
        "payload": {"stripe_customer_id": shop.customer.id, "value": "12.5"},
        "timestamp": NOW,
    }
    assert shop.total() == 12.5


def test_event_without_identifier_and_timestamp_gets_both(shop):
    event = shop.client.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": {"stripe_customer_id": shop.customer.id, "value": "3"}}
    )

    assert len(event.identifier) == 32
    assert event.timestamp == NOW


def test_repeated_identifier_is_refused_with_the_words_clients_match(shop):
    shop.send("one")

    error = refusal(shop.send, "one")

    assert error.http_status == 400
    assert error.error.message == "An event already exists with identifier one."
    assert error.headers["Stripe-Should-Retry"] == "false"
    assert shop.total() == 1


@pytest.mark.parametrize(("age", "counts"), [(DAY - 1, 1), (DAY, 2)])
def test_identifier_is_forgotten_after_exactly_its_window(shop, age, counts):
    shop.send("one")
    shop.emulator.clock.advance(age)

    if counts == 1:
        refusal(shop.send, "one")
    else:
        shop.send("one")

    assert shop.total() == counts


def test_identifier_is_one_for_all_meters(shop):
    make_meter(shop.client, "other")
    shop.send("one")

    error = refusal(
        shop.client.v1.billing.meter_events.create,
        {
            "event_name": "other",
            "payload": {"stripe_customer_id": shop.customer.id, "value": "1"},
            "identifier": "one",
        },
    )

    assert error.error.message.startswith("An event already exists")


@pytest.mark.parametrize(
    ("offset", "accepted"),
    [(-35 * DAY, True), (-35 * DAY - 1, False), (300, True), (301, False)],
)
def test_timestamp_limits_are_exact(shop, offset, accepted):
    if accepted:
        shop.send("one", at=NOW + offset)
    else:
        error = refusal(shop.send, "one", at=NOW + offset)
        assert error.http_status == 400
        assert error.param == "timestamp"

    assert (
        shop.emulator.truth.as_dict()["event_names"].get("tokens", {"count": 0})["count"]
        == accepted
    )


def test_too_old_timestamp_says_what_would_do(shop):
    error = refusal(shop.send, "one", at=NOW - 36 * DAY)

    assert error.error.message.startswith(
        "The event timestamp cannot be more than 35 days in past. Expected a timestamp greater than "
        f"or equal to {NOW - 35 * DAY}"
    )


@pytest.mark.parametrize(
    "value", ["-5", "0", "0.25", "123456789012345", "-0.00000000000001", "000000000000000012"]
)
def test_value_is_taken(shop, value):
    shop.send("one", value)

    assert shop.total() == float(value)


@pytest.mark.parametrize(
    "value",
    [
        "1234567890123456",
        "1000000000000000",
        "0.1234567890123456",
        "NaN",
        "1e5",
        "+1",
        "1,5",
        ".5",
        "5.",
        " 1",
        "٣",
        "Infinity",
    ],
)
def test_value_is_refused(shop, value):
    error = refusal(shop.send, "one", value)

    assert error.http_status == 400
    assert error.param == "payload[value]"
    assert shop.total() == 0


def test_too_many_digits_names_the_maximum_and_the_value(shop):
    error = refusal(shop.send, "one", "1234567890123456")

    assert "15 significant digits" in error.error.message
    assert "1234567890123456" in error.error.message


def test_unknown_customer_is_refused(shop):
    error = refusal(
        shop.client.v1.billing.meter_events.create,
        {"event_name": "tokens", "payload": {"stripe_customer_id": "cus_nobody", "value": "1"}},
    )

    assert error.http_status == 400
    assert error.error.message == "No such customer: 'cus_nobody'"


def test_customer_of_the_other_mode_is_unknown(shop, transport):
    live = stripe.StripeClient("sk_live_x", http_client=transport)
    make_meter(live, customer_mapping={"event_payload_key": "who", "type": "by_id"})

    error = refusal(
        live.v1.billing.meter_events.create,
        {"event_name": "tokens", "payload": {"who": shop.customer.id, "value": "1"}},
    )

    assert error.error.message == f"No such customer: '{shop.customer.id}'"
    [logged] = list(shop.emulator.arrivals)[-1].events
    assert (logged.customer, logged.verdict) == (shop.customer.id, "refused:customer_not_found")


def test_deleted_customer_is_unknown(shop):
    shop.client.v1.customers.delete(shop.customer.id)

    assert refusal(shop.send, "one").error.message.startswith("No such customer")


def test_unknown_meter_is_refused(shop):
    error = refusal(
        shop.client.v1.billing.meter_events.create,
        {
            "event_name": "nothing",
            "payload": {"stripe_customer_id": shop.customer.id, "value": "1"},
        },
    )

    assert error.error.message.startswith("No active meter found")


def test_deactivated_meter_refuses_until_reactivated(shop):
    shop.client.v1.billing.meters.deactivate(shop.meter.id)
    error = refusal(shop.send, "one")
    shop.client.v1.billing.meters.reactivate(shop.meter.id)
    shop.send("one")

    assert error.error.message.startswith("No active meter found")
    assert shop.total() == 1


def test_payload_keys_are_the_meters_own(client, emulator):
    make_meter(
        client,
        customer_mapping={"event_payload_key": "who", "type": "by_id"},
        value_settings={"event_payload_key": "amount"},
    )
    customer = client.v1.customers.create()

    client.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": {"who": customer.id, "amount": "7", "model": "ignored"}}
    )
    error = refusal(
        client.v1.billing.meter_events.create,
        {"event_name": "tokens", "payload": {"stripe_customer_id": customer.id, "value": "7"}},
    )

    assert error.param == "payload[who]"
    assert emulator.truth.as_dict()["event_names"] == {"tokens": {"count": 1, "sum": "7"}}


def test_missing_value_is_refused_except_by_a_count_meter(shop):
    counted = make_meter(shop.client, "calls", "count")
    payload = {"stripe_customer_id": shop.customer.id}

    error = refusal(
        shop.client.v1.billing.meter_events.create, {"event_name": "tokens", "payload": payload}
    )
    shop.client.v1.billing.meter_events.create(
        {"event_name": counted.event_name, "payload": payload}
    )

    assert error.param == "payload[value]"


@pytest.mark.parametrize(
    ("params", "param", "message"),
    [
        ({"payload": {}}, "event_name", "Missing required param: event_name."),
        ({"event_name": "tokens"}, "payload", "Missing required param: payload."),
        (
            {"event_name": "tokens", "payload": {"a": "b"}, "customer_id": "x"},
            "customer_id",
            "Received unknown",
        ),
        (
            {"event_name": "tokens", "payload": {"a": "b"}, "timestamp": "soon"},
            "timestamp",
            "Invalid integer",
        ),
        (
            {"event_name": "tokens", "payload": {"a": "b"}, "identifier": "x" * 101},
            "identifier",
            "Invalid string",
        ),
        ({"event_name": "tokens", "payload": {"a": "b" * 101}}, "payload[a]", "Values in payload"),
        ({"event_name": "x" * 101, "payload": {"a": "b"}}, "event_name", "Invalid string"),
        ({"event_name": "", "payload": {"a": "b"}}, "event_name", "'event_name' is empty"),
    ],
)
def test_bad_parameters_get_the_error_stripe_gives(shop, params, param, message):
    error = refusal(shop.client.raw_request, "post", "/v1/billing/meter_events", **params)

    assert error.http_status == 400
    assert error.param == param
    assert error.error.message.startswith(message)


def test_unknown_usage_can_be_accepted_and_reported_later(shop):
    shop.emulator.settings.change(unknown_usage="report")

    event = shop.client.v1.billing.meter_events.create(
        {"event_name": "nothing", "payload": {"stripe_customer_id": shop.customer.id, "value": "1"}}
    )

    assert event.event_name == "nothing"
    assert (
        shop.emulator.arrivals.read(after=0, limit=100)[-1].events[0].verdict == "refused:no_meter"
    )


def test_counted_later_than_accepted(shop):
    shop.emulator.settings.change(settle_lag_seconds=120)
    shop.send("one", "5")

    before = shop.total()
    shop.emulator.clock.advance(119)
    still = shop.total()
    shop.emulator.clock.advance(1)

    assert (before, still, shop.total()) == (0, 0, 5)


def test_settings_refuse_what_they_do_not_know():
    settings = Settings()

    for wrong in (
        {"nothing": 1},
        {"rate_limits": "fast"},
        {"settle_lag_seconds": -1},
        {"one_call_per_pair": 1},
    ):
        with pytest.raises(ValueError, match=r"setting|one of|number|takes"):
            settings.change(**wrong)

    assert settings == Settings()


def test_single_events_can_count_later_than_others(shop):
    shop.emulator.faults.switch_on("settle_late", skip=1, count=1, delay_seconds=60)
    for name in ("one", "two", "three"):
        shop.send(name)

    before = shop.total()
    shop.emulator.clock.advance(60)

    assert (before, shop.total()) == (2, 3)


def test_late_event_can_be_cancelled_before_it_counts(shop):
    shop.emulator.faults.switch_on("settle_late", count=1, delay_seconds=60)
    shop.send("one")
    shop.client.v1.billing.meter_event_adjustments.create(
        {"event_name": "tokens", "type": "cancel", "cancel": {"identifier": "one"}}
    )
    shop.emulator.clock.advance(60)

    assert shop.total() == 0
