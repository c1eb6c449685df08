"""A source, a catalogue of AI tokens, customers known at Stripe, and a Stripe to send to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import pytest

from billing import authentication, meter_checks
from billing.enums import Aggregation, Scope
from billing.gateway.client import connection as stripe
from billing.models import Customer, Meter, MeterVersion, Source
from stripe_emulator import Emulator
from tests.support.stripe import switchboard
from usage import claiming, delivery, fence
from usage.claiming import Claim
from usage.enums import Wire
from usage.ingestion import accept
from usage.json_objects import compact
from usage.reports import Outcome, ReportedEvent

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
        data_json=compact(data).decode(),
    )


@pytest.fixture
def store(source, meters, now) -> Callable[..., list[Outcome]]:
    """Accept reports as one request of `source` at `now`."""

    def store(*reports: ReportedEvent, at: datetime = now) -> list[Outcome]:
        return accept(source_id=source.pk, reports=reports, now=at)

    return store


USAGE = "/api/v1/usage"


@pytest.fixture
def ask(db, client) -> Callable[..., Any]:
    """Ask a question about usage with a key that may see everybody; return the answer."""
    _, everybody = authentication.issue("console", [Scope.READ])

    def ask(
        path: str = USAGE, *, key: str = everybody, accept: str = "*/*", **question: Any
    ) -> Any:
        address = f"{path}?{urlencode(question, doseq=True)}"
        return client.get(address, headers={"authorization": f"Bearer {key}", "accept": accept})

    return ask


EVENTS_PATH = "/v1/billing/meter_events"


@dataclass
class World:
    """One clock for us, the database's side of things and Stripe."""

    emulator: Emulator
    now: datetime

    def advance(self, **span: float) -> None:
        self.now += timedelta(**span)

    def deliver(self, **span: float) -> dict[str, int]:
        """Move on by `span` and run one delivery pass."""
        self.advance(**span)
        return dict(delivery.deliver_due(clock=lambda: self.now).counts)

    def claim(self) -> Claim | None:
        """Take one due submission that was never sent, or else one that went over v1."""
        for stored_wire in ("", Wire.V1):
            for claim in claiming.claim(
                clock=lambda: self.now, stored_wire=stored_wire, wire=Wire.V1, limit=1
            ):
                return claim
        return None

    def counted(self) -> Decimal:
        """What Stripe took of the input tokens, by the emulator's own arithmetic."""
        totals = self.emulator.truth.as_dict()["event_names"]
        return (
            Decimal(totals["mk_input_tokens"]["sum"]) if "mk_input_tokens" in totals else Decimal(0)
        )

    def calls(self) -> list[str]:
        """The verdicts on meter events that reached Stripe, in order."""
        return [
            arrival.verdict for arrival in self.emulator.arrivals if arrival.path == EVENTS_PATH
        ]


@pytest.fixture
def world(db, now, meters) -> Iterator[World]:
    """Stripe with our meters and one customer, and one clock that a test moves."""
    # The lambda looks the instant up anew each time: a test moves it.
    world = World(emulator=Emulator(now=lambda: world.now.timestamp()), now=now)  # noqa: PLW0108
    switchboard.connect(world.emulator)
    for meter in Meter.objects.all():
        created = stripe().v1.billing.meters.create(
            {
                "display_name": meter.slug,
                "event_name": meter.event_name,
                "default_aggregation": {"formula": "sum"},
            }
        )
        Meter.objects.filter(pk=meter.pk).update(stripe_meter_id=created.id)
    customer = stripe().v1.customers.create({"name": "Acme"})
    Customer.objects.create(external_id="acme", stripe_customer_id=customer.id)
    # As every pass begins: what is claimed without one is claimed behind an open fence.
    assert fence.inspect(now)
    assert meter_checks.check_due(now).blocked == ()
    yield world
    switchboard.disconnect()
