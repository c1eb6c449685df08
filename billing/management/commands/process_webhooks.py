"""Handle stored webhooks without Celery."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.utils.module_loading import import_string

from billing.webhooks import inbox


class Command(BaseCommand):
    help = "Handle the stored webhooks that are due."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--limit", type=int, default=10_000)
        parser.add_argument("--seconds", type=float, default=300)

    def handle(self, **options: Any) -> None:
        result = inbox.process_due(
            routes=import_string(settings.BILLING_WEBHOOK_ROUTES),
            limit=options["limit"],
            seconds=options["seconds"],
        )
        self.stdout.write(
            f"Webhooks: {result.processed} handled, {result.ignored} not ours, "
            f"{result.failed} to be tried again."
        )
