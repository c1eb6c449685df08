"""Wake-ups: each finds its work in the database, so running one twice, late or never is safe."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict

import structlog
from celery import shared_task
from django.conf import settings
from django.utils import timezone

from billing import periods, wakeups
from usage import (
    alarms,
    delivery,
    flush,
    holding,
    invariants,
    lateness,
    leak_cases,
    recutting,
    rejections,
    running_upkeep,
)
from usage.clock import database_clock

log = structlog.get_logger(__name__)

INVARIANTS_SOFT_SECONDS = 240
INVARIANTS_HARD_SECONDS = 270
"""Tables are read whole; still below the broker's visibility timeout."""
FLUSH_PASS_SECONDS = 25
"""With one more run of at most 15 s it stays below the task's soft limit."""
ASKING_SECONDS = 10
"""Stripe is asked only so far into a pass: a call may take 25 s, and the soft limit is at 45."""


@shared_task(name="usage.flush_due")
def flush_due() -> None:
    """Flush until nothing waits, see to what is held or is too late, and wake the delivery."""
    began = time.monotonic()
    ends = began + FLUSH_PASS_SECONDS
    for result in flush.flush_waiting(clock=timezone.now, seconds=FLUSH_PASS_SECONDS):
        log.info(
            "usage.flush.run_finished",
            batches=result.batch_count,
            events=result.event_count,
            submissions=result.submission_count,
            held=result.held_count,
        )
    recut = recutting.recut(clock=timezone.now, seconds=ends - time.monotonic())
    if recut != recutting.Recut():
        log.info("usage.flush.cut_again", **asdict(recut))
    late = lateness.hold_late_waiting(clock=timezone.now, seconds=ends - time.monotonic())
    if late != lateness.Late():
        log.info("usage.flush.late", **asdict(late))
    released = holding.release_waiting(clock=timezone.now, seconds=ends - time.monotonic())
    running_upkeep.tend(clock=timezone.now, seconds=ends - time.monotonic())
    holding.report()
    lateness.report()
    if released:
        log.info("usage.flush.held_released", rows=released)
    asked = lateness.ask(now=timezone.now(), seconds=began + ASKING_SECONDS - time.monotonic())
    if asked != periods.Refreshed():
        log.info("usage.flush.period_ends_asked", **asdict(asked))
    if asked.closed_count:
        lateness.hold_late(now=timezone.now())
        lateness.report()
    wakeups.after_commit("usage.deliver_due")


@shared_task(name="usage.deliver_due")
def deliver_due() -> None:
    """Sweep and send what is due; ask for another pass when time ran out before the work."""
    result = delivery.deliver_due(
        clock=database_clock, seconds=settings.USAGE_DELIVERY_PASS_SECONDS
    )
    if result.counts:
        log.info("usage.delivery.pass_finished", **result.counts)
    if result.ran_out_of_time:
        wakeups.after_commit("usage.deliver_due")


@shared_task(
    name="usage.check_invariants",
    soft_time_limit=INVARIANTS_SOFT_SECONDS,
    time_limit=INVARIANTS_HARD_SECONDS,
)
def check_invariants() -> None:
    """Ask the tables whether all that must hold of them does; a violation is a case."""
    found = invariants.report(now=timezone.now())
    log.info("usage.invariants.checked", violated=[violation.invariant.id for violation in found])


@shared_task(
    name="usage.check_leaks",
    soft_time_limit=INVARIANTS_SOFT_SECONDS,
    time_limit=INVARIANTS_HARD_SECONDS,
)
def check_leaks() -> None:
    """Tell people of usage that will reach no invoice, or reach it wrongly."""
    found = leak_cases.report(now=database_clock())
    log.info("usage.leaks.checked", kinds=dict(Counter(leak.kind.value for leak in found.leaks)))


@shared_task(name="usage.report_ages")
def report_ages() -> None:
    """Tell people of usage that grows old before Stripe has counted it."""
    alarms.report(now=database_clock())


@shared_task(name="usage.close_error_reports")
def close_error_reports() -> None:
    """Close Stripe's error reports that are cleared up, and tell of those that are not."""
    closed = rejections.close_resolved(now=database_clock())
    if closed:
        log.info("usage.rejections.reports_closed", reports=closed)
