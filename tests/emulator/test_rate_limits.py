"""Stripe's published rates, when asked for."""

import json

import pytest
import stripe

from stripe_emulator import Request

from .conftest import NOW

pytestmark = pytest.mark.unit
V = "2026-10-28.endive"


def calls(emulator, path, times, *, key="sk_live_x", method="POST", body=b"", more=()):
    """How many of `times` calls in one instant got past the limiter, and why the others did not."""
    headers = {"authorization": f"Bearer {key}", "stripe-version": V, **dict(more)}
    replies = [
        emulator.handle(Request(method, path, headers=headers, body=body)) for _ in range(times)
    ]
    reasons = {
        reply.headers["Stripe-Rate-Limited-Reason"] for reply in replies if reply.status == 429
    }
    return sum(reply.status != 429 for reply in replies), reasons


def test_no_limits_unless_asked(emulator):
    assert calls(emulator, "/v1/customers", 2000) == (2000, set())


def test_live_meter_events_have_a_thousand_of_their_own(emulator):
    emulator.settings.change(rate_limits="live")

    assert calls(emulator, "/v1/billing/meter_events", 1100) == (1000, {"endpoint-rate"})
    assert calls(emulator, "/v2/billing/meter_events", 1100) == (1000, {"endpoint-rate"})
    assert calls(emulator, "/v1/customers", 20) == (20, set())


def test_meter_events_of_a_connected_account_have_the_basic_limit(emulator):
    emulator.settings.change(rate_limits="live")
    more = {"stripe-account": "acct_1"}

    assert calls(emulator, "/v1/billing/meter_events", 30, more=more) == (25, {"endpoint-rate"})
    assert calls(emulator, "/v2/billing/meter_events", 30, more=more) == (30, set())


def test_live_endpoint_takes_25_and_the_account_100(emulator):
    emulator.settings.change(rate_limits="live")

    assert calls(emulator, "/v1/customers", 30) == (25, {"endpoint-rate"})
    others = [
        calls(emulator, path, 25, method="GET")[0]
        for path in ("/v1/prices", "/v1/products", "/v1/events", "/v1/invoices")
    ]
    # The five refused above were counted to the account as well.
    assert others == [25, 25, 20, 0]
    assert calls(emulator, "/v1/subscriptions", 1, method="GET") == (0, {"global-rate"})


def test_search_takes_twenty(emulator):
    emulator.settings.change(rate_limits="live")

    assert calls(emulator, "/v1/customers/search", 25, method="GET") == (20, {"endpoint-rate"})


def test_sandbox_counts_everything_to_25(emulator):
    emulator.settings.change(rate_limits="sandbox")

    assert calls(emulator, "/v1/billing/meter_events", 15, key="sk_test_x")[0] == 15
    assert calls(emulator, "/v1/customers", 15, key="sk_test_x") == (10, {"global-rate"})


def test_allowance_comes_back_with_time(emulator):
    emulator.settings.change(rate_limits="sandbox")
    calls(emulator, "/v1/customers", 25, key="sk_test_x")
    emulator.clock.advance(0.2)
    some = calls(emulator, "/v1/customers", 25, key="sk_test_x")[0]
    emulator.clock.advance(60)

    assert (some, calls(emulator, "/v1/customers", 30, key="sk_test_x")[0]) == (5, 25)


def test_stream_is_limited_by_events(emulator, transport):
    emulator.settings.change(rate_limits="live")
    live = stripe.StripeClient("sk_live_x", http_client=transport)
    token = live.v2.billing.meter_event_session.create().authentication_token
    events = [{"event_name": "x", "payload": {}}] * 100
    body = json.dumps({"events": events}).encode()

    assert calls(emulator, "/v2/billing/meter_event_stream", 110, key=token, body=body) == (
        100,
        {"endpoint-rate"},
    )


def test_replays_are_limited_too(emulator):
    emulator.settings.change(rate_limits="sandbox")
    headers = {"authorization": "Bearer sk_test_x", "idempotency-key": "k"}
    statuses = [
        emulator.handle(Request("POST", "/v1/customers", headers=headers)).status for _ in range(30)
    ]

    assert statuses == [200] * 25 + [429] * 5


def test_refusal_is_not_stored_and_has_v1_shape(emulator, client):
    emulator.settings.change(rate_limits="sandbox")
    calls(emulator, "/v1/prices", 25, key="sk_test_x", method="GET")
    with pytest.raises(stripe.RateLimitError) as caught:
        client.v1.customers.create({}, {"idempotency_key": "k"})
    emulator.clock.advance(1)

    assert caught.value.error.code == "rate_limit"
    assert "Stripe-Should-Retry" not in caught.value.headers
    assert client.v1.customers.create({}, {"idempotency_key": "k"}).created == NOW + 1
    assert [each.verdict for each in emulator.arrivals][-2] == "limited"
