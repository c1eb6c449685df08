"""Flush without Celery."""

from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from usage import flush, holding, running_upkeep


class Command(BaseCommand):
    help = "Fold all unflushed usage events into submissions, as the worker does every minute."

    def handle(self, *_: Any, **__: Any) -> None:
        for result in flush.flush_waiting(clock=timezone.now, seconds=float("inf")):
            self.stdout.write(
                f"flushed {result.event_count:,} events of {result.batch_count:,} batches into"
                f" {result.submission_count:,} submissions, {result.held_count:,} held"
            )
        released = holding.release_waiting(clock=timezone.now, seconds=float("inf"))
        running_upkeep.tend(clock=timezone.now, seconds=float("inf"))
        holding.report()
        self.stdout.write(f"nothing left to flush; {released:,} held rows released")
