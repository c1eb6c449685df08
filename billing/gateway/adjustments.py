"""Cancelling a meter event at Stripe."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

from billing.gateway import errors
from billing.gateway.client import connection
from billing.gateway.transport import checked_before_write
from billing.gateway.values import Receipt

SPAN = timedelta(hours=24)
"""How long after receiving a meter event Stripe lets it be cancelled.

Source: its guide to recording usage, and stripe-python's `MeterEventAdjustmentCreateParamsCancel`.
"""

ALREADY = re.compile(r"already (been )?cancell?ed", re.IGNORECASE)
"""How a second cancellation is refused. A guess: v1 gives it no code, and its words are not
documented. Where they differ, a repetition after a lost answer is looked at in Stripe's total."""


def cancel(
    *, event_name: str, identifier: str, check: Callable[[], None], idempotency_key: str
) -> Receipt:
    """Cancel the meter event with this identifier; one that is cancelled already is a success.

    The identifier keeps it from being taken back twice, so it may be repeated. `idempotency_key`
    is new for each attempt, because Stripe would replay a stored 500 under an old one. `check` runs
    right before the first byte. Stripe's answer is "pending": its totals follow later.

    Raises:
        Unavailable: the outcome is unknown.
        NotAccepted: Stripe did not do it; retry later.
        Rejected: refused for good, such as an event received more than `SPAN` ago.
        Misconfigured: our key is refused.
    """
    try:
        with errors.sorted_errors(), checked_before_write(check):
            answer = connection().v1.billing.meter_event_adjustments.create(
                {"event_name": event_name, "type": "cancel", "cancel": {"identifier": identifier}},
                {"idempotency_key": idempotency_key},
            )
    except errors.Rejected as refusal:
        if ALREADY.search(refusal.message):
            return Receipt(is_duplicate=True, request_id=refusal.request_id)
        raise
    response = answer.last_response
    return Receipt(is_duplicate=False, request_id=(response and response.request_id) or "")
