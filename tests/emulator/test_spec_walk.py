"""Every operation we emulate, through the official SDK, checked against Stripe's description both ways."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import stripe

from stripe_emulator.core.routing import ROUTES
from stripe_emulator.transport import InProcessTransport

from . import sdk_shapes, spec
from .conftest import NOW

pytestmark = pytest.mark.contract


ALWAYS_REFUSED = {
    ("DELETE", "/v1/customers/{customer}/discount"),
    ("DELETE", "/v1/subscriptions/{subscription_exposed_id}/discount"),
}
"""Nothing here makes discounts, so none is ever deleted: its refusal is held to the description."""

BESIDE = ("/v1/invoiceitems", "/v1/credit_notes", "/v1/billing/credit_balance_")
"""Served although the description has them not: `test_sdk_shapes` holds them to the SDK's classes."""


class Checking(InProcessTransport):
    """Hold every request and answer against the description."""

    def __init__(self, emulator) -> None:
        super().__init__(emulator)
        self.walked: set[tuple[str, str]] = set()

    def request(self, method, url, headers, post_data=None, *, _usage=None):
        parts = urlsplit(url)
        sent = (
            (post_data or "").encode()
            if isinstance(post_data, str) or post_data is None
            else post_data
        )
        body, status, answer_headers = super().request(method, url, headers, post_data)
        if parts.path.startswith(BESIDE):
            return body, status, answer_headers
        template, _ = spec.operation(method, parts.path)
        spec.check_request(method, parts.path, parts.query, sent)
        spec.check_answer(method, parts.path, status, json.loads(body))
        if status == (404 if (method.upper(), template) in ALWAYS_REFUSED else 200):
            self.walked.add((method.upper(), template))
        return body, status, answer_headers


@pytest.fixture
def checking(emulator) -> Checking:
    spec.description()
    return Checking(emulator)


@pytest.fixture
def walker(checking) -> stripe.StripeClient:
    return stripe.StripeClient("sk_test_emulator", http_client=checking)


def walk_customers(c) -> Iterator[Any]:
    made = c.v1.customers.create(
        {
            "email": "a@example.com",
            "name": "Ada",
            "metadata": {"a": "1"},
            "phone": "1",
            "address": {"city": "Berlin"},
        }
    )
    yield c.v1.customers.retrieve(made.id)
    yield c.v1.customers.update(
        made.id, {"description": "x", "invoice_settings": {"default_payment_method": "pm_1"}}
    )
    yield c.v1.customers.list({"limit": 1, "created": {"gte": 1}, "email": "a@example.com"})
    with pytest.raises(stripe.InvalidRequestError, match="no active discount"):
        c.v1.customers.delete_discount(made.id)
    yield c.v1.customers.delete(made.id)
    yield c.v1.customers.retrieve(made.id)


def walk_products(c) -> Iterator[Any]:
    made = c.v1.products.create(
        {"name": "Tokens", "description": "x", "unit_label": "token", "metadata": {"a": "1"}}
    )
    yield c.v1.products.create(
        {
            "name": "Seats",
            "default_price_data": {
                "currency": "usd",
                "unit_amount": 900,
                "recurring": {"interval": "month"},
            },
            "expand": ["default_price"],
        }
    )
    yield c.v1.products.retrieve(made.id)
    yield c.v1.products.update(made.id, {"name": "New", "active": False})
    yield c.v1.products.list({"active": False, "ids": [made.id]})
    yield c.v1.products.delete(made.id)


