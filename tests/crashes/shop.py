"""A whole business under one virtual clock: callers, workers, people, and Stripe.

Stories move it; the judge asks it. It runs in the transaction of its test, where a savepoint stands
for a commit. That is enough, because what is tested is where the process ends: everything of a
step is there, or nothing of it, and the next process finds exactly what was committed. It does not
show what two connections at once would do to each other, nor PostgreSQL's own recovery; those are
the tests' that race on real connections and that kill real processes.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

import time_machine
from django.conf import settings
from django.test import Client, override_settings

from billing import authentication, invoices, meter_checks
from billing.enums import Aggregation, Scope
from billing.gateway import meter_event_stream
from billing.gateway.client import connection as stripe
from billing.gateway.errors import Misconfigured
from billing.models import (
    Case,
    Customer,
    Meter,
    PeriodBoundary,
    Source,
    WebhookEvent,
)
from billing.webhooks import inbox, sweep
from billing_project.webhook_routes import ROUTES
from reconciliation import runs
from stripe_emulator import Emulator
from tests.support.interruptions import Interruptions, Killed, interruptible, watched
from tests.support.stripe import switchboard
from tests.usage.conftest import make_meter, report
from usage import (
    alarms,
    backfilling,
    cancelling,
    claiming,
    delivery,
    fence,
    flush,
    holding,
    invariants,
    lateness,
    leak_cases,
    quarters,
    queries,
    recutting,
    rejections,
    statements,
    tasks,
    voiding,
)
from usage.enums import Wire
from usage.ingestion import accept
from usage.lifecycle import State
from usage.models import (
    ErrorReport,
    HeldUsage,
    IngestBatch,
    Submission,
    SubmissionState,
    UsageEvent,
)
from usage.reports import Stored

NOW = datetime(2026, 11, 20, 12, 30, 15, tzinfo=UTC)
EVENTS = "/api/v1/events"
HOOKS = {"/webhooks/stripe": False, "/webhooks/stripe/thin": True}
OPEN = (
    State.READY,
    State.SENDING,
    State.RETRY,
    State.IN_DOUBT,
    State.ACCEPTED,
    State.UNPROVEN,
)
PROPERTIES = {"input_tokens": "input_tokens", "llm_calls": "", "seats": "seats"}
"""What each meter reads of an event; the empty one counts events."""
RUNNING = "seats"
"""The meter that takes the largest of a period instead of a sum."""
Cell = tuple[str, str, int]
"""A customer at Stripe, an event name, and the start of a UTC hour in epoch seconds."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What one process or person does, and may die at. Whoever got no answer may ask again."""

    run: Callable[[], Any]
    is_repeated: bool = False


