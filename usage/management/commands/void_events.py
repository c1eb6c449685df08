"""`manage.py void_events`: take stored events back, with an author and a reason."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.models import Source
from usage import cancelling, voiding
from usage.clock import database_clock
from usage.models import Submission


class Command(BaseCommand):
    help = (
        "Take events back: each gets a linked event that counts with sign -1. All of them or, with"
        " an error, none; a repetition adds nothing. With --submission all events of one that"
        " Stripe has, which is then cancelled there; that works for a day."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--ids", help="the callers' ids, separated by commas")
        which.add_argument("--ids-file", type=Path, help="a file with one id a line")
        which.add_argument("--submission", help="the identifier of a submission")
        parser.add_argument("--source", help="name of the producer of the events; for ids")
        parser.add_argument("--reason", required=True, help="why; kept for ever")
        parser.add_argument("--by", required=True, help="who takes them back; kept for ever")

    def handle(self, **options: Any) -> None:
        try:
            told = _cancel(options) if options["submission"] else _void(options)
        except (voiding.VoidRefused, cancelling.CannotCancel) as refusal:
            raise CommandError(str(refusal)) from None
        self.stdout.write(told)


def _void(options: dict[str, Any]) -> str:
    source = Source.objects.filter(name=options["source"]).first()
    if source is None:
        raise CommandError(f"There is no source {options['source']!r}. Give its name to --source.")
    answer = voiding.void(
        [voiding.EventKey(source.pk, event_id) for event_id in _ids(options)],
        author=options["by"],
        reason=options["reason"],
        now=database_clock(),
    )
    told = f"voided {len(answer.voided):,} event{'s' * (len(answer.voided) != 1)}"
    return told + (f"; {len(answer.already):,} had been voided before" if answer.already else "")


def _ids(options: dict[str, Any]) -> list[str]:
    file: Path | None = options["ids_file"]
    if file is None:
        return [event_id for text in options["ids"].split(",") if (event_id := text.strip())]
    try:
        return [event_id for line in file.read_text().splitlines() if (event_id := line.strip())]
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} cannot be read: {error}") from None


def _cancel(options: dict[str, Any]) -> str:
    submission = Submission.objects.filter(identifier=options["submission"]).first()
    if submission is None:
        raise CommandError(f"There is no submission {options['submission']!r}.")
    answer = cancelling.cancel_submission(
        submission, author=options["by"], reason=options["reason"], now=database_clock()
    )
    return (
        f"voided {answer.event_count:,} event{'s' * (answer.event_count != 1)}; Stripe is asked to"
        f" cancel {len(answer.cancelled):,} submission{'s' * (len(answer.cancelled) != 1)},"
        f" {answer.negative_count:,} taken back by a negative meter event"
    )
