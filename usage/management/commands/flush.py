"""Flush without Celery."""

from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from usage import flush, holding, lateness, recutting, running_upkeep

FOREVER = float("inf")


class Command(BaseCommand):
    help = "Fold all unflushed usage events into submissions, as the worker does every minute."

    def handle(self, *_: Any, **__: Any) -> None:
        for result in flush.flush_waiting(clock=timezone.now, seconds=FOREVER):
            self.stdout.write(
                f"flushed {result.event_count:,} events of {result.batch_count:,} batches into"
                f" {result.submission_count:,} submissions, {result.held_count:,} held"
            )
        recut = recutting.recut(clock=timezone.now, seconds=FOREVER)
        lateness.ask(now=timezone.now(), seconds=FOREVER)
        late = lateness.hold_late_waiting(clock=timezone.now, seconds=FOREVER)
        released = holding.release_waiting(clock=timezone.now, seconds=FOREVER)
        running_upkeep.tend(clock=timezone.now, seconds=FOREVER)
        holding.report()
        lateness.report()
        if recut != recutting.Recut():
            self.stdout.write(
                f"cut {recut.recut_count:,} cells at a boundary learned late,"
                f" {recut.case_count:,} cases for what was sent, {recut.failed_count:,} failures"
            )
        if late != lateness.Late():
            self.stdout.write(
                f"held {late.held_count:,} submissions as late, and left {late.unproven_count:,}"
                " in doubt to Stripe's summary"
            )
        self.stdout.write(f"nothing left to flush; {released:,} held rows released")
