"""A wake-up hurries a worker along, and nothing depends on it."""

from __future__ import annotations

import pytest
from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

from billing import wakeups

pytestmark = pytest.mark.integration


def test_a_wakeup_waits_for_the_commit(db, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=False) as callbacks, transaction.atomic():
        wakeups.after_commit("usage.flush_due")

    assert len(callbacks) == 1


def test_a_wakeup_is_dropped_with_its_transaction(db, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=False) as callbacks, transaction.atomic():
        wakeups.after_commit("usage.flush_due")
        transaction.set_rollback(True)

    assert callbacks == []


def test_a_broker_that_is_away_is_logged_and_changes_nothing(
    db, caplog, monkeypatch, django_capture_on_commit_callbacks
):
    def unreachable(*_, **__):
        raise OperationalError("no broker")

    monkeypatch.setattr(current_app, "send_task", unreachable)

    with django_capture_on_commit_callbacks(execute=True):
        wakeups.after_commit("usage.flush_due")

    assert "wakeup_lost" in caplog.text
