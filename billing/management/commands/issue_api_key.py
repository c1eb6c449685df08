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


class Command(BaseCommand):
    help = "Issue an API key for a source of events. The key is printed once and stored nowhere."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--source", required=True, help="name of the producer of events")
        parser.add_argument(
            "--scopes", required=True, type=scopes, help=f"comma-separated: {', '.join(Scope)}"
        )
        parser.add_argument("--expires-at", type=instant, help="when it stops working")

    def handle(self, **options: Any) -> None:
        try:
            key, plain = authentication.issue(
                options["source"], options["scopes"], options["expires_at"]
            )
        except authentication.SourceReserved as refusal:
            raise CommandError(str(refusal)) from None
        self.stdout.write(plain)
        self.stderr.write(
            f"Issued {key.prefix} for source {key.source}. It is shown this once: store it now."
        )
