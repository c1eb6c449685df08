"""Fetch from Stripe's list the events whose webhooks never came, now."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.module_loading import import_string

from billing.clock import database_clock
from billing.gateway.events import KEPT
from billing.webhooks import sweep


def instant(text: str) -> datetime:
    moment = parse_datetime(text)
    if moment is None or timezone.is_naive(moment):
        raise ArgumentTypeError("write an instant with its offset, such as 2027-01-31T00:00:00Z")
    return moment


class Command(BaseCommand):
    help = (
        "Put those of Stripe's events into the inbox whose webhooks never came. Goes on with a"
        " sweep that is under way; repeating it changes nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--since",
            type=instant,
            help="at least as far back as this instant; Stripe keeps thirty days. Otherwise as"
            f" every night: {settings.BILLING_WEBHOOK_SWEEP_DAYS} days, or to the last sweep",
        )
        parser.add_argument("--seconds", type=float, default=300)

    def handle(self, **options: Any) -> None:
        since = options["since"]
        if since is not None and since < database_clock() - KEPT:
            raise CommandError(f"Stripe keeps events for {KEPT.days} days only.")
        result = sweep.sweep(
            routes=import_string(settings.BILLING_WEBHOOK_ROUTES),
            since=since,
            clock=database_clock,
            seconds=options["seconds"],
        )
        self.stdout.write(
            f"Events: {result.listed:,} listed, {result.missing:,} had not arrived and wait in"
            " the inbox."
        )
        if result.error:
            raise CommandError(f"Stripe: {result.error} What is left is listed at the next run.")
        if not result.is_finished:
            raise CommandError("Not finished: run it again, or leave the rest to the schedule.")
