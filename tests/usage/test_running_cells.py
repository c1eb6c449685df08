"""What an hour of running values may show at Stripe, and what its last value proves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from usage.cells import Cell, Part, Proof
from usage.lifecycle import State
from usage.running_cells import RunningCell

pytestmark = pytest.mark.unit

HOUR = datetime(2026, 11, 20, 12, tzinfo=UTC)
READ = HOUR + timedelta(hours=2)


def part(second: int, value: int, state: State, *, doubt: bool = False) -> Part:
    attempted = state not in {State.READY, State.SUPERSEDED} or doubt
    return Part(
        submission_id=second,
        value=Decimal(value),
        state=state,
        has_open_doubt=doubt or state in {State.IN_DOUBT, State.UNPROVEN},
        last_attempt_at=HOUR + timedelta(minutes=30) if attempted else None,
        wire="v1" if attempted else "",
        timestamp=HOUR + timedelta(seconds=second),
    )


def proof(observed: int, *parts: Part, at: datetime = READ) -> Proof:
    return RunningCell(HOUR, parts).decision(observed=Decimal(observed), observed_at=at).proof


ACCEPTED, SETTLED, READY = State.ACCEPTED, State.SETTLED, State.READY
IN_DOUBT, UNPROVEN, SUPERSEDED = State.IN_DOUBT, State.UNPROVEN, State.SUPERSEDED


@pytest.mark.parametrize(
    ("parts", "expected", "least", "most"),
    [
        ((), 0, 0, 0),
        ((part(1, 5, ACCEPTED), part(2, 9, ACCEPTED)), 9, 9, 9),
        # By timestamp and not by their order, and down as well as up.
        ((part(2, 3, SETTLED), part(1, 8, ACCEPTED)), 3, 3, 3),
        ((part(1, 5, ACCEPTED), part(2, 9, IN_DOUBT)), 5, 5, 9),
        ((part(1, 5, ACCEPTED), part(2, 3, UNPROVEN), part(3, 4, IN_DOUBT)), 5, 3, 5),
        # What is earlier than the latest known cannot show any more.
        ((part(1, 9, IN_DOUBT), part(2, 5, ACCEPTED)), 5, 5, 5),
        ((part(1, 5, ACCEPTED), part(2, 9, READY)), 5, 5, 5),
        ((part(1, 5, ACCEPTED), part(2, 9, SUPERSEDED)), 5, 5, 5),
        ((part(1, 5, ACCEPTED), part(2, 9, SUPERSEDED, doubt=True)), 5, 5, 9),
        ((part(1, 9, UNPROVEN),), 0, 0, 9),
    ],
)
def test_an_hour_is_its_last_value(parts, expected, least, most):
    cell = RunningCell(HOUR, parts)

    assert (cell.expected, cell.least, cell.most) == (expected, least, most)


def test_the_latest_value_settles_the_earlier_ones_too():
    parts = (part(1, 5, ACCEPTED), part(2, 9, ACCEPTED))
    cell = RunningCell(HOUR, parts)

    decision = cell.decision(observed=Decimal(9), observed_at=READ)

    assert (decision.proof, decision.doubtful) == (Proof.COMPLETE, ())
    assert cell.accepted == parts
    assert Cell(HOUR, parts).decision(observed=Decimal(9), observed_at=READ).proof == Proof.NOTHING


@pytest.mark.parametrize(
    ("observed", "parts", "proven"),
    [
        (5, (part(1, 5, ACCEPTED), part(2, 9, ACCEPTED)), False),
        (14, (part(1, 5, ACCEPTED), part(2, 9, ACCEPTED)), False),
        # A doubt that is later than all that is known leaves the hour open, whatever it shows.
        (5, (part(1, 5, ACCEPTED), part(2, 9, IN_DOUBT)), False),
        (9, (part(1, 5, ACCEPTED), part(2, 9, UNPROVEN)), False),
        (5, (part(1, 9, UNPROVEN), part(2, 5, ACCEPTED)), True),
        (5, (part(1, 5, ACCEPTED), part(2, 9, SUPERSEDED, doubt=True)), True),
        (9, (part(1, 5, ACCEPTED), part(2, 9, SUPERSEDED, doubt=True)), True),
        (7, (part(1, 5, ACCEPTED), part(2, 9, SUPERSEDED, doubt=True)), False),
        (5, (part(1, 5, ACCEPTED), part(2, 9, State.SENDING)), False),
        (5, (part(1, 5, ACCEPTED), part(2, 9, READY)), True),
        (0, (), True),
        (2**53, (part(1, 2**53, ACCEPTED),), False),
    ],
)
def test_a_last_value_proves_what_it_can(observed, parts, proven):
    assert proof(observed, *parts) == (Proof.COMPLETE if proven else Proof.NOTHING)


def test_a_read_before_the_last_attempt_ended_proves_nothing():
    assert proof(5, part(1, 5, ACCEPTED), at=HOUR + timedelta(minutes=30)) == Proof.NOTHING


@pytest.mark.parametrize(
    ("state", "doubtful", "closed"),
    [
        (SETTLED, False, True),
        (ACCEPTED, False, False),
        (READY, False, False),
        (IN_DOUBT, True, False),
        (UNPROVEN, True, False),
        (SUPERSEDED, False, True),
    ],
)
def test_an_hour_is_closed_when_nothing_is_left_to_learn(state, doubtful, closed):
    cell = RunningCell(HOUR, (part(1, 5, state),))

    assert (cell.is_doubtful, cell.is_closed) == (doubtful, closed)
