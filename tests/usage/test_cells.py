"""What one total of Stripe's proves, exhaustively (F54, F80, F83, A4): pure, without a database."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage import cells
from usage.cells import ABSENCE_STABLE_HOURS, HOUR, MAX_EXACT, Cell, Decision, Part, Proof
from usage.lifecycle import State

pytestmark = pytest.mark.unit

H = datetime(2026, 11, 20, 10, tzinfo=UTC)
ATTEMPTED = H + timedelta(minutes=70)
STABLE = ATTEMPTED + ABSENCE_STABLE_HOURS * HOUR
EARLY = STABLE - timedelta(microseconds=1)

DOUBT, UNPROVEN, SENDING, READY = State.IN_DOUBT, State.UNPROVEN, State.SENDING, State.READY


def part(value, state=State.ACCEPTED, *, segment=H, customer="cus_1", **fields) -> Part:
    fields.setdefault("last_attempt_at", None if state == READY else ATTEMPTED)
    return Part(
        1,
        Decimal(value),
        state,
        segment_start=segment,
        stripe_customer_id=customer,
        **fields,
    )


def stream(value, **fields) -> Part:
    return part(value, State.ACCEPTED, wire="stream", **fields)


def decided(parts, total, *, at=STABLE, credit=0) -> Decision:
    cell = Cell(H, tuple(parts), credit=Decimal(credit))
    return cell.decision(observed=Decimal(total), observed_at=at)


@pytest.mark.parametrize(
    ("parts", "total", "early", "stable"),
    [
        ([part(10), part(5, UNPROVEN)], 15, Proof.COMPLETE, Proof.COMPLETE),
        ([part(10), part(5, UNPROVEN)], 10, Proof.NOTHING, Proof.ABSENT),
        ([part(5, UNPROVEN)], 0, Proof.NOTHING, Proof.ABSENT),
        ([part(10), part(5, UNPROVEN)], 12, Proof.NOTHING, Proof.IMPOSSIBLE),
        ([part(10), part(5, UNPROVEN)], 9, Proof.NOTHING, Proof.IMPOSSIBLE),
        ([part(10), part(5, UNPROVEN)], 16, Proof.NOTHING, Proof.IMPOSSIBLE),
        ([part(5, UNPROVEN), part(3, UNPROVEN)], 3, Proof.NOTHING, Proof.PARTIAL),
        ([part(5, UNPROVEN), part(3, UNPROVEN)], 4, Proof.NOTHING, Proof.IMPOSSIBLE),
        ([part(5, UNPROVEN), part(3, UNPROVEN)], "3.5", Proof.NOTHING, Proof.IMPOSSIBLE),
        # What delivery still repeats is folded in, once it has not been repeated for so long.
        ([part(5, UNPROVEN), part(3, DOUBT)], 8, Proof.PRESENT, Proof.PRESENT),
        ([part(5, UNPROVEN), part(3, DOUBT)], 3, Proof.NOTHING, Proof.PARTIAL),
        ([part(5, UNPROVEN), part(3, DOUBT)], 0, Proof.NOTHING, Proof.ABSENT),
        (
            [part(3, State.RETRY, has_open_doubt=True), part(1)],
            1,
            Proof.NOTHING,
            Proof.ABSENT,
        ),
        # The stream's answer tells nothing of an event.
        ([stream(5)], 5, Proof.COMPLETE, Proof.COMPLETE),
        ([stream(5)], 0, Proof.NOTHING, Proof.ABSENT),
        ([stream(5), stream(3), part(1)], 4, Proof.NOTHING, Proof.PARTIAL),
        ([stream(5), part(5)], 5, Proof.NOTHING, Proof.ABSENT),
        # What v1 took is never in doubt, however little of it Stripe shows.
        ([part(10)], 0, Proof.NOTHING, Proof.NOTHING),
        ([part(10)], 10, Proof.COMPLETE, Proof.COMPLETE),
        # Nothing is decided while a call may still be under way.
        ([part(5, UNPROVEN), part(3, SENDING)], 8, Proof.NOTHING, Proof.NOTHING),
        ([part(5, UNPROVEN), part(3, SENDING)], 0, Proof.NOTHING, Proof.NOTHING),
        # What was not sent says nothing.
        ([part(5, UNPROVEN), part(3, READY)], 0, Proof.NOTHING, Proof.ABSENT),
        ([part(5, UNPROVEN), part(3, READY)], 3, Proof.NOTHING, Proof.IMPOSSIBLE),
        ([part(5, UNPROVEN), part(3, State.SUPERSEDED)], 0, Proof.NOTHING, Proof.ABSENT),
        # Values of both signs hide each other, so that presence waits for the rest to be seen.
        ([part(10), part(5), part(-5, UNPROVEN)], 10, Proof.NOTHING, Proof.COMPLETE),
        ([part(5, UNPROVEN), part(-5, UNPROVEN)], 0, Proof.NOTHING, Proof.COMPLETE),
        ([part(5, UNPROVEN), part(-3, UNPROVEN)], -3, Proof.NOTHING, Proof.PARTIAL),
        ([part(-3, UNPROVEN)], -3, Proof.COMPLETE, Proof.COMPLETE),
        ([part(-3, UNPROVEN), part(9)], 9, Proof.NOTHING, Proof.ABSENT),
    ],
)
def test_each_total_proves_what_it_proves_and_no_sooner(parts, total, early, stable):
    assert (decided(parts, total, at=EARLY).proof, decided(parts, total).proof) == (early, stable)


def test_a_decision_names_all_that_was_doubtful_and_what_is_there_of_it():
    taken, first, second = part(10), part(5, UNPROVEN), stream(3)

    assert decided([taken, first, second], 13) == Decision(
        Proof.PARTIAL, (first, second), credit=Decimal(3)
    )
    assert decided([taken, first, second], 10) == Decision(Proof.ABSENT, (first, second))


def test_a_credit_of_an_earlier_decision_is_expected():
    parts = [part(7, State.SUPERSEDED), part(4)]

    assert decided(parts, 7, credit=3).proof == Proof.COMPLETE
    assert decided(parts, 4, credit=3).proof == Proof.NOTHING
    assert decided([*parts, part(2, UNPROVEN)], 7, credit=3).proof == Proof.ABSENT


def test_the_wait_begins_with_the_last_attempt_of_the_whole_hour():
    late = part(1, last_attempt_at=ATTEMPTED + HOUR)
    parts = [part(5, UNPROVEN), late]

    assert decided(parts, 1).proof == Proof.NOTHING
    assert decided(parts, 1, at=STABLE + HOUR).proof == Proof.ABSENT


def test_a_read_begun_before_the_last_attempt_ended_proves_nothing():
    assert decided([part(5)], 5, at=ATTEMPTED).proof == Proof.NOTHING
    assert decided([part(5, UNPROVEN)], 5, at=ATTEMPTED).proof == Proof.NOTHING


def test_a_total_beyond_what_a_float_holds_proves_nothing():
    parts = [part(MAX_EXACT), part(2, UNPROVEN)]

    assert decided(parts, MAX_EXACT).proof == Proof.ABSENT
    assert decided(parts, MAX_EXACT + 2).proof == Proof.NOTHING


@pytest.mark.parametrize(
    "other", [{"segment": H + timedelta(minutes=20)}, {"customer": "cus_2"}], ids=str
)
def test_a_part_that_could_lie_in_either_of_two_places_is_a_persons(other):
    """The hour's total is one; which period or customer it lies in, it does not say."""
    parts = [part(5, UNPROVEN), part(3, UNPROVEN, **other)]

    assert decided(parts, 3).proof == Proof.IMPOSSIBLE
    assert decided(parts, 0).proof == Proof.ABSENT
    assert decided(parts, 8).proof == Proof.COMPLETE
    mixed = [part(5, UNPROVEN), part(-5, UNPROVEN, **other)]
    assert decided(mixed, 0).proof == Proof.IMPOSSIBLE


