"""Wake-ups for reconciliation: a run's progress is its row, so one more or one less is harmless."""

from __future__ import annotations

from dataclasses import asdict

import structlog
from celery import shared_task

from billing import wakeups
from reconciliation import runs
from usage.clock import database_clock

log = structlog.get_logger(__name__)

PASS_SECONDS = 40
"""How long one wake-up takes new pairs, so that no task holds a worker for a whole night."""
SOFT_LIMIT_SECONDS = 240
"""The pass and its last pair, whose pages may each take a whole call's deadline."""
HARD_LIMIT_SECONDS = 270
"""Below the broker's visibility timeout, so that a slow pass is not started twice."""
EXPIRE_SECONDS = 3_600


@shared_task(
    name="reconciliation.reconcile_recent",
    ignore_result=True,
    soft_time_limit=SOFT_LIMIT_SECONDS,
    time_limit=HARD_LIMIT_SECONDS,
)
def reconcile_recent() -> None:
    """Go on with tonight's run, or open it; ask for another wake-up while pairs are left."""
    result = runs.reconcile_recent(now=database_clock(), seconds=PASS_SECONDS)
    log.info("reconciliation.pass_finished", **asdict(result))
    if result.may_go_on:
        wakeups.after_commit("reconciliation.reconcile_recent", expire_seconds=EXPIRE_SECONDS)


@shared_task(
    name="reconciliation.reconcile_doubtful",
    ignore_result=True,
    soft_time_limit=SOFT_LIMIT_SECONDS,
    time_limit=HARD_LIMIT_SECONDS,
)
def reconcile_doubtful() -> None:
    """Go on with this hour's run over what is in doubt; wake up again while any is left."""
    result = runs.reconcile_doubtful(now=database_clock(), seconds=PASS_SECONDS)
    log.info("reconciliation.doubtful_pass_finished", **asdict(result))
    if result.may_go_on:
        wakeups.after_commit("reconciliation.reconcile_doubtful", expire_seconds=EXPIRE_SECONDS)
