"""An emulator at a fixed instant, and the official SDK in front of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import stripe

from stripe_emulator import Emulator
from stripe_emulator.core.collection import Object
from stripe_emulator.transport import InProcessTransport

NOW = 1_795_435_200
"""2026-11-23 12:00:00 UTC, on the hour."""


@pytest.fixture(autouse=True)
def _quiet_sdk(monkeypatch):
    monkeypatch.setattr(stripe, "enable_telemetry", False)


@pytest.fixture
def emulator():
    made = Emulator(now=lambda: NOW)
    made.clock.freeze(NOW)
    return made


@pytest.fixture
def transport(emulator):
    return InProcessTransport(emulator)


@pytest.fixture
def client(transport):
    return stripe.StripeClient("sk_test_emulator", http_client=transport)


@dataclass
class Shop:
    """What most tests need: a meter, a customer, and a way to send usage."""

    emulator: Emulator
    client: stripe.StripeClient
    meter: Any
    customer: Any

    def send(self, identifier: str, value: str = "1", *, at: int = NOW, **params: Any) -> Any:
        return self.client.v1.billing.meter_events.create(
            {
                "event_name": self.meter.event_name,
                "payload": {"stripe_customer_id": self.customer.id, "value": value},
                "identifier": identifier,
                "timestamp": at,
            },
            params.get("options"),
        )

    def total(self, start: int = NOW - 3600, end: int = NOW + 3600) -> float:
        page = self.client.v1.billing.meters.event_summaries.list(
            self.meter.id, {"customer": self.customer.id, "start_time": start, "end_time": end}
        )
        return page.data[0].aggregated_value


def make_meter(
    client: stripe.StripeClient, event_name: str = "tokens", formula: str = "sum", **extra: Any
):
    return client.v1.billing.meters.create(
        {
            "display_name": event_name,
            "event_name": event_name,
            "default_aggregation": {"formula": formula},
            **extra,
        }
    )


@pytest.fixture
def shop(emulator, client):
    return Shop(
        emulator, client, make_meter(client), client.v1.customers.create({"email": "a@example.com"})
    )


@pytest.fixture
def metered_price(client, shop):
    product = client.v1.products.create({"name": "Tokens"})
    return client.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount": 4,
            "transform_quantity": {"divide_by": 1000, "round": "up"},
            "recurring": {"interval": "month", "usage_type": "metered", "meter": shop.meter.id},
        }
    )


@pytest.fixture
def base_price(client):
    product = client.v1.products.create({"name": "Base"})
    return client.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount": 2000,
            "recurring": {"interval": "month"},
        }
    )


@pytest.fixture
def events(emulator) -> Callable[[], list[Object]]:
    """The deliveries that are due, decoded; each is reported as accepted."""

    def take() -> list[Object]:
        found = []
        for delivery in emulator.pop_deliveries():
            emulator.report_delivery(delivery, 200)
            found.append(json.loads(delivery.body))
        return found

    return take
