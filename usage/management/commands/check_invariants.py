"""Asks the tables whether all that must hold of them does."""

from typing import Any

from django.core.management.base import BaseCommand

from usage.invariants import INVARIANTS, SAMPLE, violations


class Command(BaseCommand):
    help = (
        "Check what must hold of the usage tables at any moment, also while usage flows, and name"
        " the rows that violate it. Exits with 1 when there are any."
    )

    def handle(self, *_: Any, **__: Any) -> None:
        found = violations()
        for violation in found:
            invariant = violation.invariant
            self.stdout.write(f"{invariant.id}: {invariant.statement}  {violation.count:,} do not:")
            for row in violation.sample:
                self.stdout.write(f"    {row}")
            if violation.count > SAMPLE:
                self.stdout.write(f"    and {violation.count - SAMPLE:,} more")
        if found:
            raise SystemExit(1)
        self.stdout.write(f"All {len(INVARIANTS)} invariants hold.")
