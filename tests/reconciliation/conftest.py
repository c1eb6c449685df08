"""A customer and two meters, here and at the emulator, at a fixed instant."""

from __future__ import annotations

import pytest

from billing.gateway import catalogue, customers
from billing.models import Customer, Meter
from tests.factories.usage import make_meter


@pytest.fixture
def stripe_at_now(emulator, now):
    """The emulator with its clock standing at `now`."""
    emulator.clock.freeze(now.timestamp())
    return emulator


def customer_at_stripe(external_id: str) -> Customer:
    return Customer.objects.create(
        external_id=external_id,
        stripe_customer_id=customers.create(
            key=external_id, email="", name=external_id, idempotency_key=external_id
        ),
    )


def meter_at_stripe(slug: str, **fields) -> Meter:
    stripe_meter = catalogue.create_meter(event_name=f"mk_{slug}", display_name=slug, formula="sum")
    return make_meter(slug, value_property=slug, stripe_meter_id=stripe_meter.id, **fields)


@pytest.fixture
def acme(db, stripe_at_now) -> Customer:
    return customer_at_stripe("acme")


@pytest.fixture
def globex(db, stripe_at_now) -> Customer:
    return customer_at_stripe("globex")


@pytest.fixture
def tokens(db, stripe_at_now) -> Meter:
    return meter_at_stripe("input_tokens")


@pytest.fixture
def images(db, stripe_at_now) -> Meter:
    return meter_at_stripe("images", unit="image")
