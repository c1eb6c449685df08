"""Runs: comparing pair after pair, settling what is equal and recording what is not.

What is read is `sources`', the judgement `comparison`'s. A run's row is its progress.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import DatabaseError
from django.db.models import F, QuerySet

from billing import steps
from billing.gateway.errors import GatewayError, Misconfigured
from billing.queries import LATEST_USAGE
from reconciliation import discrepancies, sources
from reconciliation.comparison import (
    UnusableSummaries,
    Verdict,
    compare,
    hour_after,
    hour_of,
)
from reconciliation.models import ReconciliationRun
from usage import fence
from usage.settlement import settle

log = structlog.get_logger(__name__)

RECENT_DAYS = 1
"""How far back the nightly run compares hours that are settled already: yesterday's, whole."""
RESUMED_WITHIN = timedelta(hours=12)
"""An interrupted nightly run younger than this is gone on with; after that a new one is due."""
PAIRS_PER_READ = 500
EVERY_PAIR_FOR = timedelta(days=7)
"""How many nights a comparison of every pair is tried anew for the sake of pairs that failed."""
FAILURES_IN_A_ROW = 5
"""After so many, Stripe is taken to be down, and asking for the other pairs would not help."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run has come to so far. Not finished: its time was up, or Stripe could not be read."""

    run_id: int
    is_finished: bool
    may_go_on: bool
    """Whether another wake-up should go on at once: only the time was up."""
    pair_count: int
    cell_count: int
    equal_count: int
    waiting_count: int
    discrepancy_count: int
    settled_count: int
    call_count: int
    error_count: int
    error: str


def reconcile(
    *,
    since: datetime,
    until: datetime,
    now: datetime,
    with_unsettled: bool = False,
    every_pair: bool = False,
) -> RunResult:
    """Compare every cell with usage in the UTC hours of [`since`, `until`), and act on it.

    Both ends are widened to whole hours. `with_unsettled` adds cells of any age that are not
    settled yet or have an open discrepancy; `every_pair` compares the range for all customers and
    meters, also where we know of no usage. `now` is an instant before anything is read, by the
    database's clock: what was sent later waits for the next run. An interruption leaves an
    unfinished row; a repetition, or another run at the same time, ends in the same state.

    Raises:
        Misconfigured: Stripe refuses our key; the run stays unfinished.
    """
    run = _opened(
        since=since, until=until, now=now, with_unsettled=with_unsettled, every_pair=every_pair
    )
    return advance(run_id=run.pk, now=now)


def reconcile_recent(*, now: datetime, seconds: float) -> RunResult:
    """Go on with tonight's run, or open it, for about `seconds`.

    It covers yesterday and today, and everything of any age that is not settled. Once after a
    restore, when all that was forgotten must show at Stripe, it covers every pair and all hours
    that may have been sent meanwhile: what is at Stripe can be in an hour we know nothing of.

    Raises:
        Misconfigured: Stripe refuses our key; the run stays unfinished.
    """
    run = _interrupted(now).filter(with_unsettled=True).first()
    if run is None:
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        recent = today - timedelta(days=RECENT_DAYS)
        forgotten = _forgotten_since(now)
        run = _opened(
            since=min(recent, forgotten or recent),
            until=until_default(now),
            now=now,
            with_unsettled=True,
            every_pair=forgotten is not None,
        )
    return advance(run_id=run.pk, now=now, seconds=seconds)


def _forgotten_since(now: datetime) -> datetime | None:
    """Return the oldest usage a restore may have forgotten sending, while that is to be read."""
    loss = fence.loss()
    if loss is None or not loss.countable_from <= now < loss.countable_from + EVERY_PAIR_FOR:
        return None
    is_read = ReconciliationRun.objects.filter(
        every_pair=True,
        window_start__lte=loss.since - LATEST_USAGE,
        started_at__gte=loss.countable_from,
        finished_at__isnull=False,
        error_count=0,
    ).exists()
    return None if is_read else loss.since - LATEST_USAGE


def reconcile_doubtful(*, now: datetime, seconds: float | None = None) -> RunResult:
    """Go on with this hour's run over what is in doubt, or open it, for about `seconds`.

    It covers the hours, of any age, of which Stripe may have something that we do not know it has:
    calls whose end is unknown, and what the stream took. Few as a rule; what their totals prove is
    acted on within an hour instead of a night.

    Raises:
        Misconfigured: Stripe refuses our key; the run stays unfinished.
    """
    run = _interrupted(now).filter(only_doubtful=True).first()
    if run is None:
        run = _opened(since=now, until=now, now=now, only_doubtful=True)
    return advance(run_id=run.pk, now=now, seconds=seconds)


def _interrupted(now: datetime) -> QuerySet[ReconciliationRun]:
    return ReconciliationRun.objects.filter(
        finished_at__isnull=True, started_at__gt=now - RESUMED_WITHIN
    ).order_by("-pk")


def until_default(now: datetime) -> datetime:
    """Return the end of a range without one: past the last hour in which usage may have occurred.

    A caller's clock may run ahead by USAGE_AHEAD_SECONDS, and so may what it reported.
    """
    return hour_after(now + timedelta(seconds=settings.USAGE_AHEAD_SECONDS))


