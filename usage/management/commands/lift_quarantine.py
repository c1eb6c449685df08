"""Let sending go on after a restore, a failover or a move."""

from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from usage import fence
from usage.clock import database_clock


class Command(BaseCommand):
    help = (
        "Allow this deployment to send from this database again. Read the runbook's section on"
        " restoring first: what producers replay must be here before."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reason", required=True, help="what happened; kept with the fence")
        parser.add_argument("--by", required=True, metavar="NAME", help="who decides")
        parser.add_argument(
            "--lost-since",
            type=_instant,
            metavar="INSTANT",
            help="the instant the database was brought back to, as 2026-11-20T12:00:00Z; left out"
            " only when nothing it ever committed is missing",
        )

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            lifted = fence.lift(
                reason=options["reason"],
                by=options["by"],
                lost_since=options["lost_since"],
                now=database_clock(),
            )
        except fence.NotLifted as refusal:
            raise CommandError(str(refusal)) from refusal
        if options["lost_since"] is not None:
            self.stdout.write(
                f"flushed {lifted.flushed_runs:,} runs, released {lifted.released_rows:,} held"
                f" rows; {lifted.unproven_count:,} submissions wait for Stripe's total"
            )
        self.stdout.write("sending is allowed")


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
