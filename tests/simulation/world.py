"""The company under simulation: its database, its Stripe, its clock, and all that can befall it.

Everything happens in one transaction of one connection, which is rolled back in the end. That
makes an example cheap, and bringing the database back to an earlier instant a savepoint.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import structlog
import time_machine
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.test import RequestFactory

from billing import periods
from billing.enums import Aggregation
from billing.gateway import meter_event_stream
from billing.gateway.client import connection as stripe
from billing.gateway.values import InvoiceState
from billing.models import Customer, Meter, MeterVersion, PeriodBoundary, Source
from billing.webhooks import inbox, views
from billing_project.webhook_routes import ROUTES
from reconciliation import runs
from stripe_emulator import Emulator
from tests.simulation.ledger import Judge, Ledger
from tests.simulation.meddling import Meddler, meddling
from tests.support.interruptions import Killed, Moment
from tests.support.stripe import switchboard
from usage import (
    calling,
    cancelling,
    claiming,
    delivery,
    fence,
    flush,
    holding,
    lateness,
    outcomes,
    recutting,
    rejections,
    running_upkeep,
    voiding,
)
from usage.calling import Ended
from usage.claiming import Claim
from usage.enums import Wire
from usage.ingestion import accept
from usage.json_objects import compact
from usage.lifecycle import COUNTED
from usage.models import IngestBatch, Submission, UsageEvent
from usage.reports import CONFLICT, Refusal, ReportedEvent, Stored

START = datetime(2026, 11, 20, 12, 30, 15, tzinfo=UTC)
KNOWN = ("acme", "globex")
UNKNOWN = "newco"
SUBJECTS = (*KNOWN, UNKNOWN)
METERS = {
    "tokens": (Aggregation.SUM, "tokens", "sum"),
    "calls": (Aggregation.COUNT, "", "sum"),
    "seats": (Aggregation.MAX, "seats", "last"),
}
THIN = "/webhooks/stripe/thin"
NEVER = 10**9
FOREVER = float("inf")
STAFF: dict[str, str] = {"author": "ada", "reason": "reported by mistake"}


@dataclass(frozen=True)
class Snapshot:
    savepoint: str
    taken_at: datetime
    journal_length: int


@dataclass
class Stalled:
    """A worker that stands still with what it claimed; `ended` is None before its call."""

    claims: Sequence[Claim]
    ended: list[Ended] | None


@dataclass
class World:
    emulator: Emulator
    meddler: Meddler
    traveller: time_machine.Traveller
    now: datetime = START
    identity: fence.Identity = field(default_factory=fence.identity)
    source_id: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    judge: Judge = field(init=False)
    requests: RequestFactory = field(default_factory=RequestFactory)
    stalled: list[Stalled] = field(default_factory=list)
    journal: list[Callable[[], None]] = field(default_factory=list)
    """What callers and staff did and would do again after a restore, in order."""
    snapshot: Snapshot | None = None
    is_replaying: bool = False
    remapped: set[str] = field(default_factory=set)
    has_restored: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    kept: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.judge = Judge(self.emulator)

    # --- time -------------------------------------------------------------------------------

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.traveller.move_to(self.now, tick=False)

    def clock(self) -> datetime:
        """Tell the time, and let a little of it pass: no two instants of a worker are the same."""
        self.move(0.001)
        return self.now

    # --- what can befall a worker -----------------------------------------------------------

    def survive(self, work: Callable[[], object]) -> bool:
        """Let a worker do `work`; return whether it lived to its end."""
        try:
            work()
        except Killed:
            # The session of the stream was that process's.
            meter_event_stream._current = None
            self.counts["crashes"] += 1
            return False
        except (InterfaceError, DatabaseError) as error:
            if "connection already closed" not in str(error):
                raise
            self.counts["commits unknown"] += 1
            return False
        finally:
            self.meddler.leave()
        return True

    @contextmanager
    def breaking(self, kind: str, *, count: int, skip: int = 0, path: str = "*") -> Iterator[None]:
        """Break some of Stripe's answers meanwhile."""
        if kind:
            self.emulator.faults.switch_on(kind, count=count, skip=skip, path=path)
        try:
            yield
        finally:
            self.counts["faults"] += sum(rule.struck for rule in self.emulator.faults.rules)
            self.emulator.faults.clear()

    # --- callers ----------------------------------------------------------------------------

    def report(self, *reports: ReportedEvent) -> None:
        """Report until there is an answer, and note what it acknowledges."""
        answers = accept(source_id=self.source_id, reports=reports, now=self.clock())
        acknowledged = []
        for report, answer in zip(reports, answers, strict=True):
            if isinstance(answer, Stored):
                self.ledger.acknowledge(report)
                acknowledged.append(report)
            else:
                assert answer is not CONFLICT, report
        if acknowledged and not self.is_replaying:
            self.journal.append(lambda: self.report(*acknowledged))

    def conflict(self, report: ReportedEvent) -> None:
        changed = event(
            report.event_id, report.subject, at=report.occurred_at, tokens=1 + report.data["tokens"]
        )
        [answer] = accept(source_id=self.source_id, reports=[changed], now=self.clock())
        assert isinstance(answer, Refusal)

    # --- staff ------------------------------------------------------------------------------

    def create_customer(self, external_id: str) -> None:
        if Customer.objects.filter(external_id=external_id).exists():
            return
        self.link(external_id, self.make_at_stripe(external_id))

    def make_at_stripe(self, external_id: str) -> str:
        made: str = stripe().v1.customers.create({"name": external_id}).id
        self.judge.owners[made] = external_id
        return made

    def link(self, external_id: str, stripe_id: str) -> None:
        """Tie a customer, new or known, to one of Stripe's."""
        Customer.objects.update_or_create(
            external_id=external_id, defaults={"stripe_customer_id": stripe_id}
        )
        if not self.is_replaying:
            self.journal.append(lambda: self.link(external_id, stripe_id))

    def remap(self, external_id: str) -> None:
        if Customer.objects.filter(external_id=external_id).exists():
            self.remapped.add(external_id)
            self.counts["remaps"] += 1
            self.link(external_id, self.make_at_stripe(external_id))

    def switch_meter(self, slug: str, *, on: bool) -> None:
        meter = Meter.objects.get(slug=slug)
        at_stripe = stripe().v1.billing.meters
        is_on = at_stripe.retrieve(str(meter.stripe_meter_id)).status == "active"
        if is_on == on:
            return
        if on:
            at_stripe.reactivate(str(meter.stripe_meter_id))
        else:
            self.counts["meters switched off"] += 1
            at_stripe.deactivate(str(meter.stripe_meter_id))

    def void(self, event_id: str) -> None:
        if not UsageEvent.objects.filter(source_id=self.source_id, event_id=event_id).exists():
            return
        voiding.void([voiding.EventKey(self.source_id, event_id)], **STAFF, now=self.clock())
        self._voided([event_id])

    def cancel(self, submission: Submission) -> None:
        before = set(_voided_ids())
        try:
            cancelling.cancel_submission(submission, **STAFF, now=self.clock())
        except cancelling.CannotCancel:
            return
        self.counts["cancellations"] += 1
        self._voided(sorted(set(_voided_ids()) - before))

    def _voided(self, event_ids: Sequence[str]) -> None:
        self.ledger.voided.update(event_ids)
        if not self.is_replaying:
            self.counts["voids"] += len(event_ids)
            self.journal.append(lambda: [self.void(each) for each in event_ids] and None)

    def learn_boundary(self, external_id: str, at: datetime) -> None:
        customer = Customer.objects.filter(external_id=external_id).first()
        if customer is None:
            return
        PeriodBoundary.objects.get_or_create(customer=customer, at=at)
        if not self.is_replaying:
            self.counts["boundaries"] += 1
            self.journal.append(lambda: self.learn_boundary(external_id, at))

    def finalize(self, external_id: str) -> None:
        """Let the invoice of the customer's latest ended period be final."""
        boundary = (
            PeriodBoundary.objects.filter(
                customer__external_id=external_id, at__lte=self.now - timedelta(hours=1)
            )
            .exclude(closed_at__isnull=False)
            .order_by("at")
            .last()
        )
        if boundary is None:
            return
        self._close(external_id, boundary.at)

    def _close(self, external_id: str, at: datetime) -> None:
        customer = Customer.objects.get(external_id=external_id)
        self.counts["periods closed"] += 1
        periods.note(
            customer,
            InvoiceState(
                id="in_1",
                customer_id=str(customer.stripe_customer_id),
                subscription_id="",
                subscription_metadata={},
                status="open",
                currency="usd",
                total=0,
                period_start=at - timedelta(days=30),
                period_end=at,
                ended_periods=(at,),
                automatically_finalizes_at=None,
                finalized_at=self.now,
                created_at=at,
                asked_at=self.now,
            ),
        )
        if not self.is_replaying:
            self.journal.append(lambda: self._close(external_id, at))

    # --- workers ----------------------------------------------------------------------------

    def flush(self) -> None:
        """Do what the flush's wake-up does."""
        for _ in flush.flush_waiting(clock=self.clock, seconds=FOREVER):
            pass
        recutting.recut(clock=self.clock, seconds=FOREVER)
        lateness.hold_late_waiting(clock=self.clock, seconds=FOREVER)
        holding.release_waiting(clock=self.clock, seconds=FOREVER)
        running_upkeep.tend(clock=self.clock, seconds=FOREVER)
        holding.report()
        lateness.report()
        if lateness.ask(now=self.clock(), seconds=FOREVER).closed_count:
            lateness.hold_late(now=self.clock())
            lateness.report()

    def deliver(self) -> None:
        counts = delivery.deliver_due(clock=self.clock, seconds=FOREVER).counts
        self.counts["doubts"] += counts["unknown"] + counts["stalled"]

    def reconcile_doubtful(self) -> None:
        runs.reconcile_doubtful(now=self.clock())

    def reconcile_recent(self) -> None:
        runs.reconcile_recent(now=self.clock(), seconds=FOREVER)
        rejections.close_resolved(now=self.clock())

    def handle_webhooks(self) -> None:
        inbox.process_due(routes=ROUTES, limit=100, seconds=FOREVER)

    def take_webhooks(self) -> None:
        """Take in what Stripe tells us; only a forged copy may be refused."""
        is_forged = any(rule.kind == "webhook_forge" for rule in self.emulator.faults.rules)
        expected = {200, 400} if is_forged else {200}
        due = self.emulator.pop_deliveries()
        for told in due:
            answer = views.thin(
                self.requests.post(
                    THIN,
                    told.body,
                    content_type="application/json",
                    headers={"Stripe-Signature": told.headers["Stripe-Signature"]},
                )
            )
            assert answer.status_code in expected, answer.content
            self.counts["webhooks"] += 1
            self.counts["forged webhooks"] += answer.status_code == 400
            self.emulator.report_delivery(told, answer.status_code)

    def use_stream(self, *, on: bool) -> None:
        settings.USAGE_STREAM_FROM = 1 if on else NEVER

    def stall(self, *, stored_wire: str, wire: Wire, is_called: bool) -> None:
        """Have a worker claim, perhaps call, and then stand still."""
        claims = claiming.claim(clock=self.clock, stored_wire=stored_wire, wire=wire, limit=3)
        if claims:
            self.counts["stalls"] += 1
            self.stalled.append(Stalled(claims, self._called(claims) if is_called else None))

    def wake(self) -> None:
        """Let the worker that has stood still for longest go on, as if nothing had happened."""
        if not self.stalled:
            return
        worker = self.stalled.pop(0)
        ended = self._called(worker.claims) if worker.ended is None else worker.ended
        outcomes.record(ended, now=self.clock())

    @staticmethod
    def _called(claims: Sequence[Claim]) -> list[Ended]:
        if claims[0].wire == Wire.STREAM:
            return calling.call(claims)
        return [ended for claim in claims for ended in calling.call([claim])]

    # --- restoring --------------------------------------------------------------------------

    def take_snapshot(self) -> None:
        self.snapshot = Snapshot(transaction.savepoint(), self.now, len(self.journal))

    def restore(self, *, waits_seconds: float) -> None:
        """Bring the database back, Stripe not; replay, and lift the quarantine after a while."""
        snapshot = self.snapshot
        if snapshot is None:
            return
        self.counts["restores"] += 1
        self.has_restored = True
        transaction.savepoint_rollback(snapshot.savepoint)
        self.stalled.clear()
        meter_event_stream._current = None
        timeline = f"{int(self.identity.timeline, 16) + 1:08X}"
        self.identity = replace(self.identity, timeline=timeline)
        # Nobody has noticed yet, and all workers go on.
        self.deliver()
        self.move(waits_seconds)
        stored = set(
            UsageEvent.objects.filter(source_id=self.source_id).values_list("event_id", flat=True)
        )
        self.ledger.forgotten = self.ledger.events.keys() - stored
        self.ledger.voided = set(_voided_ids())
        self.is_replaying = True
        for again in self.journal[snapshot.journal_length :]:
            again()
        self.is_replaying = False
        fence.lift(reason="restored", by="ada", lost_since=snapshot.taken_at, now=self.clock())

    # --- the end ----------------------------------------------------------------------------

    def tick(self, seconds: float) -> None:
        """Let everything that runs by a schedule run once, `seconds` later."""
        self.move(seconds)
        self.flush()
        self.deliver()
        self.take_webhooks()
        self.handle_webhooks()
        self.move(1)
        self.reconcile_doubtful()


