"""What a client sees of faults through the in-process transport, and who may call."""

import base64
import threading

import pytest
import stripe

from stripe_emulator import Emulator, Request
from stripe_emulator.transport import InProcessTransport

from .conftest import NOW

pytestmark = pytest.mark.unit


def test_lost_answer_means_processed(shop):
    shop.emulator.faults.switch_on("answer_lost", path="/v1/billing/meter_events", count=1)

    with pytest.raises(stripe.APIConnectionError) as caught:
        shop.send("one")

    assert caught.value.should_retry is True
    assert shop.total() == 1


def test_dropped_before_means_not_processed(shop):
    shop.emulator.faults.switch_on("drop_before", path="/v1/billing/meter_events", count=1)

    with pytest.raises(stripe.APIConnectionError):
        shop.send("one")
    shop.send("one")

    assert shop.total() == 1


def test_reset_in_mid_body_means_processed(shop):
    shop.emulator.faults.switch_on("reset_mid_body", path="/v1/billing/meter_events", count=1)

    with pytest.raises(stripe.APIConnectionError):
        shop.send("one")

    assert shop.total() == 1


@pytest.mark.parametrize(
    ("fault", "status", "kind", "code", "headers"),
    [
        ("503", 503, stripe.APIError, None, {}),
        (
            "429",
            429,
            stripe.RateLimitError,
            "rate_limit",
            {"Stripe-Rate-Limited-Reason": "global-rate"},
        ),
        ("429_without_reason", 429, stripe.RateLimitError, "rate_limit", {}),
        (
            "lock_timeout",
            429,
            stripe.RateLimitError,
            "lock_timeout",
            {"Stripe-Should-Retry": "true"},
        ),
        ("409", 409, stripe.APIError, "idempotency_key_in_use", {}),
        ("400", 400, stripe.InvalidRequestError, "moon_in_wrong_house", {}),
        ("401", 401, stripe.AuthenticationError, None, {}),
        ("403", 403, stripe.PermissionError, None, {}),
    ],
)
def test_refusals_on_request(shop, fault, status, kind, code, headers):
    shop.emulator.faults.switch_on(fault, path="/v1/billing/meter_events", count=1)

    with pytest.raises(stripe.StripeError) as caught:
        shop.send("one")

    error = caught.value
    assert (type(error), error.http_status, error.error.code) == (kind, status, code)
    watched = {"Stripe-Rate-Limited-Reason", "Stripe-Should-Retry"}
    assert {name: error.headers[name] for name in watched if name in error.headers} == headers
    assert shop.total() == 0


def test_sdk_retries_a_lost_answer_under_the_same_key(emulator, monkeypatch):
    monkeypatch.setattr(stripe.HTTPClient, "_sleep_time_seconds", lambda *_: 0)
    transport = InProcessTransport(emulator)
    client = stripe.StripeClient("sk_test_emulator", http_client=transport, max_network_retries=2)
    emulator.faults.switch_on("answer_lost", count=2)

    customer = client.v1.customers.create({"email": "a@example.com"})

    assert [each["id"] for each in emulator.world.customers] == [customer.id]


def test_rule_strikes_by_path_method_count_skip_and_probability(emulator):
    faults = emulator.faults
    faults.switch_on("503", path="/v1/billing/*", method="POST", skip=1, count=2)
    struck = [faults.for_request("POST", "/v1/billing/meters") is not None for _ in range(5)]
    others = [
        faults.for_request("GET", "/v1/billing/meters"),
        faults.for_request("POST", "/v1/customers"),
    ]
    faults.clear()
    faults.switch_on("503", probability=0.3, seed=7)
    first = [faults.for_request("POST", "/x") is not None for _ in range(1000)]
    faults.clear()
    faults.switch_on("503", probability=0.3, seed=7)
    again = [faults.for_request("POST", "/x") is not None for _ in range(1000)]

    assert struck == [False, True, True, False, False]
    assert others == [None, None]
    assert first == again
    assert 250 < sum(first) < 350


@pytest.mark.parametrize("wrong", [{"kind": "nothing"}, {"kind": "503", "probability": 1.5}])
def test_rule_refuses_nonsense(emulator, wrong):
    with pytest.raises(ValueError, match=r"fault|probability"):
        emulator.faults.switch_on(**wrong)