@dataclass
class Shop:
    emulator: Emulator
    interruptions: Interruptions
    now: datetime = NOW
    source_id: int = 0
    key: str = ""
    acknowledged: set[str] = field(default_factory=set)
    operations: int = 0
    judged_arrivals: int = 0

    # --- time and processes -----------------------------------------------------------------------

    def advance(self, **span: float) -> None:
        self.now += timedelta(**span)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let code of the product run at the virtual instant, and be watched."""
        with ExitStack() as stack:
            stack.enter_context(time_machine.travel(self.now, tick=False))
            stack.enter_context(watched(self.interruptions))
            for module in (tasks, rejections):
                stack.enter_context(
                    mock.patch.object(module, "database_clock", return_value=self.now)
                )
            yield

    def perform(self, operation: Operation) -> None:
        """Run an operation; when the process dies at it another goes on, and callers ask again."""
        had_struck = self.interruptions.struck
        try:
            self._run(operation)
        except Killed:
            meter_event_stream._current = None  # what a process remembers dies with it
            if operation.is_repeated:
                self._run(operation)
        except Exception:
            # Only the interruption may make an operation fail.
            if had_struck or not self.interruptions.struck:
                raise
            if operation.is_repeated:
                self._run(operation)

    def _run(self, operation: Operation) -> None:
        self.operations += 1
        try:
            with self.working():
                operation.run()
        finally:
            assert self.interruptions.objections == []
            self.check_nothing_overbilled()

    # --- callers ----------------------------------------------------------------------------------

    def ingest(
        self, *events: tuple[str, datetime, int], subject: str = "acme", name: str = "input_tokens"
    ) -> Operation:
        """Report events of (id, instant, quantity) over HTTP, again until they are acknowledged."""
        body = [
            {
                "id": event_id,
                "type": "llm.call",
                "subject": subject,
                "time": at.isoformat(),
                "data": {name: value},
            }
            for event_id, at, value in events
        ]

        def post() -> None:
            answer = Client(raise_request_exception=False).post(
                EVENTS,
                data=json.dumps(body),
                content_type="application/json",
                headers={"Authorization": f"Bearer {self.key}"},
            )
            if answer.status_code == 503:
                raise NotAnswered(answer.status_code)
            assert answer.status_code == 204, answer.content
            self.acknowledged |= {event_id for event_id, _, _ in events}

        return Operation(post, is_repeated=True)

    def accept(self, *reports: Any, expected: tuple[object, ...] = ()) -> Operation:
        def call() -> None:
            outcomes = accept(source_id=self.source_id, reports=reports, now=self.now)
            if expected and not self.interruptions.struck:
                assert tuple(outcomes) == expected
            self.acknowledged |= {
                each.event_id
                for each, outcome in zip(reports, outcomes, strict=True)
                if isinstance(outcome, Stored)
            }

        return Operation(call, is_repeated=True)

    def rebuild(self) -> Operation:
        return Operation(quarters.rebuild, is_repeated=True)

    def hooks(self) -> Operation:
        """Post what Stripe has to tell; what is not answered with a 200 it tells again."""

        def post() -> None:
            client = Client(raise_request_exception=False)
            pending.extend(self.emulator.pop_deliveries())
            while pending:
                answer = client.generic(
                    "POST",
                    "/" + pending[0].url.split("/", 3)[3],
                    pending[0].body,
                    content_type="application/json",
                    headers={"Stripe-Signature": pending[0].headers["Stripe-Signature"]},
                )
                if answer.status_code != 200:
                    raise NotAnswered(answer.status_code)
                self.emulator.report_delivery(pending.pop(0), answer.status_code)

        pending: list[Any] = []
        return Operation(post, is_repeated=True)

    # --- workers ----------------------------------------------------------------------------------

    def flush(self) -> Operation:
        return Operation(lambda: flush.flush_batches(now=self.now))

    def upkeep(self) -> Operation:
        return Operation(tasks.flush_due)

    def deliver(self) -> Operation:
        return Operation(lambda: delivery.deliver_due(clock=lambda: self.now))

    def sweep_events(self) -> Operation:
        return Operation(
            lambda: sweep.sweep(routes=ROUTES, clock=lambda: self.now, seconds=60),
            is_repeated=True,
        )

    def die_with_a_claim(self) -> Operation:
        """Claim one submission and never be heard of again."""
        return Operation(
            lambda: claiming.claim(clock=lambda: self.now, stored_wire="", wire=Wire.V1, limit=1)
        )

    def recut(self) -> Operation:
        return Operation(lambda: recutting.recut(clock=lambda: self.now, seconds=60))

    def ask(self) -> Operation:
        return Operation(lambda: lateness.ask(now=self.now, seconds=60))

    def hold_late(self) -> Operation:
        def hold() -> None:
            lateness.hold_late(now=self.now)
            lateness.report()

        return Operation(hold)

    def release(self) -> Operation:
        def release() -> None:
            holding.release_waiting(clock=lambda: self.now, seconds=60)
            holding.report()

        return Operation(release)

    def handle(self) -> Operation:
        return Operation(lambda: inbox.process_due(routes=ROUTES, limit=100, seconds=60))

    def doubtful(self) -> Operation:
        return Operation(lambda: runs.reconcile_doubtful(now=self.now))

    def nightly(self) -> Operation:
        return Operation(lambda: runs.reconcile_recent(now=self.now, seconds=60))

    def unsettled(self) -> Operation:
        """Compare what is not settled, as a night does, without yesterday's settled hours."""
        return Operation(
            lambda: runs.reconcile(
                since=self.now, until=self.now, now=self.now, with_unsettled=True
            )
        )

    def nightly_refused(self) -> Operation:
        """Run a night in which Stripe refuses our key."""

        def refused() -> None:
            with contextlib.suppress(Misconfigured):
                runs.reconcile_recent(now=self.now, seconds=60)

        return Operation(refused)

    def close_reports(self) -> Operation:
        return Operation(lambda: rejections.close_resolved(now=self.now))

    def alarms(self) -> Operation:
        return Operation(lambda: alarms.report(now=self.now))

    def leaks(self) -> Operation:
        return Operation(lambda: leak_cases.report(now=self.now))

    def invariants(self) -> Operation:
        return Operation(lambda: invariants.report(now=self.now))

    def miss_invoice(self, stripe_invoice_id: str) -> Operation:
        return Operation(lambda: invoices.mark_deleted(stripe_invoice_id, now=self.now))

    def check_meters(self) -> Operation:
        return Operation(lambda: meter_checks.check_all(self.now))

    # --- people -----------------------------------------------------------------------------------

    def statement(self) -> Operation:
        return Operation(statements.statement)

    def void(self, *event_ids: str) -> Operation:
        keys = [voiding.EventKey(self.source_id, event_id) for event_id in event_ids]
        return Operation(
            lambda: voiding.void(keys, author="ann", reason="by mistake", now=self.now),
            is_repeated=True,
        )

    def cancel(self, *, hour: int) -> Operation:
        """Cancel the oldest submission of that hour of the day."""

        def cancel() -> None:
            submission = Submission.objects.filter(window_start__hour=hour).order_by("pk").first()
            if submission is None:
                # Nobody cancels what the interruption has kept from being made.
                assert self.interruptions.struck
                return
            try:
                cancelling.cancel_submission(
                    submission, author="ann", reason="by mistake", now=self.now
                )
            except cancelling.CannotCancel:
                # Asked a second time, or of one that the interruption kept from Stripe.
                if not self.interruptions.struck:
                    raise

        return Operation(cancel, is_repeated=True)

    def backfill(self, *reports: Any) -> Operation:
        """Bring late usage in, after a look at what would become of it."""

        def bring() -> None:
            for dry_run in (True, False):
                backfilling.backfill(
                    source_id=self.source_id,
                    reports=reports,
                    author="ann",
                    reason="the exporter was down",
                    now=self.now,
                    dry_run=dry_run,
                )
            self.acknowledged |= {each.event_id for each in reports}

        return Operation(bring, is_repeated=True)

    def quarantine(self) -> Operation:
        return Operation(
            lambda: fence.close(reason="A disk was copied.", now=self.now), is_repeated=True
        )

    def lift(self, *, lost_since: datetime | None) -> Operation:
        return Operation(
            lambda: fence.lift(
                reason="It is the right one.", by="ann", lost_since=lost_since, now=self.now
            ),
            is_repeated=True,
        )

    def handle_again(self) -> Operation:
        def handle_again() -> None:
            event = WebhookEvent.objects.order_by("pk").last()
            if event is not None:
                inbox.handle_again(event, now=self.now)

        return Operation(handle_again, is_repeated=True)

    # --- the world --------------------------------------------------------------------------------

    def make_customer(self, external_id: str) -> Customer:
        made = stripe().v1.customers.create(
            {"name": external_id, "invoice_settings": {"default_payment_method": "pm_card_visa"}}
        )
        return Customer.objects.create(external_id=external_id, stripe_customer_id=made.id)

    def make_meter(self, slug: str) -> Meter:
        meter = make_meter(slug, PROPERTIES[slug], required=False)
        if slug == RUNNING:
            meter.aggregation = Aggregation.MAX
        made = stripe().v1.billing.meters.create(
            {
                "display_name": slug,
                "event_name": meter.event_name,
                "default_aggregation": {"formula": "last" if slug == RUNNING else "sum"},
            }
        )
        meter.stripe_meter_id = made.id
        meter.save()
        return meter

    # --- rest -------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Let the workers work, and callers ask, for five days or until nothing is left to do."""
        self.emulator.faults.clear()
        for hours in (0.05, 0.5, 1.5, 6, 16, 13, 24, 0.05, 2, 37, 3, 37):
            self.advance(hours=hours)
            for operation in (
                self.hooks(),
                self.handle(),
                *([self.check_meters()] if Meter.objects.exclude(blocked="").exists() else []),
                self.upkeep(),
                self.deliver(),
                self.unsettled(),
                self.close_reports(),
            ):
                self.perform(operation)
            if self.is_at_rest():
                return

    def is_at_rest(self) -> bool:
        return not (
            IngestBatch.objects.filter(run=None).exists()
            or SubmissionState.objects.filter(state__in=OPEN).exists()
            or WebhookEvent.objects.filter(state="pending").exists()
            or ErrorReport.objects.filter(closed_at=None).exists()
            or PeriodBoundary.objects.filter(recut_at=None).exists()
        )

    # --- the judge --------------------------------------------------------------------------------

    def taken(self) -> dict[Cell, Decimal]:
        """What Stripe took, by the emulator's log of what arrived."""
        return {
            (cell["customer"], cell["event_name"], cell["hour"]): Decimal(cell["sum"])
            for cell in self.emulator.truth.as_dict()["cells"]
        }

    def recorded(self, *, with_voids: bool) -> dict[Cell, Decimal]:
        """What is stored, by its events and in plain arithmetic, of customers at Stripe."""
        cells: defaultdict[Cell, Decimal] = defaultdict(Decimal)
        ids = dict(Customer.objects.values_list("external_id", "stripe_customer_id"))
        summed = _summed()
        events = UsageEvent.objects.values_list("subject", "occurred_at", "data", "voids")
        for subject, at, data, voids in events:
            if subject not in ids or (voids is not None and not with_voids):
                continue
            for slug, name in summed:
                value = Decimal(str(data.get(name, 0))) if name else Decimal(1)
                cells[ids[subject], f"mk_{slug}", _hour(at)] += -value if voids else value
        return dict(cells)

    def parked(self) -> dict[Cell, Decimal]:
        """What stands in a named state instead of at Stripe, each with its case."""
        cells: defaultdict[Cell, Decimal] = defaultdict(Decimal)
        ids = dict(Customer.objects.values_list("external_id", "stripe_customer_id"))
        told = set(Case.objects.filter(closed_at=None).values_list("kind", "reference"))
        kinds = {kind for kind, _ in told}
        for row in HeldUsage.objects.filter(released_at=None).select_related("meter"):
            if row.reason == "late":
                assert "late" in kinds
            else:
                assert ("held", row.reason) in told
            if row.meter.slug != RUNNING:
                cells[ids[row.subject], row.meter.event_name, _hour(row.window_start)] += (
                    row.quantity
                )
        for standing in SubmissionState.objects.filter(
            state__in=[State.REJECTED, State.EXPIRED]
        ).select_related("submission"):
            submission = standing.submission
            assert (standing.state, submission.identifier) in told
            cells[
                submission.stripe_customer_id, submission.event_name, _hour(submission.window_start)
            ] += submission.value
        return dict(cells)

    def check_nothing_overbilled(self) -> None:
        """I8: in no hour has Stripe more than was ever recorded, whatever was taken back since."""
        if len(self.emulator.arrivals) == self.judged_arrivals:
            return  # what is recorded without its voids only grows
        self.judged_arrivals = len(self.emulator.arrivals)
        recorded, taken = self.recorded(with_voids=False), self.taken()
        running = f"mk_{RUNNING}"
        for cell, total in taken.items():
            if cell[1] != running:
                assert total <= recorded.get(cell, 0), (cell, total, recorded)
        values = [value for _, value in self._running()]
        assert max(values, default=0) <= max(
            (
                event["data"].get(RUNNING, 0)
                for event in UsageEvent.objects.filter(voids=None).values("data")
            ),
            default=0,
        )

    def _running(self) -> list[tuple[int, Decimal]]:
        """What arrived for the running meter, as timestamps and values."""
        return [
            (event.timestamp or 0, Decimal(event.value or 0))
            for arrival in self.emulator.arrivals
            for event in arrival.events
            if event.verdict == "accepted" and event.event_name == f"mk_{RUNNING}"
        ]

    def judge(self) -> None:
        """Every unit is billed once or parked with a case, and the tables agree with each other."""
        stored = set(UsageEvent.objects.values_list("event_id", flat=True))
        assert self.acknowledged <= stored
        assert self.interruptions.objections == []
        assert dict(self.emulator.world.violations.counts) == {}
        assert [
            (row.submission.identifier, row.state, row.reason)
            for row in SubmissionState.objects.filter(state__in=OPEN).select_related("submission")
        ] == []
        recorded, parked = self.recorded(with_voids=True), self.parked()
        taken = {cell: total for cell, total in self.taken().items() if cell[1] != f"mk_{RUNNING}"}
        cells = recorded.keys() | parked.keys() | taken.keys()
        assert {cell: taken.get(cell, 0) + parked.get(cell, 0) for cell in cells} == {
            cell: recorded.get(cell, 0) for cell in cells
        }
        self._judge_running()
        assert queries.books().is_conserved
        assert [(found.invariant.id, found.sample) for found in invariants.violations()] == []
        assert not IngestBatch.objects.filter(run=None).exists()
        assert not WebhookEvent.objects.filter(state="pending").exists()
        assert not ErrorReport.objects.filter(closed_at=None).exists()

    def _judge_running(self) -> None:
        """In each period the last value Stripe took is the largest that was recorded in it."""
        arrived: defaultdict[str, list[tuple[int, Decimal]]] = defaultdict(list)
        for arrival in self.emulator.arrivals:
            for event in arrival.events:
                if event.verdict == "accepted" and event.event_name == f"mk_{RUNNING}":
                    arrived[event.customer or ""].append(
                        (event.timestamp or 0, Decimal(event.value or 0))
                    )
        voided = UsageEvent.objects.exclude(voids=None).values("voids")
        for customer in Customer.objects.all():
            largest: defaultdict[int, Decimal] = defaultdict(Decimal)
            ends = [
                int(at.timestamp())
                for at in customer.boundaries.order_by("at").values_list("at", flat=True)
            ]
            for event in UsageEvent.objects.filter(
                subject=customer.external_id, voids=None
            ).exclude(pk__in=voided):
                if RUNNING in event.data:
                    period = sum(end <= event.occurred_at.timestamp() for end in ends)
                    largest[period] = max(largest[period], Decimal(event.data[RUNNING]))
            last: dict[int, tuple[int, Decimal]] = {}
            for at, value in arrived[customer.stripe_customer_id or ""]:
                period = sum(end <= at for end in ends)
                if period not in last or at >= last[period][0]:
                    last[period] = (at, value)
            counted = {period: value for period, (_, value) in last.items() if value}
            assert counted == dict(largest), customer


