"""Stripe's own list of what happened, as it would have delivered it; kept for thirty days."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from billing.enums import WebhookKind
from billing.gateway.client import connection
from billing.gateway.errors import sorted_errors
from billing.gateway.notifications import described
from billing.gateway.values import EventPage, PastEvent

KEPT = timedelta(days=30)
"""How long Stripe lists an event. Source: its reference of `GET /v1/events`."""
PER_PAGE = 100


def page(
    *, kind: WebhookKind, type_: str, since: datetime, until: datetime, after: str = ""
) -> EventPage:
    """Return one page of the events of a type made in [`since`, `until`), in whole seconds.

    `after` is the former page's `next`. A snapshot type may end in `.*` for all that begin like
    it; a thin one is one name. Only events of our key's mode are listed.

    Raises:
        Rejected: as for any call, and for an `after` that Stripe does not know any more.
        GatewayError: of the other families.
    """
    with sorted_errors():
        if kind is WebhookKind.THIN:
            return _thin(type_, since, until, after)
        return _snapshots(type_, since, until, after)


def _snapshots(type_: str, since: datetime, until: datetime, after: str) -> EventPage:
    params: dict[str, Any] = {
        "type": type_,
        "created": {"gte": int(since.timestamp()), "lt": int(until.timestamp())},
        "limit": PER_PAGE,
    }
    if after:
        params["starting_after"] = after
    answer = _asked("/v1/events", params)
    events = _past(answer, WebhookKind.SNAPSHOT)
    has_more = answer["has_more"] and bool(events)
    return EventPage(events=events, next=events[-1].notification.event_id if has_more else "")


def _thin(type_: str, since: datetime, until: datetime, after: str) -> EventPage:
    # The address of a further page repeats the question.
    answer = (
        _asked(after, {})
        if after
        else _asked(
            "/v2/core/events",
            {
                "types": [type_],
                "created": {"gte": _rfc3339(since), "lt": _rfc3339(until)},
                "limit": PER_PAGE,
            },
        )
    )
    return EventPage(events=_past(answer, WebhookKind.THIN), next=answer["next_page_url"] or "")


def _asked(address: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    # As it was written: the SDK's objects turn amounts and instants into other types, and what is
    # stored must read as a delivery would.
    answer = connection().raw_request("get", address, **params)
    data: Mapping[str, Any] = answer.data
    return data


def _past(answer: Mapping[str, Any], kind: WebhookKind) -> tuple[PastEvent, ...]:
    return tuple(
        PastEvent(notification=described(event, kind), body=json.dumps(event, indent=2))
        for event in answer["data"]
    )


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
