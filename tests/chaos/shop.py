"""A catalogue, customers known at Stripe, and a key."""

from __future__ import annotations

from collections.abc import Iterable

from billing.authentication import issue
from billing.enums import Scope
from billing.models import Customer
from tests.chaos.audit import METERS
from tests.factories.usage import make_meter


def open_shop(customers: Iterable[str]) -> str:
    """Make all that events need, and return a key to report them with."""
    for slug, value_property in METERS.items():
        make_meter(slug, value_property=value_property, stripe_meter_id=f"mtr_{slug}")
    for external_id in customers:
        Customer.objects.create(external_id=external_id, stripe_customer_id=f"cus_{external_id}")
    _, key = issue("chaos", [Scope.INGEST])
    return key
