"""Short stories that between them take every named step of the money's path.

Each yields what a process or a person does; what stands between two of those happens in the world.
Whatever an interruption does to one operation, the story goes on with the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings

from billing.enums import PriceKind
from billing.gateway.client import connection as stripe
from billing.models import (
    ApiKey,
    Customer,
    Invoice,
    Meter,
    MeterVersion,
    PeriodBoundary,
    Price,
)
from tests.crashes.shop import NOW, RUNNING, Operation, Shop, used
from tests.factories.billing import make_plan
from usage.models import QuarterUsage, RunHour
from usage.reports import CONFLICT, Stored
from usage.storing import COPY_FROM

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SEND = "/v1/billing/meter_events"
SUMMARIES = "/v1/billing/meters/*/event_summaries"
SESSION = "/v2/billing/meter_event_session"
Told = Iterator[Operation]


@dataclass(frozen=True, slots=True)
class Story:
    tell: Callable[[Shop], Told]
    meters: tuple[str, ...] = ("input_tokens",)


def first(shop: Shop) -> Told:
    """One request is stored, folded and sent."""
    yield shop.ingest(("q0", NOW - MINUTE, 10))
    yield shop.flush()
    yield shop.deliver()


def second(shop: Shop) -> Told:
    """Two requests are stored, folded and sent, and Stripe's totals are read before they hold it.

    So whatever an interruption leaves in doubt looks absent at first, and is not.
    """
    shop.emulator.settings.change(settle_lag_seconds=20 * 60)
    for event_id, at in (("q1", NOW - MINUTE), ("q2", NOW - HOUR)):
        yield shop.ingest((event_id, at, 10))
        yield shop.flush()
        yield shop.deliver()
        shop.advance(minutes=5)
        yield shop.nightly()


def large(shop: Shop) -> Told:
    """A request of a limited key that is copied, and one more whose events are stored but one."""
    ApiKey.objects.update(events_per_minute=100_000)
    events = [(f"b{number}", NOW - MINUTE, 1) for number in range(COPY_FROM)]
    yield shop.ingest(*events)
    yield shop.ingest(*events, ("c", NOW - MINUTE, 1))
    yield shop.flush()
    yield shop.deliver()


def rebuilt(shop: Shop) -> Told:
    """What questions about usage are answered from is lost, and written anew from the events."""
    yield shop.ingest(("r1", NOW - MINUTE, 3), ("r2", NOW - HOUR, 4))
    yield shop.flush()
    RunHour.objects.all().delete()
    QuarterUsage.objects.all().delete()
    yield shop.rebuild()
    yield shop.deliver()


def ordinary(shop: Shop) -> Told:
    """Usage comes in twice and once in conflict, of a customer unknown at first, and is billed."""
    yield shop.ingest(("a1", NOW - MINUTE, 10), ("a2", NOW - 2 * MINUTE, 7))
    yield shop.accept(
        used("a1", NOW, input_tokens=11),
        used("a3", NOW - HOUR, input_tokens=5),
        used("a3", NOW - HOUR, input_tokens=5),
        expected=(CONFLICT, Stored.ACCEPTED, Stored.DUPLICATE),
    )
    yield shop.ingest(("g1", NOW - MINUTE, 3), subject="globex")
    yield shop.upkeep()
    shop.advance(minutes=5)
    shop.make_customer("globex")
    yield shop.release()
    yield shop.deliver()
    yield shop.statement()
    yield shop.invariants()


def doubt(shop: Shop) -> Told:
    """Workers die with a claim, an answer is lost, a busy Stripe refuses."""
    yield shop.deliver()
    yield shop.ingest(("x2", NOW - HOUR, 7))
    yield shop.flush()
    yield shop.die_with_a_claim()
    shop.advance(minutes=2)
    shop.emulator.faults.switch_on("answer_lost", path=SEND, count=1)
    yield shop.deliver()
    yield shop.ingest(("x3", NOW, 5))
    yield shop.flush()
    yield shop.die_with_a_claim()
    shop.advance(minutes=2)
    shop.emulator.faults.switch_on("429", path=SEND, count=1)
    yield shop.deliver()
    shop.emulator.faults.clear()


def old_doubt(shop: Shop) -> Told:
    """Two calls' ends are unknown for longer than Stripe remembers; one of them was counted."""
    yield shop.ingest(("x4", NOW - 3 * HOUR, 4), ("x5", NOW - 4 * HOUR, 5))
    yield shop.flush()
    shop.emulator.faults.switch_on("answer_lost", path=SEND, count=1)
    shop.emulator.faults.switch_on("drop_before", path=SEND)
    yield shop.deliver()
    shop.emulator.faults.clear()
    shop.advance(hours=25)
    yield shop.deliver()
    shop.advance(hours=36.5)
    yield shop.doubtful()
    yield shop.deliver()


