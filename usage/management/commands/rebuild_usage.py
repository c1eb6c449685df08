"""`manage.py rebuild_usage`: write the read model of usage anew from the events."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand

from usage import quarters


class Command(BaseCommand):
    help = (
        "Write what usage questions are answered from anew, from the flushed events: all of it, or"
        " some UTC hours. Hour by hour beside everything else; a repetition changes nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        for name, which in (("--since", "included"), ("--until", "not included")):
            parser.add_argument(
                name, type=_hour, metavar="ISO", help=f"a full UTC hour with its offset, {which}"
            )

    def handle(self, **options: Any) -> None:
        done = quarters.rebuild(since=options["since"], until=options["until"])
        self.stdout.write(f"{done.hour_count:,} hours rebuilt, {done.row_count:,} rows")


def _hour(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    if instant.tzinfo is None:
        raise ArgumentTypeError("must have an offset, such as 2026-01-31T12:00Z")
    at = instant.astimezone(UTC)
    if (at.minute, at.second, at.microsecond) != (0, 0, 0):
        raise ArgumentTypeError("must be a full UTC hour")
    return at
