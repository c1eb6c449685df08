"""Customers at Stripe."""

from __future__ import annotations

from datetime import datetime, timedelta

from stripe.params import CustomerCreateParams

from billing.gateway import stamps
from billing.gateway.client import connection
from billing.gateway.errors import sorted_errors

PER_PAGE = 100
CLOCK_TOLERANCE = timedelta(minutes=10)
"""How far our clock may be ahead of Stripe's when we ask for what was made since."""


def create(*, key: str, email: str, name: str, idempotency_key: str) -> str:
    """Create the customer our row `key` stands for and return Stripe's id.

    Raises:
        GatewayError: of the four families; after `Unavailable` it may exist, so `find` it first.
    """
    params: CustomerCreateParams = {"metadata": stamps.stamped(customer=key)}
    if email:
        params["email"] = email
    if name:
        params["name"] = name
    with sorted_errors():
        return connection().v1.customers.create(params, {"idempotency_key": idempotency_key}).id


def is_deleted(customer_id: str) -> bool:
    """Return whether a customer was deleted, which is for good: Stripe keeps its id as a stone.

    Raises:
        GatewayError: of the four families.
    """
    with sorted_errors():
        return bool(getattr(connection().v1.customers.retrieve(customer_id), "deleted", False))


def find(*, key: str, created_since: datetime) -> str | None:
    """Return the id of the customer made for our row `key` at or after `created_since`, if any.

    Goes through the list of customers and not through search, whose index lags behind: a customer
    created a moment ago must not be created twice.
    """
    since = int((created_since - CLOCK_TOLERANCE).timestamp())
    with sorted_errors():
        page = connection().v1.customers.list({"created": {"gte": since}, "limit": PER_PAGE})
        for customer in page.auto_paging_iter():
            metadata = customer.metadata.to_dict() if customer.metadata else {}
            if stamps.is_ours(metadata) and metadata.get(stamps.CUSTOMER) == key:
                return customer.id
    return None