def outage(shop: Shop) -> Told:
    """Stripe is silent for so long that it is only asked whether it is well."""
    yield shop.ingest(*((f"o{number}", NOW - number * HOUR, number) for number in range(1, 6)))
    yield shop.flush()
    shop.emulator.faults.switch_on("drop_before", path=SEND)
    yield shop.deliver()
    shop.emulator.faults.clear()
    shop.advance(minutes=10)
    yield shop.deliver()


def too_old(shop: Shop) -> Told:
    """Usage that nobody sent until Stripe takes it no more."""
    yield shop.ingest(("t1", NOW - timedelta(days=33, hours=23), 6))
    yield shop.flush()
    shop.advance(hours=14)
    yield shop.alarms()
    yield shop.deliver()


def refusals(shop: Shop) -> Told:
    """The meter is deactivated and comes back; our key is refused."""
    meter = str(Meter.objects.get().stripe_meter_id)
    yield shop.ingest(("r1", NOW - MINUTE, 10))
    yield shop.flush()
    yield shop.check_meters()
    stripe().v1.billing.meters.deactivate(meter)
    yield shop.deliver()
    stripe().v1.billing.meters.reactivate(meter)
    shop.advance(hours=2)
    shop.emulator.faults.switch_on("401", path="/v1/billing/meters", count=1)
    yield shop.check_meters()
    yield shop.check_meters()
    yield shop.deliver()
    shop.advance(hours=2)
    shop.emulator.faults.switch_on("401", path=SUMMARIES, count=1)
    yield shop.nightly_refused()


def slow_totals(shop: Shop) -> Told:
    """Stripe's total lags for longer than we wait before we tell somebody."""
    shop.emulator.faults.switch_on("settle_late", delay_seconds=3 * 3_600, count=1)
    yield shop.ingest(("s1", NOW - MINUTE, 10))
    yield shop.flush()
    yield shop.deliver()
    shop.emulator.faults.clear()
    shop.advance(hours=2)
    yield shop.nightly()


def streamed(shop: Shop) -> Told:
    """A backlog goes over the stream, and another one."""
    settings.USAGE_STREAM_FROM = 2
    for hours in (1, 5):
        yield shop.ingest(
            (f"b{hours}", NOW - hours * HOUR, hours), (f"c{hours}", NOW - (hours + 1) * HOUR, 2)
        )
        yield shop.flush()
        yield shop.deliver()
    shop.advance(hours=1)
    yield shop.doubtful()


def stream_refused(shop: Shop) -> Told:
    """Stripe gives the account no session, so that v1 does the work."""
    settings.USAGE_STREAM_FROM = 2
    yield shop.ingest(("b1", NOW - HOUR, 1), ("b2", NOW - 2 * HOUR, 2))
    yield shop.flush()
    shop.emulator.faults.switch_on("403", path=SESSION, count=1)
    yield shop.deliver()
    shop.emulator.faults.clear()