def walk_prices(c) -> Iterator[Any]:
    product = c.v1.products.create({"name": "Tokens"})
    meter = make_walk_meter(c, "prices")
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter.id}
    base = {"currency": "usd", "product": product.id}
    made = c.v1.prices.create(
        {
            **base,
            "unit_amount": 4,
            "recurring": recurring,
            "transform_quantity": {"divide_by": 1000, "round": "up"},
            "lookup_key": "a",
        }
    )
    yield c.v1.prices.create(
        {
            **base,
            "unit_amount_decimal": "0.004",
            "recurring": recurring,
            "lookup_key": "a",
            "transfer_lookup_key": True,
        }
    )
    for mode in ("graduated", "volume"):
        tiers = [
            {"up_to": 5, "unit_amount": 3},
            {"up_to": "inf", "flat_amount_decimal": "2.5", "unit_amount": 1},
        ]
        yield c.v1.prices.create(
            {
                **base,
                "billing_scheme": "tiered",
                "tiers_mode": mode,
                "tiers": tiers,
                "recurring": recurring,
                "expand": ["tiers"],
            }
        )
    yield c.v1.prices.create(
        {"currency": "usd", "unit_amount": 500, "product_data": {"name": "Once"}}
    )
    yield c.v1.prices.retrieve(made.id, {"expand": ["product"]})
    yield c.v1.prices.update(made.id, {"active": False, "nickname": "old", "lookup_key": "b"})
    yield c.v1.prices.list(
        {
            "lookup_keys": ["a"],
            "active": True,
            "recurring": {"meter": meter.id},
            "expand": ["data.tiers"],
        }
    )


def make_walk_meter(c, name: str, formula: str = "sum", **extra: Any):
    return c.v1.billing.meters.create(
        {
            "display_name": name,
            "event_name": name,
            "default_aggregation": {"formula": formula},
            "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
            "value_settings": {"event_payload_key": "value"},
            **extra,
        }
    )


def walk_meters(c) -> Iterator[Any]:
    made = make_walk_meter(c, "meters", "last", event_time_window="hour")
    yield c.v1.billing.meters.retrieve(made.id)
    yield c.v1.billing.meters.update(made.id, {"display_name": "New"})
    yield c.v1.billing.meters.deactivate(made.id)
    yield c.v1.billing.meters.list({"status": "inactive"})
    yield c.v1.billing.meters.reactivate(made.id)


def walk_usage(c) -> Iterator[Any]:
    meter = make_walk_meter(c, "usage")
    customer = c.v1.customers.create({})
    payload = {"stripe_customer_id": customer.id, "value": "2.5"}
    yield c.v1.billing.meter_events.create(
        {"event_name": "usage", "payload": payload, "identifier": "a", "timestamp": NOW}
    )
    yield c.v1.billing.meter_events.create({"event_name": "usage", "payload": payload})
    for extra in ({}, {"value_grouping_window": "hour", "limit": 1}):
        yield c.v1.billing.meters.event_summaries.list(
            meter.id,
            {"customer": customer.id, "start_time": NOW - 3600, "end_time": NOW + 3600, **extra},
        )


def walk_subscriptions(c) -> Iterator[Any]:
    product = c.v1.products.create({"name": "Plan"})
    meter = make_walk_meter(c, "subscriptions")
    metered = c.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount": 4,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
        }
    )
    base = c.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount": 900,
            "recurring": {"interval": "month"},
        }
    )
    customer = c.v1.customers.create({})
    made = c.v1.subscriptions.create(
        {
            "customer": customer.id,
            "items": [{"price": metered.id}],
            "metadata": {"a": "1"},
            "expand": ["pending_setup_intent", "customer"],
        }
    )
    paid = c.v1.subscriptions.create(
        {
            "customer": customer.id,
            "items": [{"price": base.id, "quantity": 2}, {"price": metered.id}],
            "payment_behavior": "default_incomplete",
            "expand": ["latest_invoice.confirmation_secret", "items.data.price.product"],
        }
    )
    yield c.v1.invoices.retrieve(
        paid.latest_invoice.id, {"expand": ["customer", "subscription"][:1]}
    )
    yield c.v1.invoices.list({"customer": customer.id, "status": "open", "subscription": paid.id})
    yield c.v1.invoices.pay(paid.latest_invoice.id, {"paid_out_of_band": True})
    yield c.v1.subscriptions.retrieve(made.id, {"expand": ["latest_invoice"]})
    yield c.v1.subscriptions.update(
        made.id,
        {
            "cancel_at_period_end": True,
            "items": [{"id": made["items"].data[0].id, "metadata": {"b": "2"}}],
            "billing_cycle_anchor": {"type": "now"},
        },
    )
    yield c.v1.subscriptions.list(
        {
            "customer": customer.id,
            "status": "all",
            "price": metered.id,
            "expand": ["data.latest_invoice"],
        }
    )
    yield c.v1.subscriptions.cancel(
        made.id, {"invoice_now": True, "prorate": True, "cancellation_details": {"comment": "bye"}}
    )