@pytest.mark.parametrize("key", ["pk_test_1", "nonsense", "whsec_1"])
def test_other_keys_are_refused(transport, key):
    with pytest.raises(stripe.AuthenticationError) as caught:
        stripe.StripeClient(key, http_client=transport).v1.customers.list()

    assert caught.value.http_status == 401


@pytest.mark.parametrize(
    ("key", "livemode"),
    [
        ("sk_test_1234567", False),
        ("rk_test_1234567", False),
        ("sk_live_1234567", True),
        ("rk_live_1", True),
    ],
)
def test_key_decides_the_mode(transport, key, livemode):
    assert (
        stripe.StripeClient(key, http_client=transport).v1.customers.create({}).livemode is livemode
    )


def test_modes_do_not_see_each_other(shop, transport):
    live = stripe.StripeClient("sk_live_emulator", http_client=transport)

    with pytest.raises(stripe.InvalidRequestError, match="exists in test mode") as caught:
        live.v1.customers.retrieve(shop.customer.id)

    assert caught.value.http_status == 404
    assert caught.value.code == "resource_missing"
    assert live.v1.customers.list().data == []


def test_unknown_url_is_a_404(client):
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL") as caught:
        client.raw_request("get", "/v1/nothing")

    assert caught.value.http_status == 404


def test_threads_share_one_transport():
    emulator = Emulator(now=lambda: NOW)
    transport = InProcessTransport(emulator)

    def work():
        client = stripe.StripeClient("sk_test_emulator", http_client=transport)
        for _ in range(50):
            client.v1.customers.create({})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(emulator.world.customers) == 400
    assert [arrival.number for arrival in emulator.arrivals] == list(range(1, 401))


def test_calls_overlap_while_one_is_slow(shop):
    """The delay passes outside of the lock, so a second call for the pair finds the first in flight."""
    transport = InProcessTransport(shop.emulator, sleep=lambda _: inner())
    client = stripe.StripeClient("sk_test_emulator", http_client=transport)
    shop.emulator.faults.switch_on("slow", delay_seconds=5, count=1)
    seen = []

    def inner():
        seen.append(shop.send("two"))

    client.v1.billing.meter_events.create(
        {
            "event_name": "tokens",
            "payload": {"stripe_customer_id": shop.customer.id, "value": "1"},
            "identifier": "one",
        }
    )

    assert [event.identifier for event in seen] == ["two"]
    assert dict(shop.emulator.world.violations.counts) == {"two_calls_in_flight": 1}


def test_one_call_for_a_pair_when_asked(shop):
    shop.emulator.settings.change(one_call_per_pair=True)
    transport = InProcessTransport(shop.emulator, sleep=lambda _: inner())
    client = stripe.StripeClient("sk_test_emulator", http_client=transport)
    shop.emulator.faults.switch_on("slow", delay_seconds=5, count=1)
    errors = []

    def inner():
        with pytest.raises(stripe.RateLimitError) as caught:
            shop.send("two")
        errors.append(caught.value)

    client.v1.billing.meter_events.create(
        {
            "event_name": "tokens",
            "payload": {"stripe_customer_id": shop.customer.id, "value": "1"},
            "identifier": "one",
        }
    )
    shop.send("three")

    assert [error.http_status for error in errors] == [429]
    assert shop.total() == 2


def test_basic_authentication_names_the_key_as_user(emulator):
    user = base64.b64encode(b"sk_live_emulator:").decode()

    reply = emulator.handle(
        Request("GET", "/v1/customers", headers={"authorization": f"Basic {user}"})
    )

    assert reply.status == 200
    assert list(emulator.arrivals)[-1].livemode is True


@pytest.mark.parametrize("body", [b"email=a&email[b]=c", b"metadata=x&metadata[a]=b"])
def test_name_with_a_value_and_members_is_refused(emulator, body):
    headers = {"authorization": "Bearer sk_test_x"}

    reply = emulator.handle(Request("POST", "/v1/customers", headers=headers, body=body))

    assert reply.status == 400
    assert len(emulator.world.customers) == 0


def test_rule_for_a_method_lets_others_pass(emulator):
    emulator.faults.switch_on("503", method="POST")

    assert emulator.faults.for_request("GET", "/v1/customers") is None
    assert emulator.faults.for_request("POST", "/v1/customers") is not None


def test_pairs_are_forgotten_when_their_calls_are_over(shop):
    for index in range(3):
        shop.send(str(index))

    in_flight = shop.emulator._parts.in_flight
    assert (dict(in_flight._pairs), in_flight._tickets) == ({}, {})