def reported(shop: Shop) -> Told:
    """Stripe takes an event over the stream, refuses it later, and tells of it."""
    settings.USAGE_STREAM_FROM = 2
    yield shop.ingest(("b5", NOW - 5 * HOUR, 5), ("b6", NOW - 6 * HOUR, 6))
    yield shop.flush()
    shop.emulator.faults.switch_on("reject_in_stream", count=1)
    yield shop.deliver()
    shop.emulator.faults.clear()
    shop.advance(seconds=11)
    yield shop.hooks()
    shop.emulator.faults.switch_on("500_before", path="/v2/core/events/*", count=1)
    yield shop.handle()
    shop.emulator.faults.clear()
    shop.advance(minutes=10)
    yield shop.handle()
    yield shop.handle_again()
    yield shop.handle()


def unsampled(shop: Shop) -> Told:
    """An error report counts a refusal it does not name, and nobody finds it for three days."""
    settings.USAGE_STREAM_FROM = 2
    shop.emulator.settings.change(report_samples=0)
    yield shop.ingest(("n1", NOW - HOUR, 1), ("n2", NOW - 2 * HOUR, 2))
    yield shop.flush()
    shop.emulator.faults.switch_on("reject_in_stream", count=1)
    yield shop.deliver()
    shop.emulator.faults.clear()
    shop.advance(minutes=1)
    yield shop.hooks()
    yield shop.handle()
    shop.advance(hours=73)
    yield shop.close_reports()
    yield shop.doubtful()
    yield shop.deliver()
    shop.advance(minutes=5)
    yield shop.nightly()
    yield shop.close_reports()


def voided(shop: Shop) -> Told:
    """An event is taken back, and its negative sent."""
    yield shop.ingest(("v1", NOW - MINUTE, 10), ("v2", NOW - 2 * MINUTE, 7))
    yield shop.flush()
    yield shop.deliver()
    shop.advance(minutes=5)
    yield shop.void("v1")
    yield shop.flush()
    yield shop.deliver()


def backfilled(shop: Shop) -> Told:
    """Usage of last week is brought in by a person, and billed."""
    yield shop.backfill(
        used("b1", NOW - timedelta(days=7), input_tokens=9), used("b2", NOW, input_tokens=2)
    )
    yield shop.flush()
    yield shop.deliver()


def cancelled(shop: Shop) -> Told:
    """A whole submission is taken back by having Stripe cancel it."""
    yield shop.ingest(("c1", NOW - HOUR, 5))
    yield shop.flush()
    yield shop.deliver()
    shop.advance(minutes=5)
    yield shop.cancel(hour=11)
    yield shop.deliver()


def cancelled_too_late(shop: Shop) -> Told:
    """Of one cancellation the answer is lost, another is never tried, until Stripe takes none."""
    yield shop.ingest(("c2", NOW - 2 * HOUR, 4), ("c3", NOW - 3 * HOUR, 3))
    yield shop.flush()
    yield shop.deliver()
    shop.advance(minutes=5)
    yield shop.cancel(hour=10)
    shop.emulator.faults.switch_on("answer_lost", path="/v1/billing/meter_event_adjustments")
    yield shop.deliver()
    shop.emulator.faults.clear()
    yield shop.cancel(hour=9)
    shop.now = NOW + timedelta(hours=23, minutes=1)
    yield shop.deliver()


def running(shop: Shop) -> Told:
    """The largest of a period grows; usage of somebody unknown is counted once they are known."""
    _period_of_acme()
    yield shop.ingest(("m2", NOW - HOUR, 7), name=RUNNING, subject="globex")
    yield shop.upkeep()
    shop.advance(minutes=5)
    shop.make_customer("globex")
    yield shop.upkeep()
    yield shop.deliver()


def running_cut(shop: Shop) -> Told:
    """A period of a running value is cut in two after both halves were counted as one."""
    acme = _period_of_acme()
    yield shop.ingest(("m1", NOW - 3 * HOUR, 5), ("m3", NOW - MINUTE, 8), name=RUNNING)
    yield shop.upkeep()
    yield shop.deliver()
    PeriodBoundary.objects.create(customer=acme, at=NOW - HOUR)
    shop.advance(minutes=5)
    yield shop.upkeep()
    yield shop.deliver()