def walk_life_of_a_subscription(c) -> Iterator[Any]:
    product = c.v1.products.create({"name": "Plan"})
    meter = make_walk_meter(c, "life")
    graduated, dearer = (
        c.v1.prices.create(
            {
                "currency": "usd",
                "product": product.id,
                "billing_scheme": "tiered",
                "tiers_mode": "graduated",
                "tiers": [
                    {"up_to": 10, "unit_amount": first},
                    {"up_to": "inf", "unit_amount_decimal": "0.5"},
                ],
                "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
            }
        )
        for first in (100, 200)
    )
    base = c.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount": 900,
            "recurring": {"interval": "month"},
        }
    )
    customer = c.v1.customers.create(
        {"invoice_settings": {"default_payment_method": "pm_card_visa"}}
    )
    classic = c.v1.subscriptions.create(
        {
            "customer": customer.id,
            "items": [{"price": graduated.id}],
            "billing_mode": {"type": "classic"},
        }
    )
    yield c.v1.subscriptions.migrate(classic.id, {"billing_mode": {"type": "flexible"}})
    made = c.v1.subscriptions.create(
        {
            "customer": customer.id,
            "items": [{"price": base.id, "quantity": 2}, {"price": graduated.id}],
            "trial_settings": {"end_behavior": {"missing_payment_method": "pause"}},
        }
    )
    c.v1.billing.meter_events.create(
        {"event_name": "life", "payload": {"stripe_customer_id": customer.id, "value": "25"}}
    )
    emulator_of(c).clock.advance(10)
    yield c.v1.invoices.create_preview({"customer": customer.id})
    details = {
        "items": [
            {"id": made["items"].data[0].id, "quantity": 3},
            {"id": made["items"].data[1].id, "price": dearer.id},
        ]
    }
    preview = {"subscription": made.id, "subscription_details": details}
    yield c.v1.invoices.create_preview(preview)
    yield c.v1.invoices.create_preview({**preview, "preview_mode": "recurring"})
    yield c.v1.invoices.create_preview(
        {
            "customer": customer.id,
            "subscription_details": {
                "items": [{"price": base.id, "quantity": 1}, {"price": graduated.id}],
                "billing_mode": {"type": "flexible"},
            },
        }
    )
    yield c.v1.subscriptions.update(
        made.id, {**details, "proration_behavior": "always_invoice", "expand": ["latest_invoice"]}
    )
    with pytest.raises(stripe.InvalidRequestError, match="no active discount"):
        c.v1.subscriptions.delete_discount(made.id)
    held = c.v1.subscriptions.create(
        {
            "customer": customer.id,
            "items": [{"price": base.id}],
            "billing_thresholds": {"amount_gte": 100_000},
        }
    )
    c.v1.customers.update(
        customer.id, {"invoice_settings": {"default_payment_method": "pm_card_chargeDeclined"}}
    )
    yield c.v1.subscriptions.update(
        held.id,
        {
            "items": [{"id": held["items"].data[0].id, "quantity": 9}],
            "payment_behavior": "pending_if_incomplete",
            "proration_behavior": "always_invoice",
        },
    )
    yield c.v1.subscriptions.pause(
        made.id,
        {
            "bill_for": {
                "outstanding_usage_through": {"type": "now"},
                "unused_time_from": {"type": "now"},
            },
            "invoicing_behavior": "invoice",
            "expand": ["latest_invoice"],
        },
    )
    yield c.v1.subscriptions.resume(
        made.id,
        {
            "billing_cycle_anchor": {"type": "now"},
            "payment_behavior": "resume_on_payment_attempt",
            "expand": ["latest_invoice"],
        },
    )
    emulator_of(c).clock.advance(32 * 86_400)
    yield c.v1.invoices.list({"subscription": made.id})


