"""Hurrying a worker along. Work is found by its rows, so a wake-up that is lost costs only time."""

from __future__ import annotations

from functools import partial

import structlog
from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

log = structlog.get_logger(__name__)


def after_commit(task: str, *, queue: str) -> None:
    """Ask for a run of `task` once the present transaction has committed.

    A broker that is down is logged and changes nothing: the next tick does the same work.
    """
    transaction.on_commit(partial(_send, task, queue), robust=True)


def _send(task: str, queue: str) -> None:
    try:
        current_app.send_task(task, queue=queue, expires=120, retry=False, ignore_result=True)
    except (OperationalError, OSError) as error:
        log.warning("usage.wakeup_lost", task=task, error=str(error))
