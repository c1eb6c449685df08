"""`manage.py replay`: send a recorded or generated hour of LLM calls through the HTTP API."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import ArgumentParser
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from usage import traffic
from usage.replaying import sending, shifts
from usage.replaying.connection import ReplayFailed
from usage.replaying.progress import Progress

GENERATED_EVENTS = 2_000
INTERRUPTED = 130
"""The exit code shells know for Ctrl-C."""


class Command(BaseCommand):
    help = (
        "Send a trace (TIMESTAMP, ContextTokens, GeneratedTokens) through the HTTP API as LLM calls"
        " that end now. The same trace again gives duplicates, which add nothing. Without a file,"
        " traffic of the same kind is generated."
    )
    requires_system_checks = []
    """It talks to the API over HTTP, so it runs where there is no database."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", nargs="?", type=Path, help="the trace; else it is generated")
        parser.add_argument("--customers", type=int, default=25, help="how many share the calls")
        parser.add_argument("--events", type=int, help="how many calls to generate (2,000)")
        parser.add_argument("--seed", type=int, default=1, help="of the customers and the calls")
        parser.add_argument("--batch", type=int, default=100, help="calls per request")
        parser.add_argument(
            "--plan", default="tokens-payg", help="what each customer subscribes to"
        )
        parser.add_argument(
            "--api-url", default=f"http://127.0.0.1:{os.environ.get('PORT') or 8000}"
        )
        parser.add_argument("--api-key", help="or METERKEEPER_API_KEY in the environment")
        parser.add_argument(
            "--shift-again", action="store_true", help="send the trace anew, as new usage"
        )
        parser.add_argument("--dry-run", action="store_true", help="print the sums, send nothing")

    def handle(self, *_: Any, **options: Any) -> None:
        _require_sensible(options)
        trace = _trace(options)
        sums = traffic.sums(trace=trace)
        self._tell_sums(options, sums)
        sent, seconds = sending.Sent(accepted=0, duplicates=0, requests=0), 0.0
        if not options["dry_run"]:
            try:
                sent, seconds = self._send(trace, options)
            except (ReplayFailed, shifts.ShiftUnreadable) as error:
                raise CommandError(str(error)) from None
            except KeyboardInterrupt:
                raise CommandError(
                    "Interrupted; the same command again sends the rest.", returncode=INTERRUPTED
                ) from None
            self.stdout.write(
                f"{sent.accepted:,} accepted, {sent.duplicates:,} duplicates,"
                f" {sent.requests:,} requests in {seconds:.1f} s"
            )
        # Programs read the last line.
        self.stdout.write(json.dumps(asdict(sums) | asdict(sent) | {"seconds": round(seconds, 3)}))

    def _send(self, trace: traffic.Trace, options: dict[str, Any]) -> tuple[sending.Sent, float]:
        api_key = options["api_key"] or os.environ.get("METERKEEPER_API_KEY")
        if not api_key:
            raise CommandError(
                "Give --api-key; `manage.py issue_api_key --source replay --scopes ingest,manage`"
                " prints a new one."
            )
        target = sending.Target(api_url=options["api_url"], api_key=api_key)
        sending.provide_customers(
            target=target, customers=options["customers"], plan=options["plan"]
        )
        # Only now, when the key is known to work: "now" is remembered for all repetitions.
        events = _events(trace, options)
        progress = Progress(label="Replaying", total=len(events), stream=sys.stderr)
        started_at = time.monotonic()
        try:
            sent = sending.send_events(
                target=target, events=events, batch=options["batch"], on_sent=progress.advance
            )
        finally:
            progress.close()
        return sent, time.monotonic() - started_at

    def _tell_sums(self, options: dict[str, Any], sums: traffic.Sums) -> None:
        source = options["file"].name if options["file"] else f"generated, seed {options['seed']}"
        self.stdout.write(
            f"{sums.events:,} LLM calls ({source}) of {options['customers']:,} customers:"
            f" {sums.context_tokens:,} context, {sums.cached_tokens:,} cached context and"
            f" {sums.generated_tokens:,} generated tokens"
        )


def _require_sensible(options: dict[str, Any]) -> None:
    if options["file"] and options["events"] is not None:
        raise CommandError("--events is for generated traffic; a file is sent whole.")
    most = settings.USAGE_EVENTS_PER_REQUEST
    if not 1 <= options["batch"] <= most:
        raise CommandError(f"--batch is {options['batch']}; the API takes 1 to {most} at once.")
    for name in ("customers", "events"):
        if options[name] is not None and options[name] < 1:
            raise CommandError(f"--{name} is {options[name]}; it must be at least 1.")


def _trace(options: dict[str, Any]) -> traffic.Trace:
    path: Path | None = options["file"]
    if path is None:
        return traffic.generate_trace(
            events=options["events"] or GENERATED_EVENTS, seed=options["seed"]
        )
    try:
        return traffic.read_trace(content=path.read_bytes())
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
    except traffic.TraceError as error:
        raise CommandError(f"{path}: {error}") from None


def _events(trace: traffic.Trace, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Make the events at their remembered times, while the API still takes those."""
    now = datetime.now(UTC)
    taken = timedelta(days=settings.USAGE_LATE_DAYS)
    if trace.last_at - trace.first_at > taken:
        raise CommandError(
            f"The trace spans {(trace.last_at - trace.first_at).days} days; the API takes usage of"
            f" the last {taken.days}."
        )
    spread = traffic.Spread(customers=options["customers"], seed=options["seed"])
    shift = shifts.settle_shift(
        folder=settings.STATE_DIR / "replay",
        trace=trace,
        spread=spread,
        now=now,
        again=options["shift_again"],
    )
    if trace.first_at + shift.by < now - taken:
        raise CommandError(
            f"Its first call would be of {trace.first_at + shift.by:%Y-%m-%d}, older than the"
            f" {taken.days} days the API takes: --shift-again sends the trace as new"
            " usage that ends now."
        )
    spread = traffic.Spread(customers=options["customers"], seed=options["seed"], salt=shift.salt)
    return list(traffic.cloud_events(trace=trace, spread=spread, shift=shift.by))