def walk_invoices(c) -> Iterator[Any]:
    customer = c.v1.customers.create(
        {"invoice_settings": {"default_payment_method": "pm_card_visa"}}
    )
    product = c.v1.products.create({"name": "Work"})
    price = c.v1.prices.create({"currency": "usd", "product": product.id, "unit_amount": 500})
    draft = c.v1.invoices.create(
        {
            "customer": customer.id,
            "auto_advance": True,
            "automatically_finalizes_at": NOW + 86_400,
            "collection_method": "charge_automatically",
            "currency": "usd",
            "description": "by hand",
            "metadata": {"a": "1"},
            "pending_invoice_items_behavior": "include",
            "expand": ["customer"],
        }
    )
    yield c.v1.invoices.update(draft.id, {"auto_advance": False, "metadata": {"b": "2"}})
    added = c.v1.invoices.add_lines(
        draft.id,
        {
            "lines": [
                {"amount": 700, "description": "x", "period": {"start": NOW, "end": NOW + 10}},
                {"pricing": {"price": price.id}, "quantity": 3, "metadata": {"c": "3"}},
                {
                    "price_data": {
                        "currency": "usd",
                        "product_data": {"name": "New"},
                        "unit_amount_decimal": "0.5",
                    },
                    "quantity_decimal": "2.5",
                },
            ],
            "invoice_metadata": {"d": "4"},
        },
    )
    first, second, third = [line.id for line in added.lines.data]
    yield c.v1.invoices.line_items.update(draft.id, first, {"amount": 800, "expand": []})
    yield c.v1.invoices.update_lines(draft.id, {"lines": [{"id": second, "quantity": 2}]})
    yield c.v1.invoices.remove_lines(
        draft.id, {"lines": [{"id": third, "behavior": "delete"}], "invoice_metadata": ""}
    )
    yield c.v1.invoices.line_items.list(
        draft.id, {"limit": 1, "expand": ["data.pricing.price_details.price"]}
    )
    yield c.v1.invoices.finalize_invoice(
        draft.id, {"auto_advance": False, "expand": ["payments", "confirmation_secret"]}
    )
    yield c.v1.invoices.attach_payment(
        draft.id,
        {"payment_intent": "pi_elsewhere", "expand": ["payments.data.payment.payment_intent"]},
    )
    yield c.v1.invoices.pay(draft.id, {"payment_method": "pm_card_visa", "off_session": False})
    yield c.v1.invoices.search({"query": f"customer:'{customer.id}' AND total>1000", "limit": 1})
    yield c.v1.subscriptions.search({"query": "status:'active'"})

    sent = {"customer": customer.id, "collection_method": "send_invoice", "days_until_due": 3}
    given_up = c.v1.invoices.create(sent)
    c.v1.invoices.add_lines(given_up.id, {"lines": [{"amount": 900}]})
    yield c.v1.invoices.send_invoice(given_up.id)
    yield c.v1.invoices.mark_uncollectible(given_up.id)
    yield c.v1.invoices.void_invoice(given_up.id)
    gone = c.v1.invoices.create(sent)
    yield c.v1.invoices.delete(gone.id)


def walk_credits(c) -> Iterator[Any]:
    customer = c.v1.customers.create(
        {"invoice_settings": {"default_payment_method": "pm_card_visa"}}
    )
    meter = make_walk_meter(c, "credits")
    product = c.v1.products.create({"name": "Credits"})
    price = c.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount": 4,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
        }
    )
    subscription = c.v1.subscriptions.create(
        {"customer": customer.id, "items": [{"price": price.id}]}
    )
    grants = [
        c.v1.billing.credit_grants.create(
            {
                "customer": customer.id,
                "amount": {"type": "monetary", "monetary": {"currency": "usd", "value": 100}},
                "applicability_config": {"scope": scope},
                "category": "promotional",
                "name": "x",
                "priority": 3,
                "effective_at": NOW,
                "expires_at": NOW + 1_000_000,
                "metadata": {"a": "1"},
                "expand": ["customer"],
            }
        )
        for scope in ({"price_type": "metered"}, {"prices": [{"id": price.id}]}) * 2
    ]
    c.v1.billing.meter_events.create(
        {"event_name": "credits", "payload": {"stripe_customer_id": customer.id, "value": "90"}}
    )
    emulator_of(c).clock.advance(1)
    cancelled = c.v1.subscriptions.cancel(subscription.id, {"invoice_now": True})
    yield c.v1.invoices.retrieve(
        cancelled.latest_invoice,
        {"expand": ["total_pretax_credit_amounts.credit_balance_transaction.credit_grant"]},
    )
    *_, last, newest = grants
    yield c.v1.billing.credit_grants.retrieve(last.id, {"expand": ["customer"]})
    yield c.v1.billing.credit_grants.update(newest.id, {"expires_at": "", "metadata": {"b": "2"}})
    yield c.v1.billing.credit_grants.list({"customer": customer.id, "limit": 2})
    c.v1.billing.credit_grants.expire(last.id)
    another = c.v1.billing.credit_grants.create(
        {
            "customer": customer.id,
            "amount": {"type": "monetary", "monetary": {"currency": "usd", "value": 100}},
            "applicability_config": {"scope": {"price_type": "metered"}},
        }
    )
    yield c.v1.billing.credit_grants.void_grant(another.id)