def running_resent(shop: Shop) -> Told:
    """A running value is in doubt for longer than Stripe remembers its identifier."""
    _period_of_acme()
    yield shop.ingest(("m4", NOW, 9), name=RUNNING)
    yield shop.upkeep()
    shop.emulator.faults.switch_on("drop_before", path=SEND)
    yield shop.deliver()
    shop.emulator.faults.clear()
    shop.advance(hours=24)
    yield shop.upkeep()
    yield shop.deliver()


def _period_of_acme() -> Customer:
    acme = Customer.objects.get()
    PeriodBoundary.objects.create(customer=acme, at=datetime(2026, 11, 1, tzinfo=UTC), recut_at=NOW)
    return acme


def period_end(shop: Shop) -> Told:
    """A billing period ends, its draft is told and asked for, and becomes final too soon."""
    end = NOW + 2 * HOUR
    begin = end - timedelta(days=31)
    acme = _subscribed(shop, begin)
    for at in (begin, end):
        PeriodBoundary.objects.create(customer=acme, at=at, recut_at=NOW)
    shop.now = end - 10 * MINUTE
    yield shop.ingest(("p1", end - 50 * MINUTE, 10), ("p2", end - 12 * MINUTE, 7))
    yield shop.upkeep()
    yield shop.deliver()
    shop.now = end + 31 * MINUTE
    yield shop.ingest(("p3", end - 2 * HOUR, 5), ("p4", end + MINUTE, 2))
    yield shop.flush()
    yield shop.hooks()
    yield shop.handle()
    shop.advance(minutes=15)
    yield shop.ask()
    shop.emulator.faults.switch_on("answer_lost", path=SEND, count=1)
    yield shop.deliver()
    shop.emulator.faults.clear()
    yield shop.ingest(("p5", end - 3 * HOUR, 3))
    yield shop.flush()
    shop.now = end + 92 * MINUTE  # an hour after the draft's event was answered
    yield shop.hooks()
    yield shop.handle()
    yield shop.hold_late()
    yield shop.ingest(("p6", end - 4 * HOUR, 1))
    yield shop.upkeep()
    Invoice.objects.create(
        stripe_invoice_id="in_gone",
        customer=acme,
        status="draft",
        currency="usd",
        total=0,
        period_start=begin,
        period_end=begin,
        created_at=begin,
        mirrored_at=begin,
    )
    yield shop.miss_invoice("in_gone")


def unheard(shop: Shop) -> Told:
    """Webhooks of a period's end are all lost; the sweep is refused once, and then fetches them."""
    end = NOW + 2 * HOUR
    begin = end - timedelta(days=31)
    acme = _subscribed(shop, begin)
    for at in (begin, end):
        PeriodBoundary.objects.create(customer=acme, at=at, recut_at=NOW)
    shop.now = end - 10 * MINUTE
    yield shop.ingest(("u1", end - 50 * MINUTE, 10))
    yield shop.upkeep()
    yield shop.deliver()
    shop.now = end + 31 * MINUTE
    shop.emulator.faults.switch_on("webhook_drop")
    yield shop.hooks()
    shop.emulator.faults.clear()
    shop.advance(minutes=15)
    shop.emulator.faults.switch_on("401", path="/v1/events", count=1)
    yield shop.sweep_events()
    yield shop.sweep_events()
    yield shop.handle()


