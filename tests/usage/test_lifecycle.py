"""The table of legal moves, and the database that refuses all others."""

from __future__ import annotations

from itertools import product

import pytest
from django.db import IntegrityError, connection, transaction

from tests.factories.usage import make_submission
from tests.usage.conftest import report
from usage import flush
from usage.lifecycle import MOVES, State, is_legal
from usage.models import Attempt, Submission, SubmissionState, UsageEvent


@pytest.mark.unit
def test_every_state_has_its_moves():
    assert set(MOVES) == set(State)


@pytest.mark.unit
def test_every_state_is_reached_from_ready():
    reached = {State.READY}
    while more := {after for before in reached for after in MOVES[before]} - reached:
        reached |= more

    assert reached == set(State)


@pytest.fixture
def submission(store, acme, now) -> Submission:
    store(report(at=now))
    flush.flush_batches(now=now)
    return Submission.objects.first()


@pytest.mark.integration
def test_the_database_allows_exactly_the_legal_moves(submission):
    allowed = set()
    for before, after in product(State, State):
        try:
            with transaction.atomic():
                # Put into place past the guard, as only this test's owner of the table may.
                with connection.cursor() as cursor:
                    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
                    cursor.execute("ALTER TABLE usage_submissionstate DISABLE TRIGGER USER")
                    cursor.execute("UPDATE usage_submissionstate SET state = %s", [before])
                    cursor.execute("ALTER TABLE usage_submissionstate ENABLE TRIGGER USER")
                SubmissionState.objects.filter(pk=submission.pk).update(state=after)
                allowed.add((before, after))
        except IntegrityError:
            pass

    assert allowed == {(a, b) for a, b in product(State, State) if is_legal(a, b)}


@pytest.mark.integration
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage_submission SET value = value + 1",
        "DELETE FROM usage_submission",
        "UPDATE usage_usageevent SET subject = 'mallory'",
        "DELETE FROM usage_usageevent",
        "DELETE FROM usage_submissionstate",
        "UPDATE usage_ingestbatch SET run_id = NULL",
        "UPDATE usage_ingestbatch SET event_count = 0",
        "DELETE FROM usage_ingestbatch",
    ],
)
def test_facts_cannot_be_changed_in_the_database(submission, statement):
    before = list(UsageEvent.objects.values()), list(Submission.objects.values())

    with (
        pytest.raises(IntegrityError),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)

    assert (list(UsageEvent.objects.values()), list(Submission.objects.values())) == before


@pytest.mark.integration
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage_attempt SET outcome = 'not_accepted'",
        "UPDATE usage_attempt SET outcome = NULL",
        "DELETE FROM usage_attempt",
    ],
)
def test_how_an_attempt_ended_is_learned_once(acme, meters, now, statement):
    """F47: a late worker cannot overwrite what is known."""
    make_submission(customer=acme, meter=meters.input, at=now, state=State.ACCEPTED)

    with (
        pytest.raises(IntegrityError),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)

    assert Attempt.objects.get().outcome == "accepted"


@pytest.mark.integration
def test_an_attempt_has_its_number_to_itself(acme, meters, now):
    """An outcome names its attempt, so there must be but one of that name."""
    sent = make_submission(customer=acme, meter=meters.input, at=now, state=State.SENDING)

    with pytest.raises(IntegrityError, match="usage_attempt_once"), transaction.atomic():
        Attempt.objects.create(submission=sent, number=1, wire="v1", started_at=now)


@pytest.mark.integration
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage_attempt SET number = 2",
        "UPDATE usage_attempt SET started_at = now()",
    ],
)
def test_an_attempt_under_way_is_not_renamed(acme, meters, now, statement):
    """The doubt it may become is counted from its beginning."""
    make_submission(customer=acme, meter=meters.input, at=now, state=State.SENDING)

    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