def walk_events(c) -> Iterator[Any]:
    c.v1.customers.create({})
    page = c.v1.events.list({"types": ["customer.created"], "limit": 1, "created": {"gte": 1}})
    yield c.v1.events.retrieve(page.data[0].id)


def walk_webhook_endpoints(c) -> Iterator[Any]:
    made = c.v1.webhook_endpoints.create(
        {
            "url": "https://app.example/hook",
            "enabled_events": ["*"],
            "api_version": stripe.api_version,
        }
    )
    yield c.v1.webhook_endpoints.retrieve(made.id)
    yield c.v1.webhook_endpoints.update(
        made.id, {"disabled": True, "enabled_events": ["invoice.paid"], "description": "x"}
    )
    yield c.v1.webhook_endpoints.list({"limit": 3})
    yield c.v1.webhook_endpoints.delete(made.id)


def walk_usage_v2(c, name: str = "usage_v2") -> Iterator[Any]:
    meter = make_walk_meter(c, name)
    customer = c.v1.customers.create({})
    payload = {"stripe_customer_id": customer.id, "value": "2.5"}
    event = {"event_name": name, "payload": payload}
    yield c.v2.billing.meter_events.create(
        {**event, "identifier": f"{name}a", "timestamp": "2026-11-23T12:00:00Z"}
    )
    yield c.v2.billing.meter_event_adjustments.create(
        {"event_name": name, "type": "cancel", "cancel": {"identifier": f"{name}a"}}
    )
    yield c.v1.billing.meter_events.create({**event, "identifier": f"{name}b"})
    yield c.v1.billing.meter_event_adjustments.create(
        {"event_name": name, "type": "cancel", "cancel": {"identifier": f"{name}b"}}
    )
    session = c.v2.billing.meter_event_session.create()
    bad = {
        "event_name": name,
        "payload": {"value": "1"},
        "identifier": "c",
        "timestamp": "2026-11-23T11:00:00.5Z",
    }
    lost = {"event_name": "nothing", "payload": payload}
    stream = {"api_key": session.authentication_token}
    answer = c.v2.billing.meter_event_stream.create({"events": [event, bad, lost]}, stream)
    assert answer is None
    yield session
    assert c.v1.billing.meters.retrieve(meter.id).status == "active"


def walk_thin_events(c) -> Iterator[Any]:
    list(walk_usage_v2(c, "thin"))
    emulator_of(c).clock.advance(11)
    page = c.v2.core.events.list(
        {"limit": 1, "created": {"gte": "2026-11-23T00:00:00Z"}, "types": list(THIN)}
    )
    assert page.next_page_url is not None
    events = list(page.auto_paging_iter())
    assert {event.type for event in events} == set(THIN)
    for event in events:
        yield c.v2.core.events.retrieve(event.id)


THIN = ("v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found")


def emulator_of(c):
    return c._requestor._client.emulator


def walk_alerts(c) -> Iterator[Any]:
    meter = make_walk_meter(c, "alerts")
    customer = c.v1.customers.create({})
    threshold = {
        "gte": 5,
        "meter": meter.id,
        "recurrence": "one_time",
        "filters": [{"type": "customer", "customer": customer.id}],
    }
    made = c.v1.billing.alerts.create(
        {"title": "x", "alert_type": "usage_threshold", "usage_threshold": threshold}
    )
    c.v1.billing.meter_events.create(
        {"event_name": "alerts", "payload": {"stripe_customer_id": customer.id, "value": "7.5"}}
    )
    yield c.v1.billing.alerts.retrieve(made.id)
    yield c.v1.billing.alerts.deactivate(made.id)
    yield c.v1.billing.alerts.activate(made.id)
    yield c.v1.billing.alerts.list({"alert_type": "usage_threshold", "meter": meter.id})
    yield c.v1.billing.alerts.archive(made.id)


