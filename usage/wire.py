"""The request body of a submission, rendered once and frozen. Pure.

Rendering is done at flush and never again: the stored text is what every attempt sends, so a
deploy between two attempts cannot change what an identifier means.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any


def render(
    *,
    identifier: str,
    event_name: str,
    stripe_customer_id: str,
    value: Decimal,
    timestamp: datetime,
) -> str:
    """Return the JSON of Stripe's v1 meter event; `timestamp` in whole seconds, `value` whole."""
    return json.dumps(
        {
            "event_name": event_name,
            "identifier": identifier,
            "payload": {"stripe_customer_id": stripe_customer_id, "value": f"{value:f}"},
            "timestamp": int(timestamp.timestamp()),
        },
        separators=(",", ":"),
        sort_keys=True,
    )


def as_streamed(payload: str) -> dict[str, Any]:
    """Return a frozen payload as the stream takes it: the same event, its time in RFC 3339."""
    event: dict[str, Any] = json.loads(payload)
    moment = datetime.fromtimestamp(event["timestamp"], UTC)
    event["timestamp"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return event


def fingerprint(payload: str) -> str:
    """Return the hash that proves a payload unchanged."""
    return hashlib.sha256(payload.encode()).hexdigest()
