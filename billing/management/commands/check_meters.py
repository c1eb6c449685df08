"""Compare Stripe's meters with ours now."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import meter_checks
from billing.models import Meter


class Command(BaseCommand):
    help = (
        "Check that Stripe's meters can take what we would send, and unblock those that were"
        " mended. Exits with 1 when one is blocked."
    )

    def handle(self, *_: Any, **__: Any) -> None:
        result = meter_checks.check_all(timezone.now())
        if not result.answered:
            raise CommandError("Stripe did not list its meters; nothing has changed.")
        for meter in Meter.objects.all():
            word = "not at Stripe yet" if meter.stripe_meter_id is None else meter.blocked or "good"
            self.stdout.write(f"{meter.slug}: {word}")
        if result.blocked:
            raise SystemExit(1)
