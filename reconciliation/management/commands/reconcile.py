"""Compares a range with Stripe now, and says what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.gateway.errors import GatewayError
from reconciliation import runs
from reconciliation.comparison import Reason
from reconciliation.discrepancies import number
from reconciliation.models import Discrepancy, ReconciliationRun
from usage.clock import database_clock

OPTIONS = ("day", "since", "until", "doubtful", "every_pair")


class Command(BaseCommand):
    help = (
        "Compare every cell with usage in a range with Stripe's hourly summaries. Exits with 1"
        " when a discrepancy is open there, or a pair could not be compared."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        span = parser.add_mutually_exclusive_group(required=True)
        span.add_argument("--day", metavar="YYYY-MM-DD", help="one UTC day")
        span.add_argument(
            "--doubtful", action="store_true", help="only the hours with something in doubt"
        )
        span.add_argument("--since", metavar="ISO", help="from this instant, included")
        parser.add_argument(
            "--until", metavar="ISO", help="with --since: to this one, not included"
        )
        parser.add_argument(
            "--every-pair",
            action="store_true",
            help="also customers and meters without usage there: what somebody else sent, or what"
            " a restore forgot",
        )

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            result = _reconciled(**{name: options[name] for name in OPTIONS})
        except GatewayError as error:
            raise CommandError(f"Stripe could not be read: {error}") from error
        run = ReconciliationRun.objects.get(pk=result.run_id)
        still_open = Discrepancy.objects.filter(resolved_at__isnull=True)
        found = list(
            (
                still_open.filter(run=run)
                if run.only_doubtful
                else still_open.filter(
                    window_start__gte=run.window_start, window_start__lt=run.window_end
                )
            )
            .select_related("customer", "meter")
            .order_by("customer__external_id", "meter__slug", "window_start")
        )
        self.stdout.write("\n".join(_as_text(run, found)))
        if found or result.error_count or not result.is_finished:
            raise SystemExit(1)


def _reconciled(
    *, day: str | None, since: str | None, until: str | None, doubtful: bool, every_pair: bool
) -> runs.RunResult:
    now = database_clock()
    if doubtful:
        if until is not None:
            raise CommandError("--until goes with --since.")
        if every_pair:
            raise CommandError("--every-pair goes with --day or --since.")
        return runs.reconcile_doubtful(now=now)
    start, end = _range(day=day, since=since, until=until, now=now)
    if start > now:
        raise CommandError(f"The range begins in the future: {start:%Y-%m-%d %H:%M} UTC.")
    return runs.reconcile(since=start, until=end, now=now, every_pair=every_pair)


def _range(
    *, day: str | None, since: str | None, until: str | None, now: datetime
) -> tuple[datetime, datetime]:
    if day is not None:
        if until is not None:
            raise CommandError("--until goes with --since; --day is a whole day.")
        try:
            start = datetime.combine(date.fromisoformat(day), datetime.min.time(), tzinfo=UTC)
        except ValueError as error:
            raise CommandError(f"--day is {day!r}; write YYYY-MM-DD.") from error
        return start, start + timedelta(days=1)
    start = _instant("--since", since or "")
    end = runs.until_default(now) if until is None else _instant("--until", until)
    if start >= end:
        raise CommandError(f"The range is empty: {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}.")
    return start, end


def _instant(option: str, text: str) -> datetime:
    """Read an ISO instant; without an offset it is UTC."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(
            f"{option} is {text!r}; write an ISO instant, such as 2026-01-31T12:00."
        ) from error
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _as_text(run: ReconciliationRun, found: list[Discrepancy]) -> Iterator[str]:
    hours = (
        "what is in doubt"
        if run.only_doubtful
        else f"{run.window_start:%Y-%m-%d %H:%M} to {run.window_end:%Y-%m-%d %H:%M} UTC"
    )
    yield (
        f"Reconciliation {run.pk}: {hours}, {run.pair_count:,} customer and meter pairs,"
        f" {run.call_count:,} reads at Stripe"
    )
    yield ""
    for word, count in (
        ("cells", run.cell_count),
        ("equal", run.equal_count),
        ("waiting", run.waiting_count),
        ("discrepancies", run.discrepancy_count),
        ("submissions settled", run.settled_count),
        ("pairs not compared", run.error_count),
    ):
        yield f"{count:>12,}  {word}"
    yield ""
    if run.error:
        yield f"Not compared: {run.error}"
    if found:
        yield from _table(found)
        yield ""
    yield _verdict(run, len(found))


def _table(found: list[Discrepancy]) -> Iterator[str]:
    rows = [("customer", "meter", "hour (UTC)", "ours", "Stripe's", "difference", "why")]
    rows += [
        (
            discrepancy.customer.external_id,
            discrepancy.meter.slug,
            f"{discrepancy.window_start:%Y-%m-%d %H:%M}",
            number(discrepancy.ours),
            number(discrepancy.stripe),
            number(discrepancy.difference, signed=True),
            Reason(discrepancy.reason).label,
        )
        for discrepancy in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "   ".join(
            cell.rjust(width) if column in {3, 4, 5} else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()


def _verdict(run: ReconciliationRun, open_count: int) -> str:
    if run.finished_at is None:
        return "Not finished: Stripe could not be read. A repetition is safe."
    if open_count:
        plural = "y is" if open_count == 1 else "ies are"
        return f"{open_count:,} discrepanc{plural} open; each has a case."
    if run.error_count:
        return "No discrepancy, but not everything could be compared."
    if run.waiting_count:
        return "No discrepancy. What waits is compared again by the nightly run."
    return "Both books are equal."
