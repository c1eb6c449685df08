"""Stripe's webhooks: telling a real one from a forged, altered or replayed one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import stripe

from billing.enums import WebhookKind
from billing.gateway.client import connection
from billing.gateway.errors import sorted_errors
from billing.gateway.values import (
    ErrorReport,
    ErrorSample,
    Notification,
    ReportedErrors,
    ThinEvent,
)

TOLERANCE_SECONDS = 300
"""How far a signature's time may lie from ours, to either side.

Stripe's SDK looks to the past only, so a captured delivery stamped ahead would stay good for
longer. Source: Stripe's webhook guide for the figure.
"""
NAME_LENGTH = 200
"""Longer than any id or type of Stripe's, and what the inbox has room for."""
OBJECTS = {WebhookKind.SNAPSHOT: "event", WebhookKind.THIN: "v2.core.event"}


class NotGenuine(Exception):
    """A body that Stripe did not sign for this endpoint just now."""


def verify(
    *, body: bytes, signature: str, secrets: Sequence[str], kind: WebhookKind, now: datetime
) -> Notification:
    """Return what a webhook says of itself, once one of `secrets` is seen to have signed it.

    `body` is the request's raw bytes. Several secrets are in force while one is rolled; without any
    every body is refused.

    Raises:
        NotGenuine: the signature, its time or the body is not what Stripe sends.
    """
    if not any(each.strip() for each in secrets):
        raise NotGenuine("no webhook secret is configured")
    if not signature.isascii() or not any(_is_signed(body, signature, each) for each in secrets):
        raise NotGenuine("the signature does not match")
    if abs(now.timestamp() - _signed_at(signature)) > TOLERANCE_SECONDS:
        raise NotGenuine(f"the signature's time is more than {TOLERANCE_SECONDS} s from ours")
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise NotGenuine("the body is no JSON") from None
    return described(event, kind)


def described(event: Any, kind: WebhookKind) -> Notification:
    """Return what an event says of itself, delivered or listed.

    Raises:
        NotGenuine: it is no event of this kind.
    """
    if not isinstance(event, dict) or event.get("object") != OBJECTS[kind]:
        raise NotGenuine(f"the body is no {kind.value} event")
    if not (_is_name(event.get("id")) and _is_name(event.get("type"))):
        raise NotGenuine("the event has no id or no type")
    return Notification(
        event_id=event["id"],
        type=event["type"],
        object_id=_object_id(event, kind),
        live_mode=event.get("livemode") is True,
    )


def fetch_thin_event(event_id: str) -> ThinEvent:
    """Fetch a thin event: its delivery names it and is never data."""
    with sorted_errors():
        event = connection().v2.core.events.retrieve(event_id)
    fields = event.to_dict()
    return ThinEvent(
        id=fields["id"],
        type=fields["type"],
        created_at=_instant(fields["created"]),
        object_id=_object_id(fields, WebhookKind.THIN),
        data=fields.get("data") or {},
    )


def error_report(event: ThinEvent) -> ErrorReport:
    """Read a fetched thin event as a report of refused meter events.

    Codes are an open set. Where Stripe's total and the sum of its types differ, the larger counts,
    so that nothing refused goes uncounted.

    Raises:
        KeyError: the event is no such report, or one of a shape nobody has seen yet.
    """
    reason = event.data["reason"]
    types: dict[str, ReportedErrors] = {}
    for each in reason.get("error_types") or ():
        known = types.get(each["code"], ReportedErrors(each["code"], 0, ()))
        types[known.code] = ReportedErrors(
            code=known.code,
            error_count=known.error_count + int(each["error_count"]),
            samples=known.samples + _samples(each),
        )
    return ErrorReport(
        event_id=event.id,
        type=event.type,
        created_at=event.created_at,
        meter_id=event.object_id,
        validation_start=_instant(event.data["validation_start"]),
        validation_end=_instant(event.data["validation_end"]),
        summary=str(event.data.get("developer_message_summary") or ""),
        error_count=max(
            int(reason["error_count"]), sum(each.error_count for each in types.values())
        ),
        types=tuple(types.values()),
    )


def _samples(error_type: Mapping[str, Any]) -> tuple[ErrorSample, ...]:
    return tuple(
        ErrorSample(
            identifier=str((each.get("request") or {}).get("identifier") or ""),
            message=str(each.get("error_message") or ""),
        )
        for each in error_type.get("sample_errors") or ()
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_LENGTH and value.isprintable()


def _is_signed(body: bytes, signature: str, secret: str) -> bool:
    try:
        stripe.WebhookSignature.verify_header(body, signature, secret)
    except (stripe.SignatureVerificationError, UnicodeDecodeError):
        return False
    return True


def _signed_at(signature: str) -> int:
    """Return the time a good signature covers: the first `t`, as the SDK reads it."""
    return next(int(part.split("=")[1]) for part in signature.split(",") if part[:2] == "t=")


def _object_id(event: dict[str, Any], kind: WebhookKind) -> str:
    if kind is WebhookKind.THIN:
        subject = event.get("related_object")
    else:
        data = event.get("data")
        subject = data.get("object") if isinstance(data, dict) else None
    object_id = subject.get("id") if isinstance(subject, dict) else None
    return object_id if isinstance(object_id, str) and _is_name(object_id) else ""


def _instant(created: str | datetime) -> datetime:
    return created if isinstance(created, datetime) else datetime.fromisoformat(created)