def deleted(shop: Shop) -> Told:
    """A customer without a plan is deleted at Stripe, and a night tells of what it used."""
    acme, meter = Customer.objects.get(), Meter.objects.get()
    Price.objects.create(
        plan=make_plan(),
        lookup_key="tokens",
        name="tokens",
        kind=PriceKind.METERED,
        meter=meter,
        currency="usd",
        interval="month",
        rule={"unit_amount_decimal": "1"},
        stripe_price_id="price_1",
        stripe_product_id="prod_1",
    )
    yield shop.ingest(("x1", NOW - 30 * MINUTE, 10))
    yield shop.flush()
    yield shop.deliver()
    stripe().v1.customers.delete(str(acme.stripe_customer_id))
    yield shop.hooks()
    yield shop.handle()
    yield shop.leaks()


def _subscribed(shop: Shop, begin: datetime) -> Customer:
    """Subscribe the customer at `begin`, with invoices at the end of each month."""
    shop.now = begin
    acme, meter = Customer.objects.get(), Meter.objects.get()
    product = stripe().v1.products.create({"name": "tokens"})
    price = stripe().v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount": 1,
            "recurring": {
                "interval": "month",
                "usage_type": "metered",
                "meter": str(meter.stripe_meter_id),
            },
        }
    )
    stripe().v1.subscriptions.create(
        {"customer": str(acme.stripe_customer_id), "items": [{"price": price.id}]}
    )
    shop.emulator.pop_deliveries()
    return acme


def learned_late(shop: Shop) -> Told:
    """A boundary is learned after the usage around it was folded, another before."""
    acme = Customer.objects.get()
    yield shop.ingest(("l1", NOW - 25 * MINUTE, 10), ("l2", NOW - MINUTE, 7))
    yield shop.flush()
    PeriodBoundary.objects.create(customer=acme, at=NOW - 15 * MINUTE)
    PeriodBoundary.objects.create(customer=acme, at=NOW + timedelta(days=30))
    yield shop.recut()
    yield shop.deliver()
    # A definition that was changed, and not followed by a new one: nothing can be cut by it.
    yield shop.ingest(("l3", NOW - 3 * MINUTE, 5), ("l4", NOW - 2 * MINUTE, 3))
    yield shop.flush()
    PeriodBoundary.objects.create(customer=acme, at=NOW - timedelta(seconds=150))
    MeterVersion.objects.update(value_property="output_tokens")
    yield shop.recut()
    MeterVersion.objects.update(value_property="input_tokens")
    shop.advance(minutes=1)
    yield shop.recut()
    yield shop.deliver()


def restored(shop: Shop) -> Told:
    """Sending is stopped, and goes on from a database that may have forgotten an hour."""
    yield shop.ingest(("f1", NOW - MINUTE, 10))
    yield shop.flush()
    yield shop.deliver()
    yield shop.ingest(("f2", NOW - HOUR, 7))
    yield shop.flush()
    yield shop.quarantine()
    yield shop.deliver()
    shop.advance(minutes=30)
    yield shop.lift(lost_since=NOW - MINUTE)
    yield shop.deliver()
    shop.advance(hours=37)
    yield shop.doubtful()
    yield shop.deliver()


STORIES = {
    "first": Story(first),
    "second": Story(second),
    "large": Story(large),
    "rebuilt": Story(rebuilt),
    "ordinary": Story(ordinary, ("input_tokens", "llm_calls")),
    "doubt": Story(doubt),
    "old_doubt": Story(old_doubt),
    "outage": Story(outage),
    "too_old": Story(too_old),
    "refusals": Story(refusals),
    "slow_totals": Story(slow_totals),
    "streamed": Story(streamed),
    "stream_refused": Story(stream_refused),
    "reported": Story(reported),
    "unsampled": Story(unsampled),
    "voided": Story(voided),
    "backfilled": Story(backfilled),
    "cancelled": Story(cancelled),
    "cancelled_too_late": Story(cancelled_too_late),
    "running": Story(running, (RUNNING,)),
    "running_cut": Story(running_cut, (RUNNING,)),
    "running_resent": Story(running_resent, (RUNNING,)),
    "period_end": Story(period_end),
    "unheard": Story(unheard),
    "deleted": Story(deleted),
    "learned_late": Story(learned_late),
    "restored": Story(restored),
}
