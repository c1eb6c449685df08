"""Prints usage that will reach no invoice, or reach it wrongly."""

from typing import Any

from django.core.management.base import BaseCommand

from billing.clock import database_clock
from usage.leak_cases import told
from usage.leaks import leaks


class Command(BaseCommand):
    help = (
        "List usage that will reach no invoice, or reach it wrongly, and what else is worth knowing"
        " of prices. Opens no case. Exits with 1 when there is a leak or a meter is blocked."
    )

    def handle(self, *_: Any, **__: Any) -> None:
        found = leaks(now=database_clock())
        for leak in found.leaks:
            self.stdout.write(f"{leak.kind.value} {leak.reference}: {told(leak)}")
        for blocked in found.blocked:
            self.stdout.write(f"meter {blocked}")
        for notice in found.notices:
            self.stdout.write(f"notice: {notice}")
        if found.leaks or found.blocked:
            raise SystemExit(1)
        self.stdout.write("All usage is on its way to an invoice.")