def event(
    event_id: str, subject: str, *, at: datetime | None, tokens: int, seats: int = 0
) -> ReportedEvent:
    data = {"tokens": tokens} | ({"seats": seats} if seats else {})
    return ReportedEvent(
        event_id=event_id,
        type="llm.call",
        subject=subject,
        occurred_at=at,
        data=data,
        data_json=compact(data).decode(),
    )


def accepted_submissions() -> Sequence[Submission]:
    return Submission.objects.filter(standing__state__in=COUNTED).order_by("pk")


def _voided_ids() -> list[str]:
    voids = UsageEvent.objects.filter(voids__isnull=False).values_list("voids", flat=True)
    return list(UsageEvent.objects.filter(pk__in=list(voids)).values_list("event_id", flat=True))


def _set_up(world: World) -> None:
    world.source_id = Source.objects.create(name="gateway").pk
    for slug, (aggregation, value_property, formula) in METERS.items():
        made = stripe().v1.billing.meters.create(
            {
                "display_name": slug,
                "event_name": f"mk_{slug}",
                "default_aggregation": {"formula": formula},  # type: ignore[typeddict-item]
            }
        )
        meter = Meter.objects.create(
            slug=slug,
            display_name=slug,
            event_name=f"mk_{slug}",
            aggregation=aggregation,
            unit=slug,
            stripe_meter_id=made.id,
        )
        MeterVersion.objects.create(
            meter=meter,
            event_type="llm.call",
            value_property=value_property,
            required=slug == "tokens",
            measures=[slug],
            effective_from=datetime(1970, 1, 1, tzinfo=UTC),
        )
    for external_id in KNOWN:
        world.create_customer(external_id)
    world.emulator.forward(
        f"http://us.invalid{THIN}", settings.STRIPE_THIN_WEBHOOK_SECRETS[0], thin=True
    )


