"""Stripe is out for thirty hours, over the end of a billing period; usage goes on all the while."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import connection

from billing.gateway.client import connection as stripe
from billing.models import Case, Customer, Meter, PeriodBoundary, Source
from stripe_emulator import Emulator
from tests.support.stripe import switchboard
from tests.usage.conftest import make_meter, report
from usage import delivery, flush, holding, lateness, recutting
from usage.ingestion import accept
from usage.invariants.periods import PERIOD_INVARIANTS
from usage.lifecycle import State
from usage.models import HeldUsage, Submission, SubmissionState

pytestmark = pytest.mark.scenario

START = datetime(2026, 9, 5, 9, 17, 23, tzinfo=UTC)
END = datetime(2026, 10, 5, 9, 17, 23, tzinfo=UTC)
STEP = timedelta(minutes=30)
OUTAGE = timedelta(hours=30)
CUSTOMERS = ("acme", "globex", "initech")
IN_FLIGHT = 5
"""What one worker has in doubt by the time it is sure that Stripe is unwell."""
Side = tuple[str, str, bool]
"""A Stripe customer, an event name, and whether it is usage of the period that ends."""


@dataclass
class Story:
    emulator: Emulator
    now: datetime
    source: Source
    recorded: defaultdict[Side, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    reported: int = 0

    def use(self) -> None:
        """Let each customer use something in the middle of the step that is over."""
        reports = []
        for number, customer in enumerate(Customer.objects.order_by("external_id")):
            at = self.now - STEP / 2 + timedelta(seconds=number)
            tokens = 1 + self.reported % 97
            self.reported += 1
            reports.append(
                report(
                    f"e{self.reported}", at=at, subject=customer.external_id, input_tokens=tokens
                )
            )
            for name, value in (("mk_input_tokens", tokens), ("mk_llm_calls", 1)):
                self.recorded[customer.stripe_customer_id, name, at < END] += value
        accept(source_id=self.source.pk, reports=reports, now=self.now)

    def work(self) -> None:
        """Do what the workers do within a minute: the flush's wake-up, and delivery's.

        Delivery also wakes before it, when nobody has asked yet what became of an invoice.
        """
        delivery.deliver_due(clock=lambda: self.now, seconds=600)
        flush.flush_batches(now=self.now)
        recutting.recut(clock=lambda: self.now, seconds=60)
        lateness.hold_late(now=self.now)
        if lateness.ask(now=self.now, seconds=60).closed_count:
            lateness.hold_late(now=self.now)
        holding.report()
        lateness.report()
        delivery.deliver_due(clock=lambda: self.now, seconds=600)

    def go_on(self, until: datetime) -> None:
        while self.now < until:
            self.now += STEP
            self.use()
            self.work()
            assert self.in_doubt() <= IN_FLIGHT
            assert no_violations() == []

    def in_doubt(self) -> int:
        return SubmissionState.objects.filter(
            state__in=[State.SENDING, State.IN_DOUBT, State.UNPROVEN]
        ).count()

    def frozen(self) -> set[tuple[int, int, datetime]]:
        """The hours of pairs in which something is in doubt that only Stripe's total can settle."""
        return set(
            Submission.objects.filter(standing__state=State.UNPROVEN).values_list(
                "customer_id", "meter_id", "window_start"
            )
        )

    def at_stripe(self) -> dict[Side, Decimal]:
        """What Stripe took, by the judge's log and the timestamps in it."""
        taken: defaultdict[Side, Decimal] = defaultdict(Decimal)
        for arrival in self.emulator.arrivals:
            for event in arrival.events:
                if event.verdict == "accepted":
                    side = (event.customer, event.event_name, event.timestamp < END.timestamp())
                    taken[side] += Decimal(event.value)
        return dict(taken)

    def billed(self) -> dict[tuple[str, str], Decimal]:
        """The quantities on the invoices of the period that ended, by customer and event name."""
        names = {meter.id: meter.event_name for meter in stripe().v1.billing.meters.list().data}
        return {
            (invoice.customer, names[self.meter_of(line.pricing.price_details.price)]): Decimal(
                line.quantity_decimal
            )
            for invoice in stripe().v1.invoices.list({"limit": 100}).data
            for line in invoice.lines.data
            if line.period.end == END.timestamp()
        }

    def meter_of(self, price: str) -> str:
        return stripe().v1.prices.retrieve(price).recurring.meter


def no_violations() -> list[str]:
    found = []
    with connection.cursor() as cursor:
        for invariant in PERIOD_INVARIANTS:
            cursor.execute(invariant.query, {})
            found += [f"{invariant.id} {text}" for (text,) in cursor.fetchall()]
    return found