def walk_test_clocks(c) -> Iterator[Any]:
    made = c.v1.test_helpers.test_clocks.create({"frozen_time": NOW, "name": "x"})
    c.v1.customers.create({"test_clock": made.id})
    yield c.v1.test_helpers.test_clocks.advance(made.id, {"frozen_time": NOW + 10})
    yield c.v1.test_helpers.test_clocks.retrieve(made.id)
    yield c.v1.test_helpers.test_clocks.list()
    yield c.v1.customers.list({"test_clock": made.id})
    yield c.v1.test_helpers.test_clocks.delete(made.id)


def walk_searches(c) -> Iterator[Any]:
    made = c.v1.customers.create({"email": "a@example.com", "metadata": {"user": "7"}})
    product = c.v1.products.create({"name": "Tokens"})
    c.v1.prices.create(
        {"currency": "usd", "product": product.id, "unit_amount": 1, "lookup_key": "searched"}
    )
    assert [each.id for each in c.v1.customers.search({"query": "metadata['user']:'7'"}).data] == [
        made.id
    ]
    yield c.v1.products.search({"query": 'name~"oke" AND active:"true"', "limit": 1})
    yield c.v1.prices.search({"query": "lookup_key:'searched'", "expand": ["data.product"]})


def walk_setup_intents(c) -> Iterator[Any]:
    customer = c.v1.customers.create({})
    made = c.v1.setup_intents.create(
        {
            "customer": customer.id,
            "automatic_payment_methods": {"enabled": True},
            "metadata": {"a": "1"},
            "expand": ["customer"],
        }
    )
    yield c.v1.setup_intents.retrieve(made.id, {"client_secret": made.client_secret})
    yield c.v1.setup_intents.update(made.id, {"payment_method": "pm_card_visa_chargeDeclined"})
    with pytest.raises(stripe.CardError):
        c.v1.setup_intents.confirm(made.id)
    yield c.v1.setup_intents.confirm(
        made.id, {"payment_method": "pm_card_authenticationRequired", "return_url": "https://a.b"}
    )
    yield c.v1.setup_intents.list({"customer": customer.id, "limit": 1})
    yield c.v1.setup_intents.cancel(made.id, {"cancellation_reason": "abandoned"})
    yield c.v1.setup_intents.create(
        {"customer": customer.id, "payment_method": "pm_card_visa", "confirm": True}
    )


def walk_checkout(c) -> Iterator[Any]:
    product = c.v1.products.create({"name": "Plan"})
    base = c.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount": 900,
            "recurring": {"interval": "month"},
        }
    )
    customer = c.v1.customers.create({"email": "a@example.com"})
    pages = {"success_url": "https://a.b/done?{CHECKOUT_SESSION_ID}", "cancel_url": "https://a.b"}
    made = c.v1.checkout.sessions.create(
        {
            **pages,
            "mode": "subscription",
            "customer": customer.id,
            "line_items": [{"price": base.id, "quantity": 2}],
            "client_reference_id": "7",
            "payment_method_collection": "if_required",
            "subscription_data": {
                "metadata": {"a": "1"},
                "billing_mode": {"type": "flexible"},
                "trial_period_days": 7,
                "trial_settings": {"end_behavior": {"missing_payment_method": "cancel"}},
            },
            "expires_at": NOW + 3600,
            "expand": ["line_items.data.price.product", "customer"],
        }
    )
    yield c.v1.checkout.sessions.update(made.id, {"metadata": {"a": "1"}})
    yield c.v1.checkout.sessions.line_items.list(made.id, {"expand": ["data.price.product"]})
    emulator_of(c).complete_checkout(made.id)
    yield c.v1.checkout.sessions.retrieve(
        made.id, {"expand": ["subscription.latest_invoice", "invoice"]}
    )
    new = c.v1.checkout.sessions.create(
        {
            **pages,
            "mode": "subscription",
            "customer_email": "b@example.com",
            "line_items": [{"price": base.id, "quantity": 1}],
        }
    )
    emulator_of(c).complete_checkout(new.id)
    saves = c.v1.checkout.sessions.create(
        {**pages, "mode": "setup", "currency": "usd", "expand": ["setup_intent"]}
    )
    yield c.v1.checkout.sessions.expire(saves.id)
    yield c.v1.checkout.sessions.list(
        {
            "customer": customer.id,
            "status": "complete",
            "created": {"gte": 1},
            "customer_details": {"email": "a@example.com"},
            "expand": ["data.subscription"],
        }
    )


