"""Hurrying a worker along. Work is found by its rows, so a wake-up that is lost costs only time."""

from __future__ import annotations

from functools import partial

import structlog
from celery import current_app
from django.db import transaction

log = structlog.get_logger(__name__)

EXPIRE_SECONDS = 120
"""The periodic jobs come at least as often, so an older wake-up would find nothing to do."""


def after_commit(task: str, *, expire_seconds: int = EXPIRE_SECONDS) -> None:
    """Ask for a run of `task` once the present transaction, if any, has committed.

    A broker that is down is logged and changes nothing: the next tick does the same work.
    """
    transaction.on_commit(partial(_send, task, expire_seconds), robust=True)


def _send(task: str, expire_seconds: int) -> None:
    try:
        current_app.send_task(task, expires=expire_seconds, retry=False, ignore_result=True)
    except Exception as error:  # noqa: BLE001 - whatever the broker's trouble is, the work is stored
        log.warning("billing.wakeup_lost", task=task, error=str(error))
