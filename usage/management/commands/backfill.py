"""`manage.py backfill`: bring late usage in from a file, after a dry run."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError

from billing.authentication import OUR_SOURCES
from billing.models import Source
from usage import backfilling
from usage.backfilling import Part, Report
from usage.clock import database_clock
from usage.cloud_events import read_event
from usage.reports import Refusal

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


class Command(BaseCommand):
    help = (
        "Store late events from a file of CloudEvents: a JSON array, or one event a line. Each is"
        " judged as by POST /api/v1/events; the valid ones are stored, all in one transaction, and"
        " a repetition adds nothing. --dry-run stores nothing and tells what would become of them."
        " Exits with 1 when any event is refused."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="the events")
        parser.add_argument("--source", required=True, help="name of the producer of the events")
        parser.add_argument("--reason", required=True, help="why; kept for ever")
        parser.add_argument("--by", required=True, help="who brings them in; kept for ever")
        parser.add_argument("--dry-run", action="store_true", help="store nothing")

    def handle(self, **options: Any) -> None:
        source = Source.objects.filter(name=options["source"]).first()
        if source is None or source.name.startswith(OUR_SOURCES):
            raise CommandError(
                f"There is no source {options['source']!r} for events. Give its name to --source."
            )
        try:
            report = backfilling.backfill(
                source_id=source.pk,
                reports=[read_event(text) for text in _events(options["file"])],
                author=options["by"],
                reason=options["reason"],
                now=database_clock(),
                dry_run=options["dry_run"],
            )
        except (backfilling.Unexplained, backfilling.TooMany) as refusal:
            raise CommandError(str(refusal)) from None
        self.stdout.write("\n".join(_told(report)))
        if report.refused_count or report.conflict_count:
            raise SystemExit(1)


def _events(file: Path) -> list[bytes]:
    """Return the text of each event of a file, in order."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error}") from None
    if content.lstrip()[:1] != b"[":
        return [line for line in content.splitlines() if line.strip()]
    try:
        return [bytes(event) for event in _ARRAY.decode(content)]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} is no JSON array: {error}") from None


def _told(report: Report) -> Iterator[str]:
    yield report.sentence
    for part in report.parts:
        yield _line(part)
    for index, outcome in enumerate(report.outcomes):
        if isinstance(outcome, Refusal):
            yield f"event {index}: {outcome.field or 'it'} {outcome.reason}"


def _line(part: Part) -> str:
    units = "" if part.units is None else f"{part.units:+,f} in "
    invoice = part.billed_on.invoice or "no invoice yet"
    if part.billed_on.invoice:
        invoice += f" ({part.billed_on.status})"
    start, end = (
        "…" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
        for at in (part.period.start, part.period.end)
    )
    return (
        f"{part.subject} · {part.meter.slug} · {start} to {end} UTC · {units}"
        f"{part.event_count:,} event{'s' * (part.event_count != 1)} · {invoice} ·"
        f" {part.fate.sentence}"
    )