def walk_portal(c) -> Iterator[Any]:
    price = c.v1.prices.create(
        {
            "currency": "usd",
            "product": c.v1.products.create({"name": "Plan"}).id,
            "unit_amount": 900,
            "recurring": {"interval": "month"},
        }
    )
    customer = c.v1.customers.create({})
    subscription = c.v1.subscriptions.create(
        {
            "customer": customer.id,
            "items": [{"price": price.id}],
            "default_payment_method": "pm_card_visa",
        }
    )
    sessions = c.v1.billing_portal.sessions
    yield sessions.create({"customer": customer.id})
    yield sessions.create(
        {
            "customer": customer.id,
            "return_url": "https://a.b",
            "configuration": "bpc_1",
            "locale": "en",
            "expand": ["configuration"],
            "flow_data": {
                "type": "subscription_cancel",
                "subscription_cancel": {"subscription": subscription.id},
                "after_completion": {
                    "type": "redirect",
                    "redirect": {"return_url": "https://a.b/bye"},
                },
            },
        }
    )
    yield sessions.create(
        {
            "customer": customer.id,
            "flow_data": {
                "type": "payment_method_update",
                "after_completion": {
                    "type": "hosted_confirmation",
                    "hosted_confirmation": {"custom_message": "Thanks"},
                },
            },
        }
    )


WALKS = [
    walk_customers,
    walk_products,
    walk_prices,
    walk_meters,
    walk_searches,
    walk_usage,
    walk_usage_v2,
    walk_thin_events,
    walk_alerts,
    walk_test_clocks,
    walk_subscriptions,
    walk_invoices,
    walk_credits,
    walk_events,
    walk_webhook_endpoints,
    walk_setup_intents,
    walk_checkout,
    walk_portal,
    walk_life_of_a_subscription,  # the last one: it moves the clock over a month
]


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.__name__)
def test_walk(walk, walker):
    answers = list(walk(walker))

    assert answers


def test_every_route_is_walked(checking, walker):
    for walk in WALKS:
        list(walk(walker))

    beside = [route for route in ROUTES if spec.template_of(route) is None]
    served = {spec.template_of(route) for route in ROUTES if route not in beside}
    assert all(route.path.startswith(BESIDE) for route in beside)
    assert served - checking.walked == set()


NOT_SERVED: dict[tuple[str, str], str] = {}
"""Operations of the resources below that are not served yet, each with its reason."""
RESOURCES = (
    "/v1/customers",
    "/v1/products",
    "/v1/prices",
    "/v1/billing/meters",
    "/v1/billing/meter_event",
    "/v1/billing/alerts",
    "/v1/billing/credit_grants",
    "/v1/invoices",
    "/v1/subscriptions/search",
    "/v1/billing_portal",
    "/v1/checkout",
    "/v1/events",
    "/v1/webhook_endpoints",
    "/v1/test_helpers/test_clocks",
    "/v2/",
)


def test_every_operation_of_the_description_is_served():
    described = {
        (method.upper(), template)
        for template, operations in spec.description()["paths"].items()
        for method in operations
        if template.startswith(RESOURCES)
    }
    served = {spec.template_of(route) for route in ROUTES}

    assert described - served == set(NOT_SERVED)


