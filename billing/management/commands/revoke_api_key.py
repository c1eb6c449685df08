"""Revoke an API key."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import authentication


class Command(BaseCommand):
    help = "Revoke the API key with this prefix (mk_ and eight characters)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("prefix")

    def handle(self, **options: Any) -> None:
        if not authentication.revoke(options["prefix"], now=timezone.now()):
            raise CommandError(f"No key {options['prefix']} is in force.")
        self.stdout.write(
            f"Revoked {options['prefix']}. Running processes refuse it within"
            f" {settings.BILLING_REFERENCE_CACHE_SECONDS} s."
        )
