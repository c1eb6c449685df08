"""Two flushers, a killed one, and writers in between: each event in exactly one run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from billing.models import Customer
from tests.usage.conftest import report
from usage import flush
from usage.models import FlushRun, IngestBatch, Submission, SubmissionState, UsageEvent

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def customer(transactional_db) -> Customer:
    return Customer.objects.create(external_id="acme", stripe_customer_id="cus_acme")


def test_concurrent_flushers_share_a_backlog_without_overlap(customer, store):
    for batch in range(60):
        store(*(report(f"{batch}-{i}", at=None, input_tokens=1) for i in range(3)))
    start = threading.Barrier(4)

    def flusher() -> None:
        start.wait()
        while flush.flush_batches(now=timezone.now(), event_limit=9).batch_count:
            pass
        connections.close_all()

    threads = [threading.Thread(target=flusher) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A flusher that found every batch locked has gone home; what is left is left in plain sight.
    while flush.flush_batches(now=timezone.now()).batch_count:
        pass

    assert not IngestBatch.objects.filter(run=None).exists()
    assert sum(FlushRun.objects.values_list("event_count", flat=True)) == 180
    made = Counter()
    for slug, value in Submission.objects.values_list("meter__slug", "value"):
        made[slug] += value
    assert made == {"input_tokens": 180, "llm_calls": 180}


def test_a_batch_another_run_holds_is_skipped_and_not_waited_for(customer, store):
    """F21: a slow run keeps its own batches, not everybody's."""
    store(report("held", at=None, input_tokens=1))
    holds, done = threading.Event(), threading.Event()

    def slow_flusher() -> None:
        with transaction.atomic():
            list(IngestBatch.objects.select_for_update())
            holds.set()
            assert done.wait(timeout=10)
        connections.close_all()

    thread = threading.Thread(target=slow_flusher)
    thread.start()
    assert holds.wait(timeout=10)
    store(report("free", at=None, input_tokens=2))
    try:
        result = flush.flush_batches(now=timezone.now())
    finally:
        done.set()
        thread.join()

    assert result.event_count == 1
    assert Submission.objects.get(meter__slug="input_tokens").value == 2


def test_a_batch_committed_late_is_not_passed_over(customer, store):
    """Ids are given out before the commit, so a later id can be flushed first."""
    holds, done = threading.Event(), threading.Event()

    def slow_writer() -> None:
        with transaction.atomic():
            store(report("slow", at=None, input_tokens=1))
            holds.set()
            assert done.wait(timeout=10)
        connections.close_all()

    thread = threading.Thread(target=slow_writer)
    thread.start()
    assert holds.wait(timeout=10)
    store(report("fast", at=None, input_tokens=2))
    flush.flush_batches(now=timezone.now())
    done.set()
    thread.join()

    flush.flush_batches(now=timezone.now())

    values = Submission.objects.filter(meter__slug="input_tokens").order_by("pk")
    assert [s.value for s in values] == [2, 1]


FLUSH = """
import django
django.setup()
from django.core.management import call_command
from usage.management.commands.flush import Command
call_command(Command())
"""


def test_a_flusher_killed_in_the_middle_leaves_all_its_work_to_the_next(customer, store):
    store(*(report(str(i), at=None, input_tokens=1) for i in range(50)))
    with transaction.atomic(), connection.cursor() as cursor:
        # The flusher claims its batches and then waits here, in mid-transaction.
        cursor.execute("LOCK TABLE usage_submissionstate IN ACCESS EXCLUSIVE MODE")
        killed = subprocess.Popen(
            [sys.executable, "-c", FLUSH],
            env=os.environ | {"DATABASE_URL": _this_database()},
        )
        _wait_until_blocked()
        killed.send_signal(signal.SIGKILL)
        assert killed.wait(timeout=10) == -signal.SIGKILL
    _wait_until_alone()
    assert IngestBatch.objects.filter(run=None).count() == 1
    assert not Submission.objects.exists()

    result = flush.flush_batches(now=timezone.now())

    assert result.event_count == 50 == UsageEvent.objects.count()
    assert SubmissionState.objects.count() == 2
    assert Submission.objects.get(meter__slug="input_tokens").value == 50


def _this_database() -> str:
    parameters = connection.get_connection_params()
    place = f"host={parameters.get('host', '')}&port={parameters.get('port') or 5432}"
    return (
        f"postgres://{parameters.get('user', '')}:{parameters.get('password', '')}"
        f"@/{parameters['dbname']}?{place}"
    )


WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND {}
"""


def _count(condition: str) -> int:
    with connection.cursor() as cursor:
        # Inside a transaction PostgreSQL shows the activity as it was at the first look.
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(WAITING.format(condition))
        return cursor.fetchone()[0]


def _wait_until_blocked() -> None:
    deadline = time.monotonic() + 20
    while not _count("wait_event_type = 'Lock' AND query LIKE '%usage_submissionstate%'"):
        assert time.monotonic() < deadline, "the flusher never came to the lock"
        time.sleep(0.02)


def _wait_until_alone() -> None:
    deadline = time.monotonic() + 20
    while _count("backend_type = 'client backend'"):
        assert time.monotonic() < deadline, "the killed flusher's session never ended"
        time.sleep(0.02)