@pytest.mark.parametrize(
    ("method", "path"),
    [("get", "/v1/customers/cus_x"), ("post", "/v1/billing/meters"), ("get", "/v1/prices?limit=0")],
)
def test_errors_have_stripes_shape(walker, method, path):
    with pytest.raises(stripe.InvalidRequestError):
        walker.raw_request(method, path)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"event_name": "nothing"}, "no_meter"),
        ({"payload": {"value": "1"}}, "payload_no_customer_defined"),
        ({"payload": {"stripe_customer_id": "CUSTOMER"}}, "payload_no_value_defined"),
        ({"payload": {"stripe_customer_id": "CUSTOMER", "value": "x"}}, "payload_invalid_value"),
        ({"identifier": "taken"}, "duplicate_meter_event"),
        ({"event_name": ""}, "parameter_invalid_empty"),
    ],
)
def test_errors_of_v2_have_stripes_shape(walker, change, code):
    make_walk_meter(walker, "errors")
    customer = walker.v1.customers.create({})
    payload = {"stripe_customer_id": customer.id, "value": "1"}
    event = {"event_name": "errors", "payload": payload}
    walker.v2.billing.meter_events.create({**event, "identifier": "taken"})
    wrong = {**event, **change}
    wrong["payload"] = {
        key: customer.id if value == "CUSTOMER" else value
        for key, value in wrong["payload"].items()
    }

    with pytest.raises(stripe.StripeError) as caught:
        walker.raw_request("post", "/v2/billing/meter_events", **wrong)

    assert caught.value.code == code


def test_other_errors_of_v2_have_stripes_shape(walker, emulator):
    token = walker.v2.billing.meter_event_session.create().authentication_token
    emulator.clock.advance(900)
    calls = (
        lambda: walker.v2.billing.meter_event_stream.create({"events": []}, {"api_key": token}),
        lambda: walker.v2.billing.meter_event_stream.create({"events": []}),
        lambda: walker.v2.core.events.retrieve("evt_nothing"),
        lambda: walker.v2.billing.meter_event_adjustments.create(
            {"event_name": "x", "type": "cancel", "cancel": {"identifier": "x"}}
        ),
    )
    codes = []
    for call in calls:
        with pytest.raises(stripe.StripeError) as caught:
            call()
        codes.append((caught.value.http_status, caught.value.json_body["error"]["code"]))

    assert codes == [
        (401, "billing_meter_event_session_expired"),
        (401, "invalid_meter_event_session"),
        (404, "not_found"),
        (400, "invalid_cancel_configuration"),
    ]


def test_the_check_itself_can_fail(checking):
    with pytest.raises(AssertionError, match="has no parameter colour"):
        spec.check_request("POST", "/v1/customers", "", b"colour=red")
    with pytest.raises(AssertionError, match="required"):
        spec.check_answer("GET", "/v1/products/prod_1", 200, {"id": "prod_1", "object": "product"})
    with pytest.raises(AssertionError):
        spec.check_request("POST", "/v1/billing/meters", "", b"default_aggregation[formula]=max")


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.__name__)
def test_snapshot_events_match_the_description(walk, emulator, client):
    emulator.forward("http://app/hook", "whsec_x")
    list(walk(client))

    bodies = [json.loads(delivery.body) for delivery in emulator.pop_deliveries()]

    assert bodies or walk is walk_webhook_endpoints
    assert not any("_" in key[:1] for body in bodies for key in body["data"]["object"])
    for body in bodies:
        spec.check_schema("event", body)
        told = body["data"]["object"]
        if body["type"] == "invoice.upcoming":
            assert "id" not in told
            told["id"] = (
                "the description says it is always there, and the documents of this one case not"
            )
        if told["object"] in sdk_shapes.CLASSES:
            sdk_shapes.check(sdk_shapes.CLASSES[told["object"]], told)
        else:
            spec.check_schema(told["object"], told)


def test_thin_events_match_the_description(emulator, client):
    emulator.forward("http://app/thin", "whsec_x", thin=True)
    list(walk_thin_events(client))

    notices = [json.loads(delivery.body) for delivery in emulator.pop_deliveries()]

    assert sorted(notice["type"] for notice in notices) == sorted(THIN)
    for notice in notices:
        assert "data" not in notice
        fetched = client.v2.core.events.retrieve(notice["id"])
        spec.check_schema(f"v2.core.event.{notice['type']}", json.loads(fetched.last_response.body))
        spec.check_schema("v2.core.event", notice)