def advance(*, run_id: int, now: datetime, seconds: float | None = None) -> RunResult:
    """Compare the run's next pairs, until none is left or `seconds` are over.

    A pair that fails is counted and the next one taken. Two workers on one run harm nothing: the
    one that finds the row moved on by the other leaves it to it.

    Raises:
        Misconfigured: Stripe refuses our key; the run stays unfinished.
    """
    began = time.monotonic()
    run = ReconciliationRun.objects.get(pk=run_id)
    failures_in_a_row = 0
    for pair in _pairs(run):
        if seconds is not None and time.monotonic() - began >= seconds:
            return _result(run.pk, may_go_on=True)
        counts, error = _attempt(run, pair, now=now)
        if not _moved_on(run, pair, counts, error):
            log.info("reconciliation.run_left_to_another_worker", run=run.pk)
            return _result(run.pk)
        failures_in_a_row = failures_in_a_row + 1 if error else 0
        if failures_in_a_row == FAILURES_IN_A_ROW:
            log.warning("reconciliation.run_stopped", run=run.pk, error=error)
            return _result(run.pk)
    with steps.commit("reconciliation.run.finish"):
        ReconciliationRun.objects.filter(pk=run.pk, finished_at__isnull=True).update(
            finished_at=now + timedelta(seconds=time.monotonic() - began)
        )
    return _result(run.pk)


def _opened(*, since: datetime, until: datetime, now: datetime, **scope: bool) -> ReconciliationRun:
    """Open a run. `scope` are the run's columns that say what it compares beside the hours."""
    # Without hours of its own, a run over what is in doubt compares nothing else.
    end = hour_of(since) if scope.get("only_doubtful") else hour_after(until)
    with steps.commit("reconciliation.run.open"):
        return ReconciliationRun.objects.create(
            window_start=hour_of(since), window_end=end, started_at=now, **scope
        )


def _pairs(run: ReconciliationRun) -> Iterator[sources.Pair]:
    """Yield the pairs behind the last one done, each once, read a few hundred at a time."""
    after = run.last_customer_id, run.last_meter_id
    while True:
        found = sources.pairs(
            since=run.window_start,
            until=run.window_end,
            with_unsettled=run.with_unsettled,
            with_doubtful=run.only_doubtful,
            every_pair=run.every_pair,
            now=run.started_at,
            after=after,
            limit=PAIRS_PER_READ,
        )
        yield from found
        if len(found) < PAIRS_PER_READ:
            return
        after = found[-1].customer_id, found[-1].meter_id


def _attempt(
    run: ReconciliationRun, pair: sources.Pair, *, now: datetime
) -> tuple[Counter[str], str]:
    """Compare one pair; return what to add to the run's counts, and the error if it failed.

    Only failures that concern the one pair or pass by themselves are taken for such.
    """
    try:
        return _compare_pair(run, pair, now=now), ""
    except Misconfigured as error:
        with steps.commit("reconciliation.run.stop"):
            ReconciliationRun.objects.filter(pk=run.pk).update(error=str(error))
        raise
    except (GatewayError, UnusableSummaries, DatabaseError) as error:
        log.warning(
            "reconciliation.pair_failed",
            run=run.pk,
            customer=pair.customer,
            meter=pair.meter,
            error=repr(error),
        )
        message = f"{pair.customer} / {pair.meter}: {error}"
        return Counter(error_count=1), message


def _compare_pair(run: ReconciliationRun, pair: sources.Pair, *, now: datetime) -> Counter[str]:
    """Read Stripe, then ourselves, and act on what the two say of each hour."""
    stripe = sources.read_stripe(pair)
    compared = compare(
        ours=sources.read_ours(pair),
        stripe=stripe.totals,
        read_at=now,
        settle_seconds=settings.RECONCILIATION_SETTLE_SECONDS,
    )
    settlement = settle(
        customer_id=pair.customer_id,
        meter_id=pair.meter_id,
        # An hour settled before and equal still is seen again every night; that is no news.
        observed={
            cell.window_start: cell.stripe
            for cell in compared
            if cell.verdict != Verdict.EQUAL or not cell.is_closed
        },
        observed_at=now,
    )
    discrepancies.record(run_id=run.pk, pair=pair, compared=compared, now=now)
    verdicts = Counter(cell.verdict for cell in compared)
    return Counter(
        cell_count=len(compared),
        equal_count=verdicts[Verdict.EQUAL],
        waiting_count=verdicts[Verdict.WAITING],
        discrepancy_count=verdicts[Verdict.DISCREPANCY],
        settled_count=settlement.settled_count,
        call_count=stripe.call_count,
    )


def _moved_on(run: ReconciliationRun, pair: sources.Pair, counts: Counter[str], error: str) -> bool:
    """Write the pair as done, if the row still stands where this worker believed it to stand."""
    changes = {name: F(name) + number for name, number in counts.items()}
    with steps.commit("reconciliation.run.move_on"):
        moved = ReconciliationRun.objects.filter(
            pk=run.pk,
            finished_at__isnull=True,
            last_customer_id=run.last_customer_id,
            last_meter_id=run.last_meter_id,
        ).update(
            last_customer_id=pair.customer_id,
            last_meter_id=pair.meter_id,
            pair_count=F("pair_count") + 1,
            **changes,
            **({"error": error} if error else {}),
        )
    run.last_customer_id, run.last_meter_id = pair.customer_id, pair.meter_id
    return bool(moved)


def _result(run_id: int, *, may_go_on: bool = False) -> RunResult:
    run = ReconciliationRun.objects.get(pk=run_id)
    return RunResult(
        run_id=run.pk,
        is_finished=run.finished_at is not None,
        may_go_on=may_go_on,
        pair_count=run.pair_count,
        cell_count=run.cell_count,
        equal_count=run.equal_count,
        waiting_count=run.waiting_count,
        discrepancy_count=run.discrepancy_count,
        settled_count=run.settled_count,
        call_count=run.call_count,
        error_count=run.error_count,
        error=run.error,
    )