@pytest.fixture
def story(db) -> Iterator[Story]:
    # The lambda looks the instant up anew each time: the story moves it.
    emulator = Emulator(now=lambda: story.now.timestamp())  # noqa: PLW0108
    story = Story(emulator, now=START, source=Source.objects.create(name="gateway"))
    switchboard.connect(emulator)
    prices = []
    for slug in ("input_tokens", "llm_calls"):
        meter = make_meter(slug, slug if slug == "input_tokens" else "")
        made = stripe().v1.billing.meters.create(
            {
                "display_name": slug,
                "event_name": meter.event_name,
                "default_aggregation": {"formula": "sum"},
            }
        )
        Meter.objects.filter(pk=meter.pk).update(stripe_meter_id=made.id)
        product = stripe().v1.products.create({"name": slug})
        recurring = {"interval": "month", "usage_type": "metered", "meter": made.id}
        prices.append(
            stripe().v1.prices.create(
                {
                    "currency": "usd",
                    "product": product.id,
                    "unit_amount": 1,
                    "recurring": recurring,
                }
            )
        )
    for external_id in CUSTOMERS:
        made = stripe().v1.customers.create(
            {"name": external_id, "invoice_settings": {"default_payment_method": "pm_card_visa"}}
        )
        items = [{"price": price.id} for price in prices]
        subscription = stripe().v1.subscriptions.create({"customer": made.id, "items": items})
        assert subscription["items"].data[0].current_period_end == END.timestamp()
        customer = Customer.objects.create(external_id=external_id, stripe_customer_id=made.id)
        for at in (START, END):
            PeriodBoundary.objects.create(customer=customer, at=at)
    yield story
    switchboard.disconnect()


@pytest.mark.parametrize(
    ("begins", "held"),
    [(timedelta(hours=15), True), (timedelta(hours=29, minutes=30), False)],
    ids=["the invoice becomes final meanwhile", "it ends while the invoice is a draft"],
)
def test_outage_over_a_period_end_bills_each_unit_in_its_period_or_holds_it_as_late(
    story, begins, held
):
    """F28, F31, F55: thirty hours, five calls in doubt, not a unit in another period."""
    story.now = END - begins - 2 * STEP
    story.go_on(END - begins)
    # The outage's first answers are lost on the way; then nothing gets through at all.
    story.emulator.faults.switch_on("answer_lost", path="/v1/billing/meter_events", count=2)
    story.emulator.faults.switch_on("drop_before")

    story.go_on(END - begins + OUTAGE - STEP)
    story.emulator.faults.clear()
    story.go_on(END - begins + OUTAGE + timedelta(hours=4))

    arrived = {
        event.identifier
        for arrival in story.emulator.arrivals
        for event in arrival.events
        if event.verdict == "accepted"
    }
    taken, elsewhere = story.at_stripe(), defaultdict(Decimal)
    for row in HeldUsage.objects.filter(released_at=None).select_related("meter"):
        customer = Customer.objects.get(external_id=row.subject)
        assert row.reason == "late"
        assert row.segment_start < END
        elsewhere[customer.stripe_customer_id, row.meter.event_name, True] += row.quantity
        # With the invoice still a draft, only what a doubt keeps from its hour comes too late.
        assert held or (customer.pk, row.meter_id, row.window_start) in story.frozen()
    assert elsewhere or not held
    lost = Submission.objects.filter(standing__state=State.UNPROVEN).exclude(identifier__in=arrived)
    for row in lost:
        elsewhere[row.stripe_customer_id, row.event_name, row.timestamp < END] += row.value
    # Every unit is where it belongs: at Stripe in its own period, held as late, or still the doubt
    # of the calls that were under way when the outage began.
    assert {
        side: taken.get(side, Decimal(0)) + elsewhere.get(side, Decimal(0))
        for side in story.recorded
    } == story.recorded
    assert set(taken) <= set(story.recorded)
    assert 1 <= story.in_doubt() <= IN_FLIGHT
    # And what Stripe took of the ended period is on its invoice, to the unit.
    assert story.billed() == {
        (customer, name): quantity for (customer, name, ended), quantity in taken.items() if ended
    }
    late = Case.objects.filter(kind="late", closed_at=None)
    assert sum((case.quantity for case in late), Decimal(0)) == sum(
        HeldUsage.objects.filter(released_at=None).values_list("quantity", flat=True), Decimal(0)
    )
    assert not story.emulator.world.violations.counts
