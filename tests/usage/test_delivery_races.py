"""Many workers at once: each submission counted once, each pair one call at a time."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connections, transaction
from django.utils import timezone

from billing.gateway.client import connection as stripe
from billing.models import Customer, Meter
from stripe_emulator import Emulator
from tests.factories.usage import make_submission
from tests.support.stripe import switchboard
from tests.usage.conftest import report
from usage import claiming, delivery, fence, flush
from usage.clock import database_clock
from usage.enums import Wire
from usage.lifecycle import State
from usage.models import Attempt, Submission, SubmissionState

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]

WORKERS = 6


def test_a_row_another_worker_is_at_is_skipped_and_not_waited_for(acme, meters):
    now = timezone.now()
    taken, free = (
        make_submission(customer=acme, meter=meter, at=now - timedelta(minutes=age))
        for meter, age in ((meters.input, 9), (meters.calls, 8))
    )
    fence.inspect(now)
    Meter.objects.update(checked_at=now)
    holds, done = threading.Event(), threading.Event()

    def slow_worker() -> None:
        with transaction.atomic():
            SubmissionState.objects.select_for_update().get(pk=taken.pk)
            holds.set()
            assert done.wait(timeout=10)
        connections.close_all()

    thread = threading.Thread(target=slow_worker)
    thread.start()
    assert holds.wait(timeout=10)
    try:
        claims = claiming.claim(clock=database_clock, stored_wire="", wire=Wire.V1, limit=9)
    finally:
        done.set()
        thread.join()

    assert [claim.submission_id for claim in claims] == [free.pk]


def test_workers_share_a_backlog_under_faults_and_bill_each_unit_once(meters, store):
    emulator = Emulator()
    switchboard.connect(emulator, sleep=time.sleep)
    for meter in Meter.objects.all():
        made = stripe().v1.billing.meters.create(
            {
                "display_name": meter.slug,
                "event_name": meter.event_name,
                "default_aggregation": {"formula": "sum"},
            }
        )
        Meter.objects.filter(pk=meter.pk).update(stripe_meter_id=made.id)
    for number in range(4):
        customer = stripe().v1.customers.create({"name": str(number)})
        Customer.objects.create(external_id=str(number), stripe_customer_id=customer.id)
    for flushed in range(8):
        store(
            *(
                report(f"{flushed}-{n}", at=None, subject=str(n % 4), input_tokens=7)
                for n in range(12)
            ),
            at=timezone.now(),
        )
        flush.flush_batches(now=timezone.now())
    for kind in ("answer_lost", "429", "500_after", "drop_before"):
        emulator.faults.switch_on(kind, path="/v1/billing/meter_events", probability=0.08, seed=7)
    # Slow enough that calls would overlap if they could.
    emulator.faults.switch_on("slow", path="/v1/billing/meter_events", delay_seconds=0.02)
    start = threading.Barrier(WORKERS)
    deadline = time.monotonic() + 40

    def worker() -> None:
        start.wait()
        open_states = [state for state in State if state not in {State.ACCEPTED, State.SETTLED}]
        while (
            SubmissionState.objects.filter(state__in=open_states).exists()
            and time.monotonic() < deadline
        ):
            delivery.deliver_due(clock=database_clock, seconds=5)
            time.sleep(0.05)
        connections.close_all()

    threads = [threading.Thread(target=worker) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    switchboard.disconnect()

    states = set(SubmissionState.objects.values_list("state", flat=True))
    assert states == {State.ACCEPTED}
    assert Submission.objects.count() == 8 * 4 * 2
    totals = emulator.truth.as_dict()["event_names"]
    assert Decimal(totals["mk_input_tokens"]["sum"]) == 8 * 12 * 7
    assert Decimal(totals["mk_llm_calls"]["sum"]) == 8 * 12
    assert Attempt.objects.filter(outcome=None).count() == 0
    assert Attempt.objects.filter(outcome="unknown").exists()
    # Its own judgement of our calls: none of an identifier with two payloads, none of two calls in
    # flight for one customer and meter.
    assert not emulator.world.violations.counts
