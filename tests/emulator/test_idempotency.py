"""Idempotency-Keys of v1: what is stored, for whom, and for how long."""

import pytest
import stripe

from stripe_emulator import Request

from .conftest import NOW

pytestmark = pytest.mark.unit


def key(name):
    return {"idempotency_key": name}


def test_same_key_and_parameters_replay_the_first_answer(shop):
    first = shop.send("one", options=key("k"))
    again = shop.send("one", options=key("k"))

    assert again.to_dict() == first.to_dict()
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert shop.total() == 1


def test_same_key_with_other_parameters_is_a_mismatch(shop):
    shop.send("one", "1", options=key("k"))

    with pytest.raises(stripe.IdempotencyError) as caught:
        shop.send("one", "2", options=key("k"))

    assert caught.value.http_status == 400
    assert shop.total() == 1


def test_same_key_on_another_endpoint_is_a_mismatch(shop):
    shop.send("one", options=key("k"))

    with pytest.raises(stripe.IdempotencyError, match="same endpoint") as caught:
        shop.client.v1.customers.create({}, key("k"))

    assert caught.value.http_status == 400


def test_a_stored_500_comes_back_although_the_event_counted(shop):
    shop.emulator.faults.switch_on("500_after", count=1)

    answers = []
    for _ in range(2):
        with pytest.raises(stripe.APIError) as caught:
            shop.send("one", options=key("k"))
        answers.append(caught.value.http_status)
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        shop.send("one", options=key("k2"))

    assert answers == [500, 500]
    assert shop.total() == 1


def test_a_500_before_the_work_is_stored_too_and_nothing_counted(shop):
    shop.emulator.faults.switch_on("500_before", count=1)

    for _ in range(2):
        with pytest.raises(stripe.APIError):
            shop.send("one", options=key("k"))
    assert shop.total() == 0
    shop.send("one", options=key("k2"))

    assert shop.total() == 1


def test_a_400_of_the_endpoint_is_stored(shop):
    with pytest.raises(stripe.InvalidRequestError):
        shop.send("one", "nonsense", options=key("k"))

    with pytest.raises(stripe.IdempotencyError):
        shop.send("one", "1", options=key("k"))


def test_failed_validation_is_not_stored(shop):
    with pytest.raises(stripe.InvalidRequestError, match="Missing required param"):
        shop.client.raw_request(
            "post", "/v1/billing/meter_events", event_name="tokens", idempotency_key="k"
        )

    shop.send("one", options=key("k"))

    assert shop.total() == 1


@pytest.mark.parametrize("fault", ["503", "429", "429_without_reason", "lock_timeout", "409"])
def test_refusals_ahead_of_the_endpoint_are_not_stored(shop, fault):
    shop.emulator.faults.switch_on(fault, count=1)
    with pytest.raises(stripe.StripeError):
        shop.send("one", options=key("k"))

    shop.send("one", options=key("k"))

    assert shop.total() == 1


def test_key_acts_anew_after_a_day(shop):
    first = shop.client.v1.customers.create({"email": "b@example.com"}, key("k"))
    shop.emulator.clock.advance(86_399)
    same = shop.client.v1.customers.create({"email": "b@example.com"}, key("k"))
    shop.emulator.clock.advance(1)
    other = shop.client.v1.customers.create({"email": "b@example.com"}, key("k"))

    assert same.id == first.id
    assert other.id != first.id


def test_key_is_ignored_on_get(shop):
    shop.client.raw_request("get", "/v1/customers", idempotency_key="k")

    assert shop.client.v1.customers.create({}, key("k")).object == "customer"


def test_test_and_live_keys_do_not_share_answers(shop, transport):
    live = stripe.StripeClient("sk_live_emulator", http_client=transport)

    mine = shop.client.v1.customers.create({}, key("k"))
    theirs = live.v1.customers.create({}, key("k"))

    assert mine.id != theirs.id
    assert (mine.livemode, theirs.livemode) == (False, True)


def test_key_in_flight_is_a_conflict(shop, emulator):
    request = Request(
        "POST",
        "/v1/customers",
        headers={"authorization": "Bearer sk_test_x", "idempotency-key": "k"},
        body=b"email=c@example.com",
    )
    first = emulator.begin(request)
    second = emulator.begin(request)
    emulator.finish(second)
    emulator.finish(first)
    third = emulator.handle(request)

    assert (first.status, second.status, third.status) == (200, 409, 200)
    assert b"idempotency_key_in_use" in second.body
    assert third.headers["Idempotent-Replayed"] == "true"


def test_refusal_of_a_second_call_for_a_pair_is_not_stored(shop, emulator):
    emulator.settings.change(one_call_per_pair=True)

    def request(name):
        body = f"event_name=tokens&payload[stripe_customer_id]={shop.customer.id}&payload[value]=1"
        headers = {"authorization": "Bearer sk_test_x", "idempotency-key": name}
        return Request("POST", "/v1/billing/meter_events", headers=headers, body=body.encode())

    first = emulator.begin(request("a"))
    second = emulator.begin(request("b"))
    emulator.finish(second)
    emulator.finish(first)
    third = emulator.handle(request("b"))

    assert (first.status, second.status, third.status) == (200, 429, 200)
    assert "Idempotent-Replayed" not in third.headers
    assert shop.total() == 2


def test_key_longer_than_255_is_refused(shop):
    with pytest.raises(stripe.InvalidRequestError, match="at most 255"):
        shop.send("one", at=NOW, options=key("x" * 256))
