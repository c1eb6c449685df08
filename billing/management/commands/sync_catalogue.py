"""Bring meters, plans and prices to where the catalogue file wants them."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing.catalogue import file, sync
from billing.catalogue.changes import CatalogueRefused
from billing.catalogue.file import CatalogueInvalid
from billing.gateway.errors import GatewayError


class Command(BaseCommand):
    help = "Bring meters, plans and prices, here and at Stripe, to what the catalogue file says."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="print the plan, change nothing")
        parser.add_argument("--file", type=Path, default=settings.BILLING_CATALOGUE_FILE)

    def handle(self, **options: Any) -> None:
        try:
            planned = sync.planned(file.read(options["file"]))
            for note in planned.notes:
                self.stderr.write(f"note: {note}")
            if not planned:
                self.stdout.write("Nothing to do: everything is as the catalogue says.")
            elif options["dry_run"]:
                for line in planned.lines():
                    self.stdout.write(f"would {line}")
            else:
                sync.apply(planned, now=timezone.now(), tell=self.stdout.write)
        except (CatalogueInvalid, CatalogueRefused) as refusal:
            raise CommandError(str(refusal)) from refusal
        except GatewayError as error:
            raise CommandError(
                f"Stripe: {error.message} ({type(error).__name__}). Run the command again."
            ) from error
