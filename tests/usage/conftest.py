"""A source, a catalogue of AI tokens and customers known at Stripe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from billing.enums import Aggregation
from billing.models import Customer, Meter, MeterVersion, Source
from usage.ingestion import Outcome, ReportedEvent, accept

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def source(db) -> Source:
    return Source.objects.create(name="gateway")


def make_meter(slug: str, value_property: str = "", *, required: bool = True) -> Meter:
    meter = Meter.objects.create(
        slug=slug,
        display_name=slug,
        event_name=f"mk_{slug}",
        aggregation=Aggregation.SUM if value_property else Aggregation.COUNT,
        unit="token" if value_property else "call",
        stripe_meter_id=f"mtr_{slug}",
    )
    MeterVersion.objects.create(
        meter=meter,
        event_type="llm.call",
        value_property=value_property,
        required=required,
        measures=[slug],
        effective_from=EPOCH,
    )
    return meter


@dataclass(frozen=True)
class Meters:
    input: Meter
    cached: Meter
    calls: Meter


@pytest.fixture
def meters(db) -> Meters:
    """Three meters fed by `llm.call`: a required sum, an optional sum and a count."""
    return Meters(
        input=make_meter("input_tokens", "input_tokens"),
        cached=make_meter("cached_tokens", "cached_tokens", required=False),
        calls=make_meter("llm_calls"),
    )


@pytest.fixture
def acme(db) -> Customer:
    return Customer.objects.create(external_id="acme", stripe_customer_id="cus_acme")


def report(
    event_id: str = "e-1",
    *,
    at: datetime | None,
    subject: str = "acme",
    type: str = "llm.call",  # noqa: A002 - the attribute's name
    **data: Any,
) -> ReportedEvent:
    data = data or {"input_tokens": 10}
    return ReportedEvent(
        event_id=event_id,
        type=type,
        subject=subject,
        occurred_at=at,
        data=data,
        data_json=msgspec.json.encode(data).decode(),
    )


@pytest.fixture
def store(source, meters, now) -> Callable[..., list[Outcome]]:
    """Accept reports as one request of `source` at `now`."""

    def store(*reports: ReportedEvent, at: datetime = now) -> list[Outcome]:
        return accept(source_id=source.pk, reports=reports, now=at)

    return store