@pytest.mark.parametrize(
    ("total", "proof"),
    [
        (-1, Proof.IMPOSSIBLE),
        (0, Proof.ABSENT),
        (1, Proof.PARTIAL),
        (8, Proof.PARTIAL),
        (9, Proof.COMPLETE),
        (10, Proof.IMPOSSIBLE),
        ("4.5", Proof.IMPOSSIBLE),
    ],
)
def test_after_a_restore_any_part_of_it_is_credited(total, proof):
    """The lost submissions may have been cut otherwise, and so may what was reported again."""
    parts = [part(5, UNPROVEN, recount=True), part(4, READY)]

    decision = decided(parts, total)

    assert decision.proof == proof
    if proof == Proof.PARTIAL:
        assert decision == Decision(proof, tuple(parts), credit=Decimal(total))


def test_too_many_values_to_tell_are_a_persons():
    small = [part(2**n, UNPROVEN) for n in range(28)]
    assert decided(small, 2**27 + 5).proof == Proof.PARTIAL

    many = [part(2**n, UNPROVEN) for n in range(32)]
    assert decided(many, 2**27 + 5).proof == Proof.IMPOSSIBLE
    assert "too many" in decided(many, 2**27 + 5).reason
    assert decided(many, 0).proof == Proof.ABSENT


def test_thousands_of_equal_values_are_decided():
    assert decided([stream(7) for _ in range(5_000)], 7 * 3_000).proof == Proof.PARTIAL
    assert decided([stream(7) for _ in range(5_000)], 7 * 3_000 + 1).proof == Proof.IMPOSSIBLE


values = st.lists(st.integers(min_value=-20, max_value=20), max_size=7)


@given(values, st.integers(min_value=-150, max_value=150))
def test_a_sum_is_found_exactly_when_some_choice_comes_to_it(chosen_from, total):
    decimals = [Decimal(value) for value in chosen_from]
    choices = itertools.chain.from_iterable(
        itertools.combinations(decimals, size) for size in range(len(decimals) + 1)
    )

    expected = any(sum(choice) == total for choice in choices)

    assert cells._is_sum_of(Decimal(total), decimals) is expected


amounts = st.lists(st.integers(min_value=1, max_value=50), min_size=1, max_size=6)


@given(amounts, amounts, st.data())
def test_whatever_arrived_is_never_sent_twice_nor_lost(taken, doubtful, data):
    """The replacement is exactly what is missing, whichever of the doubtful ones arrived."""
    arrived = data.draw(st.lists(st.booleans(), min_size=len(doubtful), max_size=len(doubtful)))
    there = sum(value for value, is_there in zip(doubtful, arrived, strict=True) if is_there)
    total = sum(taken) + there

    decision = decided(
        [*(part(value) for value in taken), *(part(value, UNPROVEN) for value in doubtful)], total
    )

    anew = sum(doubtful) - decision.credit
    if decision.proof == Proof.COMPLETE:
        assert there == sum(doubtful)
    else:
        assert decision.proof in {Proof.ABSENT, Proof.PARTIAL}
        assert total + anew == sum(taken) + sum(doubtful)
