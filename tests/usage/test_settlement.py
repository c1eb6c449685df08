"""Settling: only what Stripe's total proves, once, and by the rows as they are (I17, F80, F85)."""

from __future__ import annotations

import threading
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connections, transaction
from django.utils import timezone

from billing.cases import open_case
from billing.enums import CaseKind
from billing.models import Case
from tests.factories.usage import make_submission, move, states
from usage.cells import HOUR, MAX_EXACT
from usage.lifecycle import State
from usage.models import Observation, SubmissionState
from usage.settlement import Settlement, cells, settle


@pytest.fixture
def hour(now):
    return now.replace(minute=0, second=0)


@pytest.fixture
def made(acme, meters, hour):
    """Make submissions of one hour, attempted a minute into it."""

    def made(value, state=State.ACCEPTED, *, at=hour, **fields):
        return make_submission(
            customer=acme, meter=meters.input, at=at, value=value, state=state, **fields
        )

    return made


@pytest.fixture
def settled(acme, meters, hour, now):
    """Settle what Stripe said of the hour, read from `now` on."""

    def settled(observed, *, at=now):
        observed = observed if isinstance(observed, dict) else {hour: Decimal(observed)}
        return settle(
            customer_id=acme.pk, meter_id=meters.input.pk, observed=observed, observed_at=at
        )

    return settled


pytestmark = pytest.mark.integration


def test_an_equal_hour_is_settled_and_the_figures_are_kept(made, settled, acme, meters, hour, now):
    first, second = made(10), made(5)
    neighbour = made(7, at=hour + HOUR, attempted_at=hour)

    assert settled(15) == Settlement(settled_count=2)

    assert states(first, second, neighbour) == ["settled", "settled", "accepted"]
    standing = SubmissionState.objects.get(pk=first.pk)
    assert (standing.next_action_at, standing.changed_at) == (None, now)
    [observation] = Observation.objects.values(
        "customer", "meter", "window_start", "window_end", "expected", "observed", "observed_at"
    )
    assert observation == {
        "customer": acme.pk,
        "meter": meters.input.pk,
        "window_start": hour,
        "window_end": hour + HOUR,
        "expected": 15,
        "observed": 15,
        "observed_at": now,
    }


@pytest.mark.parametrize("observed", ["14", "16", "0", "15.000000000001", "-15"])
def test_an_unequal_hour_moves_nothing_and_is_kept(made, settled, observed):
    submissions = made(10), made(5)

    assert settled(observed) == Settlement()

    assert states(*submissions) == ["accepted", "accepted"]
    assert Observation.objects.get().observed == Decimal(observed)


def test_a_total_beyond_what_a_float_holds_proves_nothing(made, settled):
    parts = [made(999_999_999_999_999) for _ in range(10)]
    total = Decimal(9_999_999_999_999_990)
    assert total > MAX_EXACT

    assert settled(total) == Settlement()
    assert set(states(*parts)) == {"accepted"}


def test_a_repetition_settles_nothing_twice(made, settled, now):
    submission = made(10)
    settled(10)

    assert settled(10, at=now + HOUR) == Settlement()
    assert SubmissionState.objects.get(pk=submission.pk).changed_at == now
    assert Observation.objects.count() == 2


def test_usage_of_an_hour_settled_before_is_settled_when_it_joins(made, settled, now):
    made(10)
    settled(10)
    late = made(5)

    assert settled(15, at=now + HOUR) == Settlement(settled_count=1)
    assert states(late) == ["settled"]


@pytest.mark.parametrize(
    ("after_read", "state"),
    [
        (timedelta(microseconds=-1), "settled"),
        (timedelta(0), "accepted"),
        (timedelta(seconds=1), "accepted"),
    ],
)
def test_a_read_that_began_before_the_last_attempt_ended_settles_nothing(
    made, settled, hour, now, after_read, state
):
    submissions = made(10), made(5, attempted_at=now + after_read)

    settled(15)

    assert states(*submissions) == [state, state]


@pytest.mark.parametrize("doubt", [State.SENDING, State.IN_DOUBT])
def test_a_doubt_keeps_its_hour_open_even_when_all_of_it_is_there(made, settled, doubt):
    accepted, doubtful = made(10), made(5, doubt)

    assert settled(15) == settled(10) == Settlement()
    assert states(accepted, doubtful) == ["accepted", doubt]