@contextmanager
def opened(seed: int) -> Iterator[World]:
    """Yield a new world; whatever happens in it is rolled back."""
    random.seed(seed)
    emulator = Emulator(now=lambda: world.now.timestamp())  # noqa: PLW0108 - it moves
    stream_from, identity = settings.USAGE_STREAM_FROM, fence.identity
    virtual = SimpleNamespace(monotonic=lambda: world.now.timestamp())  # noqa: PLW0108 - it moves
    clocks, lock = (claiming.time, calling.time), meter_event_stream._lock
    with (
        transaction.atomic(),
        time_machine.travel(START, tick=False) as traveller,
        structlog.testing.capture_logs(),
    ):
        meddler = Meddler(emulator, depth=len(connection.atomic_blocks))
        world = World(emulator=emulator, meddler=meddler, traveller=traveller)
        fence.identity = lambda: world.identity
        # Leases end by the monotonic clock; this one moves with the others.
        claiming.time = calling.time = virtual  # type: ignore[assignment]
        # Two workers taking turns are one thread here; each of theirs has a lock of its own.
        meter_event_stream._lock = threading.RLock()  # type: ignore[assignment]
        switchboard.connect(emulator)
        settings.USAGE_STREAM_FROM = NEVER
        try:
            with meddling(meddler):
                with connection.cursor() as cursor:
                    # Tables without statistics look dear enough to compile for, and are tiny.
                    cursor.execute("SET LOCAL jit = off")
                _set_up(world)
                yield world
        finally:
            switchboard.disconnect()
            settings.USAGE_STREAM_FROM, fence.identity = stream_from, identity
            claiming.time, calling.time = clocks
            meter_event_stream._lock = lock
            transaction.set_rollback(True)


def interruptible_work(world: World) -> dict[str, Callable[[], None]]:
    return {
        "flush": world.flush,
        "deliver": world.deliver,
        "doubtful": world.reconcile_doubtful,
        "recent": world.reconcile_recent,
        "webhooks": world.handle_webhooks,
    }


MOMENTS = tuple(moment.value for moment in Moment)
__all__ = ["MOMENTS", "IngestBatch", "World", "accepted_submissions", "event", "opened"]
