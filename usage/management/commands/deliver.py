"""Deliver without Celery."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from usage import cancelling, delivery
from usage.clock import database_clock


class Command(BaseCommand):
    help = "Send due submissions to Stripe and sweep what waited too long, as the worker does."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--seconds", type=float, default=600, help="stop after so long")

    def handle(self, *_: Any, **options: Any) -> None:
        cancelled = cancelling.cancel_due(clock=database_clock, seconds=options["seconds"])
        for word, count in sorted(cancelled.items()):
            self.stdout.write(f"{count:>9,} cancellations: {word.replace('_', ' ')}")
        result = delivery.deliver_due(clock=database_clock, seconds=options["seconds"])
        for word, count in sorted(result.counts.items()):
            self.stdout.write(f"{count:>9,} {word.replace('_', ' ')}")
        self.stdout.write("time is up" if result.ran_out_of_time else "the pass is over")
