"""Meter events and what Stripe says it counted."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from billing.gateway import errors
from billing.gateway.client import connection
from billing.gateway.transport import checked_before_write
from billing.gateway.values import Receipt, Summary

FINAL_REFUSALS = (
    "The event timestamp",
    "Timestamp ",
    "No such customer",
    "Invalid value",
)
"""How v1's refusals of a meter event begin that a repetition cannot change.

v1 gives them no code of their own. Source: public clients. Any other 400 stays in doubt and is
looked at, because a refusal we do not know may not be one.
"""
NO_METER = ("No active meter", "No such meter")
"""How v1 refuses an event whose meter is inactive. It may be active again. Source: as above."""
SUMMARIES_PER_PAGE = 100


def send(payload: Mapping[str, Any], *, check: Callable[[], None], idempotency_key: str) -> Receipt:
    """Send one meter event over v1; a known identifier is a success.

    The identifier inside `payload` is what keeps it from counting twice. `idempotency_key` is new
    for each attempt, because Stripe would replay a stored 500 under an old one. `check` runs right
    before the first byte.

    Raises:
        Unavailable: the outcome is unknown.
        NotAccepted: Stripe did not take it; retry later.
        NoMeter: nor will it, until the meter is active again.
        Rejected: refused for good.
        Misconfigured: our key is refused.
    """
    try:
        with errors.sorted_errors(), checked_before_write(check):
            answer = connection().v1.billing.meter_events.create(
                payload,  # type: ignore[arg-type]  # frozen at flush, checked against the spec there
                {"idempotency_key": idempotency_key},
            )
    except errors.AlreadyExists as known:
        return Receipt(is_duplicate=True, request_id=known.request_id)
    except errors.Rejected as refusal:
        if refusal.message.startswith(FINAL_REFUSALS):
            raise
        family = errors.NoMeter if refusal.message.startswith(NO_METER) else errors.Unavailable
        raise errors.told_as(family, refusal) from refusal
    response = answer.last_response
    return Receipt(is_duplicate=False, request_id=(response and response.request_id) or "")


def new_idempotency_key(identifier: str = "") -> str:
    """Return a key for one attempt; it begins with `identifier`, in case Stripe reports by it."""
    return f"{identifier}.{uuid.uuid4().hex}" if identifier else uuid.uuid4().hex


def summaries(
    *,
    meter_id: str,
    customer_id: str,
    start: datetime,
    end: datetime,
    window: Literal["hour", "day"] | None,
) -> Iterator[Summary]:
    """Yield Stripe's totals of usage timestamped in [`start`, `end`), newest first.

    Follows the pages to the last one.

    With a window both ends lie on its UTC boundaries, without one on whole minutes. A window
    without usage may be absent. Totals lag behind accepted events.
    """
    params: dict[str, Any] = {
        "customer": customer_id,
        "start_time": int(start.timestamp()),
        "end_time": int(end.timestamp()),
        "limit": SUMMARIES_PER_PAGE,
    }
    if window is not None:
        params["value_grouping_window"] = window
    with errors.sorted_errors():
        page = connection().v1.billing.meters.event_summaries.list(
            meter_id,
            params,  # type: ignore[arg-type]  # built above
        )
        for summary in page.auto_paging_iter():
            yield Summary(
                window_start=datetime.fromtimestamp(summary.start_time, UTC),
                window_end=datetime.fromtimestamp(summary.end_time, UTC),
                # The one place where a float becomes exact: its shortest text is Stripe's number.
                value=Decimal(repr(summary.aggregated_value)),
            )


def probe() -> None:
    """Ask Stripe something harmless, to learn whether it answers. Raises as any call does."""
    with errors.sorted_errors():
        connection().v1.billing.meters.list({"limit": 1})
