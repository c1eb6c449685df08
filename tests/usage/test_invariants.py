"""Each invariant holds of an honest history, and finds the row that was tampered with."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection

from billing.models import Case
from reconciliation import runs
from tests.usage.conftest import report
from usage import flush, holding, tasks
from usage.invariants import violations
from usage.invariants.submissions import SUBMISSION_INVARIANTS
from usage.lifecycle import State
from usage.models import SubmissionState

pytestmark = pytest.mark.integration


@pytest.fixture
def history(world, store):
    """Events flushed, held, delivered after a doubt, settled, and replaced in part."""
    for event_id, fault, tokens in (("p", "answer_lost", 7), ("q", "drop_before", 5)):
        store(report(event_id, at=world.now, input_tokens=tokens), at=world.now)
        flush.flush_batches(now=world.now)
        world.emulator.faults.switch_on(fault, path="/v1/billing/meter_events", count=1)
        world.deliver()
    world.deliver(hours=23)
    world.advance(hours=36)
    runs.reconcile_doubtful(now=world.now)
    world.emulator.faults.switch_on("answer_lost", path="/v1/billing/meter_events", count=1)
    store(
        report("a", at=world.now, input_tokens=10, cached_tokens=3),
        report("b", at=world.now),
        at=world.now,
    )
    store(report("c", at=world.now, subject="nobody"), at=world.now)
    flush.flush_batches(now=world.now)
    holding.release(now=world.now)
    world.deliver()
    world.deliver(seconds=5)
    later = world.now + timedelta(hours=1)
    runs.reconcile(since=world.now - timedelta(days=4), until=later, now=later)
    store(report("d", at=world.now, input_tokens=1), at=world.now)
    flush.flush_batches(now=world.now)
    world.claim()
    store(report("e", at=world.now, input_tokens=1), at=world.now)
    return world


def test_an_honest_history_violates_nothing(history):
    states = set(SubmissionState.objects.values_list("state", flat=True))
    assert states == {State.SETTLED, State.SUPERSEDED, State.SENDING, State.READY}
    assert history.counted() == 7 + 5 + 10 + 10

    assert violations() == ()


TAMPERING = {
    "I1": "UPDATE usage_ingestbatch SET event_count = event_count + 1 WHERE run_id IS NULL",
    "I1a": "UPDATE usage_usageevent SET batch_id = 999999 WHERE event_id = 'e'",
    "I1b": "UPDATE usage_flushrun SET event_count = event_count + 1 WHERE id ="
    " (SELECT min(id) FROM usage_flushrun)",
    "I2": "UPDATE usage_usageevent SET data = '{\"input_tokens\": 11}' WHERE event_id = 'b'",
    "I3": "DELETE FROM usage_submissionstate WHERE state = 'ready'",
    "I3a": "UPDATE usage_submissionstate SET state = 'superseded' WHERE state = 'ready'",
    "I4": "UPDATE usage_replacement SET credit = credit + 1",
    "I4a": "UPDATE usage_submissionstate SET replaced_by_id = NULL WHERE state = 'superseded'",
    "I5": "UPDATE usage_submission SET payload = replace(payload, 'cus_', 'cus-') WHERE id ="
    " (SELECT min(id) FROM usage_submission)",
    "I6": "DELETE FROM usage_attempt WHERE outcome = 'duplicate'",
    "I7": "UPDATE usage_attempt SET started_at = started_at + interval '24 hours' WHERE number = 2",
    "I8": "UPDATE usage_submission SET value = value + 1 WHERE id ="
    " (SELECT max(id) FROM usage_submission)",
    "I9": "UPDATE usage_observation SET observed = observed + 1",
    "I10": "UPDATE usage_submissionstate SET next_action_at = NULL WHERE state = 'ready'",
    "I13": "UPDATE usage_submission SET timestamp = window_start - interval '1 second' WHERE id ="
    " (SELECT min(id) FROM usage_submission)",
    "I14": "UPDATE usage_attempt SET started_at = started_at + interval '36 days'"
    " WHERE outcome = 'accepted'",
    "I15": "UPDATE usage_submission SET live_mode = true",
    "I16": "UPDATE billing_customer SET stripe_customer_id = 'cus_moved' WHERE external_id = 'acme';"
    " INSERT INTO billing_customer (external_id, email, name, created_at, former_stripe_ids,"
    " stripe_customer_id)"
    " SELECT 'heir', '', '', now(), '{}', min(stripe_customer_id) FROM usage_submission",
    "I21": "UPDATE usage_usageevent SET voids = (SELECT min(id) FROM usage_usageevent)"
    " WHERE event_id = 'e'",
    "I22": "UPDATE usage_fence SET quarantined_at = recorded_at - interval '1 hour'",
    "I17": "UPDATE usage_observation SET observed_at = observed_at - interval '2 hours'",
}


@pytest.mark.parametrize(
    "invariant", [found.id for found in SUBMISSION_INVARIANTS if found.id != "I12"]
)
def test_tampering_past_the_guards_is_found(history, invariant):
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        # Triggers are what keeps this from happening; whoever owns the tables can take them off.
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(TAMPERING[invariant])
        assert cursor.rowcount
        cursor.execute("SET LOCAL session_replication_role = origin")

    found = {violation.invariant.id: violation for violation in violations()}

    assert invariant in found
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("check_invariants", stdout=out)
    assert found[invariant].sample[0] in out.getvalue()


def test_a_doubled_event_id_is_found(history):
    """I12: only without its unique index can it happen at all."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE usage_usageevent DROP CONSTRAINT usage_event_once")
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("UPDATE usage_usageevent SET event_id = 'a' WHERE event_id = 'b'")

    assert "I12" in {violation.invariant.id for violation in violations()}


def test_a_violation_is_a_case_until_it_is_mended(history):
    def add_to_the_first_run(events: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE usage_flushrun SET event_count = event_count + %s WHERE id ="
                " (SELECT min(id) FROM usage_flushrun)",
                [events],
            )

    add_to_the_first_run(1)
    for _ in range(2):
        tasks.check_invariants()
    case = Case.objects.get(kind="invariant")
    assert (case.reference, case.closed_at) == ("I1b", None)
    assert case.reason.startswith("A run accounts for exactly the batches it claimed. 1 do not")

    add_to_the_first_run(-1)
    tasks.check_invariants()
    case.refresh_from_db()
    assert case.closed_at is not None