class NotAnswered(Exception):
    """A caller got no answer that lets it forget what it reported."""


def _hour(at: datetime) -> int:
    return int(at.timestamp()) // 3_600 * 3_600


def _summed() -> list[tuple[str, str]]:
    slugs = Meter.objects.exclude(slug=RUNNING).values_list("slug", flat=True)
    return [(slug, PROPERTIES[slug]) for slug in slugs]


@contextmanager
def opened(*slugs: str) -> Iterator[Shop]:
    """A shop with these meters and one customer, at Stripe, before its first call."""
    random.seed(20)
    # The lambda looks the instant up anew each time: the story moves it.
    emulator = Emulator(now=lambda: shop.now.timestamp())  # noqa: PLW0108
    switchboard.connect(emulator)
    with override_settings(), interruptible(emulator) as interruptions:
        shop = Shop(emulator, interruptions)
        _, shop.key = authentication.issue("gateway", [Scope.INGEST])
        shop.source_id = Source.objects.get(name="gateway").pk
        for path, is_thin in HOOKS.items():
            secrets = (
                settings.STRIPE_THIN_WEBHOOK_SECRETS if is_thin else settings.STRIPE_WEBHOOK_SECRETS
            )
            emulator.forward(f"http://us.invalid{path}", secrets[0], thin=is_thin)
        for slug in slugs:
            shop.make_meter(slug)
        shop.make_customer("acme")
        emulator.pop_deliveries()
        yield shop
    switchboard.disconnect()


def used(event_id: str, at: datetime, subject: str = "acme", **data: int) -> Any:
    return report(event_id, at=at, subject=subject, **(data or {"input_tokens": 10}))