def test_a_retry_with_an_open_doubt_keeps_its_hour_open(made, settled, now):
    accepted, doubtful = made(10), made(5, State.IN_DOUBT)
    for state in (State.SENDING, State.RETRY):
        move(doubtful, state, at=now - HOUR / 60)

    assert settled(15) == settled(10) == Settlement()
    assert states(accepted, doubtful) == ["accepted", "retry"]


def test_usage_never_sent_does_not_keep_its_hour_from_settling(made, settled):
    accepted, ready, refused = made(10), made(5, State.READY), made(3, State.REJECTED)

    assert settled(10) == Settlement(settled_count=1)
    assert states(accepted, ready, refused) == ["settled", "ready", "rejected"]


def test_presence_of_the_unproven_is_believed_at_once(made, settled, now):
    accepted, unproven = made(10), made(5, State.UNPROVEN)
    open_case(
        kind=CaseKind.UNPROVEN, reference=unproven.identifier, reason="?", deadline_at=now + HOUR
    )

    assert settled(10) == settled(12) == Settlement()
    assert states(accepted, unproven) == ["accepted", "unproven"]

    assert settled(15) == Settlement(settled_count=2, believed_count=1)

    assert states(accepted, unproven) == ["settled", "settled"]
    assert SubmissionState.objects.get(pk=unproven.pk).doubt_since is None
    observation = Observation.objects.order_by("-pk")[0]
    assert (observation.expected, observation.observed) == (15, 15)
    assert Case.objects.get().resolution == "Stripe's summary of the hour holds it."


def test_the_unproven_is_believed_while_another_doubt_is_left_to_delivery(made, settled, now):
    accepted, unproven, doubtful = made(10), made(5, State.UNPROVEN), made(3, State.IN_DOUBT)

    assert settled(18) == Settlement(believed_count=1)

    assert states(accepted, unproven, doubtful) == ["accepted", "accepted", "in_doubt"]
    assert SubmissionState.objects.get(pk=unproven.pk).next_action_at > now


def test_hours_are_judged_one_by_one(made, settled, hour):
    first, second = made(10), made(5, at=hour - HOUR)

    result = settled({hour: Decimal(10), hour - HOUR: Decimal(6), hour - 2 * HOUR: Decimal(4)})

    assert result == Settlement(settled_count=1)
    assert states(first, second) == ["settled", "accepted"]
    assert list(
        Observation.objects.order_by("window_start").values_list("expected", "observed")
    ) == [(0, 4), (5, 6), (10, 10)]


def test_cells_are_the_half_open_hours_of_one_pair(made, acme, meters, hour):
    made(10), made(5, State.UNPROVEN), made(7, at=hour + HOUR), made(8, at=hour - HOUR)
    make_submission(customer=acme, meter=meters.calls, at=hour, value=99)

    found = cells(customer_id=acme.pk, meter_id=meters.input.pk, start=hour, end=hour + HOUR)

    [cell] = found.values()
    assert list(found) == [hour]
    assert (cell.expected, cell.most, len(cell.accepted)) == (10, 15, 1)
    assert cell.last_attempt_at == hour + timedelta(minutes=1)


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_two_settlers_at_once_settle_each_row_once(transactional_db, made, settled):
    submissions = [made(1) for _ in range(20)]
    start = threading.Barrier(4)
    results = []

    def settler() -> None:
        start.wait()
        results.append(settled(20))
        connections.close_all()

    threads = [threading.Thread(target=settler) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(result.settled_count for result in results) == [0, 0, 0, 20]
    assert set(states(*submissions)) == {"settled"}
    assert Observation.objects.count() == 4


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_call_that_begins_while_a_settler_waits_keeps_its_hour_open(
    transactional_db, made, settled
):
    """The settler decided by an older read; the row it waits for has been sent meanwhile."""
    accepted, doubtful = made(10), made(5, State.IN_DOUBT)
    read_at = timezone.now()
    result = []

    def settler() -> None:
        result.append(settled(10, at=read_at))
        connections.close_all()

    with transaction.atomic():
        SubmissionState.objects.select_for_update().get(pk=doubtful.pk)
        thread = threading.Thread(target=settler)
        thread.start()
        thread.join(timeout=0.3)
        assert thread.is_alive()
        move(doubtful, State.SENDING, at=timezone.now())
        move(doubtful, State.ACCEPTED, at=timezone.now())
    thread.join()

    assert result == [Settlement()]
    assert states(accepted, doubtful) == ["accepted", "accepted"]
