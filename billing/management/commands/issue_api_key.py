"""Issue an API key; the key itself is all that goes to stdout."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from billing import authentication
from billing.enums import Scope


def scopes(text: str) -> list[Scope]:
    try:
        return [Scope(word.strip()) for word in text.split(",")]
    except ValueError as error:
        raise ArgumentTypeError(f"{error}; scopes are {', '.join(Scope)}") from error


def instant(text: str) -> datetime:
    moment = parse_datetime(text)
    if moment is None or timezone.is_naive(moment):
        raise ArgumentTypeError("write an instant with its offset, such as 2027-01-31T00:00:00Z")
    return moment


def names(text: str) -> frozenset[str]:
    found = frozenset(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise ArgumentTypeError("name at least one customer")
    return found


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError("write a whole number above 0")
    return int(text)


class Command(BaseCommand):
    help = "Issue an API key for a source of events. The key is printed once and stored nowhere."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--source", required=True, help="name of the producer of events")
        parser.add_argument(
            "--scopes", required=True, type=scopes, help=f"comma-separated: {', '.join(Scope)}"
        )
        parser.add_argument("--expires-at", type=instant, help="when it stops working")
        parser.add_argument(
            "--customers", type=names, help="comma-separated external ids: for no others"
        )
        parser.add_argument(
            "--events-per-minute", type=positive, help="how many events it may report in a minute"
        )
        parser.add_argument(
            "--units-per-minute", type=positive, help="what all their values may come to"
        )

    def handle(self, **options: Any) -> None:
        try:
            key, plain = authentication.issue(
                options["source"],
                options["scopes"],
                options["expires_at"],
                authentication.Limits(
                    customers=options["customers"],
                    events_per_minute=options["events_per_minute"],
                    units_per_minute=options["units_per_minute"],
                ),
            )
        except authentication.SourceReserved as refusal:
            raise CommandError(str(refusal)) from None
        self.stdout.write(plain)
        self.stderr.write(
            f"Issued {key.prefix} for source {key.source}. It is shown this once: store it now."
        )
