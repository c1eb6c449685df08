"""The names under which our things stand at Stripe. Pure."""

from __future__ import annotations

import re

CUSTOMER_KEY = "stripe_customer_id"
VALUE_KEY = "value"
"""The payload keys of our meter events; Stripe's defaults."""


def product_id(lookup_key: str) -> str:
    """Return the id we give the product of the price with this lookup key."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"meterkeeper_{lookup_key}")
