"""Stop sending by hand, such as before a copy of the disk is put back."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from usage import fence
from usage.clock import database_clock


class Command(BaseCommand):
    help = "Stop sending, with a case, until lift_quarantine. Taking usage in goes on."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reason", required=True)

    def handle(self, *_: Any, **options: Any) -> None:
        fence.close(reason=options["reason"], now=database_clock())
        self.stdout.write("nothing is sent until `manage.py lift_quarantine`")
