"""Draining a backlog: delivery workers, the emulator over HTTP with its log on disk, the database.

The backlog is what an outage leaves: submissions of many pairs, all due. The workers run the
product's own passes, in processes of their own that are connected before the clock starts. Events
are submissions here. The emulator enforces Stripe's live rates and one call at a time for each
pair, and its log judges: what was counted is what was frozen, to the unit in every cell, over the
wire meant; no violation, no 429, and never more than the limit in force.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from django.db import connection

from stripe_emulator.core.arrivals import Arrival
from tests.bench import backlog, cpu, emulator, pace, stack, workers
from tests.bench.variants import Variant

WORKERS = 2
METERS = 10
TOO_MANY = 429
V1 = "/v1/billing/meter_events"
STREAM = "/v2/billing/meter_event_stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How much is sent, over which wire, to how many pairs, under which limit."""

    name: str
    path: str
    submissions: int
    limit: int
    """Events a second, as configured and as judged."""
    customers: int = 200
    meters: int = METERS


def variants(
    backlogs: Sequence[Backlog], *, scale: float, backends: stack.Backends
) -> list[Variant]:
    """Return one for each backlog; `scale` shortens or lengthens it."""
    return [_Drain(each, scale=scale, backends=backends).variant() for each in backlogs]


@dataclass(slots=True)
class _Drain:
    """One backlog, made anew before each run with an emulator and workers of its own."""

    backlog: Backlog
    scale: float
    backends: stack.Backends
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _emulator: emulator.Emulator | None = None
    _workers: workers.Workers | None = None
    _arrived: int = 0
    _arrivals: list[Arrival] = field(default_factory=list)

    @property
    def submissions(self) -> int:
        return max(100, round(self.backlog.submissions * self.scale))

    def variant(self) -> Variant:
        return Variant(
            name=self.backlog.name,
            events=self.submissions,
            prepare=self.prepare,
            run=self.run,
            check=self.check,
            clean=self.clean,
            figures=self.figures,
            meters={
                "app": lambda: self._workers and self._workers.reading(),
                "db": self.backends.reading,
                "emulator": self._emulator_reading,
            },
        )

    def prepare(self) -> None:
        connection.close()
        self.backends.end()
        self._emulator = self._running.enter_context(emulator.running())
        names = [f"bench_{number}" for number in range(self.backlog.meters)]
        backlog.write_parties(
            # No more pairs than submissions.
            customers=self._emulator.create_customers(
                min(self.backlog.customers, self.submissions // self.backlog.meters)
            ),
            meters=list(zip(names, self._emulator.create_meters(names), strict=True)),
        )
        backlog.clear()
        self._emulator.set(rate_limits="live", one_call_per_pair=True)
        self._workers = self._running.enter_context(
            workers.started(WORKERS, environment=self._environment())
        )
        # Only now: getting ready, the workers have made a pass and found nothing.
        backlog.write(self.submissions)
        self._arrived = self._emulator.now_arrived()

    def run(self) -> None:
        assert self._workers is not None
        self._workers.deliver()

    def check(self) -> None:
        """Judge the run by the emulator's log.

        Raises:
            BenchFailed: it did not deliver everything once, or broke a rule on the way.
        """
        assert self._emulator is not None
        left = backlog.unaccepted()
        if left:
            raise stack.BenchFailed(f"Not all was accepted: {left}")
        violations = self._emulator.violations()
        if violations:
            raise stack.BenchFailed(f"The emulator saw violations: {violations}")
        self._arrivals = list(self._emulator.arrivals(after=self._arrived))
        refused = [arrival for arrival in self._arrivals if arrival.status != 200]
        if refused:
            limited = sum(arrival.status == TOO_MANY for arrival in refused)
            raise stack.BenchFailed(
                f"{len(refused):,} calls were refused, {limited:,} of them for their rate, such as"
                f" {refused[0].path}: {refused[0].error}"
            )
        arrived = sum(count for _, count in self._moments())
        if arrived != self.submissions:
            raise stack.BenchFailed(
                f"{arrived:,} of {self.submissions:,} came by {self.backlog.path}."
            )
        if self._emulator.truth() != backlog.expected():
            raise stack.BenchFailed("What the emulator counted is not what was frozen.")
        over = pace.overdrawn(self._moments(), rate=self.backlog.limit, burst=self.backlog.limit)
        if over > 0:
            raise stack.BenchFailed(
                f"The limit of {self.backlog.limit:,}/s was exceeded by {over:,.1f} events."
            )

    def figures(self) -> Mapping[str, float]:
        """Return the most within any one second, and the pace from first arrival to last."""
        moments = self._moments()
        average = pace.average(moments)
        return {
            "peak/s": pace.busiest(moments),
            "average/s": average,
            "of limit": average / self.backlog.limit,
            "calls": len(moments),
        }

    def clean(self) -> None:
        self._workers = self._emulator = None
        self._running.close()

    def _environment(self) -> dict[str, str]:
        assert self._emulator is not None
        return {
            "DJANGO_SETTINGS_MODULE": "tests.bench.live_settings",
            "STRIPE_EMULATOR_URL": self._emulator.url,
            "USAGE_STREAM": str(int(self.backlog.path == STREAM)),
            # The settings take both as of test mode where they are not told.
            "STRIPE_METER_EVENTS_PER_SECOND": str(self.backlog.limit),
            "STRIPE_STREAM_PER_SECOND": str(self.backlog.limit),
        }

    def _moments(self) -> list[pace.Moment]:
        return [
            (arrival.at, len(arrival.events))
            for arrival in self._arrivals
            if arrival.path == self.backlog.path
        ]

    def _emulator_reading(self) -> cpu.Reading | None:
        return cpu.process_tree(self._emulator.process_id) if self._emulator else None
