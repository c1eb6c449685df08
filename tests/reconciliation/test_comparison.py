"""The comparison, exhaustively: exact, half-open UTC hours, tolerance zero (F80-F87, I17)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.gateway.values import Summary
from reconciliation.comparison import (
    Compared,
    Reason,
    UnusableSummaries,
    Verdict,
    by_hour,
    compare,
    hour_after,
    hour_of,
    merged,
)
from usage.cells import ABSENCE_STABLE_HOURS, HOUR, MAX_EXACT, Cell, Part
from usage.lifecycle import State

pytestmark = pytest.mark.unit

H = datetime(2026, 11, 20, 10, tzinfo=UTC)
READ_AT = H + 5 * HOUR
LONG_AGO = H + 2 * HOUR
SETTLE_SECONDS = 3_600


def part(value, state=State.ACCEPTED, *, at=LONG_AGO, doubt=False, wire="v1") -> Part:
    attempted = None if state == State.READY else at
    return Part(
        1, Decimal(value), state, has_open_doubt=doubt, last_attempt_at=attempted, wire=wire
    )


def judged(parts, total, *, credit=0) -> tuple[Verdict, Reason]:
    [cell] = compare(
        ours={H: Cell(H, tuple(parts), credit=Decimal(credit))},
        stripe={H: Decimal(total)},
        read_at=READ_AT,
        settle_seconds=SETTLE_SECONDS,
    )
    return cell.verdict, cell.reason


RETRY, DOUBT, UNPROVEN, SENDING = State.RETRY, State.IN_DOUBT, State.UNPROVEN, State.SENDING
EQUAL = (Verdict.EQUAL, Reason.NONE)
WAITS = Verdict.WAITING
DIFFERS = Verdict.DISCREPANCY


@pytest.mark.parametrize(
    ("parts", "total", "expected"),
    [
        ([part(10)], 10, EQUAL),
        ([part(10), part(5, State.SETTLED)], 15, EQUAL),
        ([part(10)], "10.0", EQUAL),
        ([part(10)], 9, (DIFFERS, Reason.MISSING)),
        ([part(10)], 11, (DIFFERS, Reason.EXCESS)),
        ([part(10)], "10.000000000001", (DIFFERS, Reason.EXCESS)),
        ([part(10)], 0, (DIFFERS, Reason.MISSING)),
        ([part(10, State.SETTLED)], 9, (DIFFERS, Reason.MISSING)),
        ([part(10_000_000), part(1)], 10_000_000, (DIFFERS, Reason.MISSING)),
        # What Stripe refused, or was never sent, is not expected there.
        ([part(10), part(7, State.REJECTED)], 10, EQUAL),
        ([part(10), part(7, State.REJECTED)], 17, (DIFFERS, Reason.EXCESS)),
        ([part(7, State.REJECTED)], 0, EQUAL),
        ([part(7, State.EXPIRED)], 0, EQUAL),
        ([part(7, State.SUPERSEDED)], 0, EQUAL),
        ([part(7, State.WRITTEN_OFF)], 0, EQUAL),
        ([part(10), part(7, State.READY)], 10, EQUAL),
        ([part(10), part(7, RETRY)], 10, EQUAL),
        ([part(7, State.READY)], 0, (WAITS, Reason.UNSENT)),
        ([part(7, RETRY)], 0, (WAITS, Reason.UNSENT)),
        ([part(7, State.READY)], 7, (DIFFERS, Reason.EXCESS)),
        # A doubt may be there or not; only a total that holds all of it is believed.
        ([part(10), part(7, DOUBT)], 10, (WAITS, Reason.IN_DOUBT)),
        ([part(10), part(7, DOUBT)], 17, (WAITS, Reason.IN_DOUBT)),
        ([part(10), part(7, SENDING)], 17, (WAITS, Reason.IN_DOUBT)),
        ([part(10), part(7, RETRY, doubt=True)], 10, (WAITS, Reason.IN_DOUBT)),
        ([part(10), part(7, DOUBT)], 18, (DIFFERS, Reason.EXCESS)),
        ([part(10), part(7, DOUBT)], 9, (DIFFERS, Reason.MISSING)),
        ([part(10), part(7, UNPROVEN)], 17, EQUAL),
        ([part(10), part(7, UNPROVEN)], 10, (WAITS, Reason.UNPROVEN)),
        ([part(10), part(7, UNPROVEN)], 12, (WAITS, Reason.UNPROVEN)),
        ([part(10), part(7, UNPROVEN), part(3, UNPROVEN)], 20, EQUAL),
        ([part(10), part(7, UNPROVEN), part(3, UNPROVEN)], 17, (WAITS, Reason.UNPROVEN)),
        ([part(10), part(7, UNPROVEN), part(3, DOUBT)], 20, (WAITS, Reason.IN_DOUBT)),
        ([part(10), part(7, UNPROVEN)], 18, (DIFFERS, Reason.EXCESS)),
        ([part(10), part(-4, DOUBT)], 6, (WAITS, Reason.IN_DOUBT)),
        ([part(10), part(-4, DOUBT)], 5, (DIFFERS, Reason.MISSING)),
        # The stream's answer is none: only the total tells, and until it does the cell waits.
        ([part(10, wire="stream")], 10, EQUAL),
        ([part(10, wire="stream")], 0, (WAITS, Reason.UNVERIFIED)),
        ([part(10, wire="stream"), part(2)], 7, (WAITS, Reason.UNVERIFIED)),
        ([part(10, wire="stream"), part(2)], 1, (DIFFERS, Reason.MISSING)),
        ([part(10, wire="stream"), part(2)], 13, (DIFFERS, Reason.EXCESS)),
        ([part(10, wire="stream"), part(2, UNPROVEN)], 2, (WAITS, Reason.UNPROVEN)),
        ([part(10, wire="stream"), part(2, DOUBT)], 2, (WAITS, Reason.IN_DOUBT)),
        ([part(10, State.SETTLED, wire="stream")], 0, (DIFFERS, Reason.MISSING)),
        # Nothing of ours at all.
        ([], 1, (DIFFERS, Reason.FOREIGN)),
        ([], "0.5", (DIFFERS, Reason.FOREIGN)),
        ([], -1, (DIFFERS, Reason.FOREIGN)),
        # Beyond what a float holds exactly, equality proves nothing.
        ([part(MAX_EXACT)], MAX_EXACT, EQUAL),
        ([part(MAX_EXACT + 1)], MAX_EXACT + 1, (DIFFERS, Reason.INEXACT)),
        ([], MAX_EXACT + 1, (DIFFERS, Reason.INEXACT)),
    ],
)
def test_each_cell_gets_its_verdict(parts, total, expected):
    assert judged(parts, total) == expected


@pytest.mark.parametrize(
    ("parts", "total", "expected"),
    [
        ([part(10), part(7, UNPROVEN)], 10, (WAITS, Reason.REPLACED)),
        ([part(10), part(7, UNPROVEN), part(3, UNPROVEN)], 13, (WAITS, Reason.REPLACED)),
        ([part(10, wire="stream")], 0, (WAITS, Reason.REPLACED)),
        # Impossible totals: a case of the cell's own is open, and more than all is an excess, too.
        ([part(10), part(7, UNPROVEN)], 12, (WAITS, Reason.UNPROVEN)),
        ([part(10), part(7, UNPROVEN)], 18, (DIFFERS, Reason.EXCESS)),
        ([part(10), part(7, UNPROVEN)], 9, (DIFFERS, Reason.MISSING)),
    ],
)
def test_what_is_proven_absent_waits_for_what_is_sent_in_its_place(parts, total, expected):
    [cell] = compare(
        ours={H: Cell(H, tuple(parts))},
        stripe={H: Decimal(total)},
        read_at=LONG_AGO + ABSENCE_STABLE_HOURS * HOUR,
        settle_seconds=SETTLE_SECONDS,
    )

    assert (cell.verdict, cell.reason) == expected


def test_a_credit_is_part_of_our_book():
    parts = [part(7, State.SUPERSEDED), part(4)]

    assert judged(parts, 7, credit=3) == EQUAL
    assert judged(parts, 4, credit=3) == (DIFFERS, Reason.MISSING)


@pytest.mark.parametrize(
    ("ago", "expected"),
    [
        (timedelta(seconds=SETTLE_SECONDS), (DIFFERS, Reason.MISSING)),
        (timedelta(seconds=SETTLE_SECONDS - 1), (WAITS, Reason.SETTLING)),
        (timedelta(microseconds=1), (WAITS, Reason.SETTLING)),
        (timedelta(0), (WAITS, Reason.ATTEMPTED_SINCE)),
        (-timedelta(seconds=1), (WAITS, Reason.ATTEMPTED_SINCE)),
    ],
)
def test_a_difference_may_be_lag_until_the_settling_time_is_over(ago, expected):
    assert judged([part(10, at=READ_AT - ago)], 9) == expected


def test_an_equal_total_is_believed_at_once_unless_something_was_sent_meanwhile():
    assert judged([part(10, at=READ_AT - timedelta(seconds=1))], 10) == EQUAL
    assert judged([part(10), part(5, at=READ_AT)], 15) == (WAITS, Reason.ATTEMPTED_SINCE)


def test_hours_of_either_book_are_compared_and_empty_ones_left_out():
    compared = compare(
        ours={H: Cell(H, (part(10),)), H + HOUR: Cell(H + HOUR, (part(4),))},
        stripe={H: Decimal(10), H + 2 * HOUR: Decimal(3), H + 3 * HOUR: Decimal(0)},
        read_at=READ_AT,
        settle_seconds=SETTLE_SECONDS,
    )

    assert compared == (
        Compared(H, Decimal(10), Decimal(10), *EQUAL, is_closed=False),
        Compared(H + HOUR, Decimal(4), Decimal(0), DIFFERS, Reason.MISSING, is_closed=False),
        Compared(H + 2 * HOUR, Decimal(0), Decimal(3), DIFFERS, Reason.FOREIGN, is_closed=True),
    )
    assert [cell.difference for cell in compared] == [0, -4, 3]


events = st.lists(
    st.tuples(
        st.integers(min_value=-2, max_value=3 * 3_600 + 2),
        st.integers(min_value=1, max_value=10**15 - 1),
    ),
    min_size=1,
    max_size=40,
)


def folded(sent) -> dict[datetime, Decimal]:
    totals: dict[datetime, Decimal] = {}
    for seconds, value in sent:
        hour = hour_of(H + timedelta(seconds=seconds))
        totals[hour] = totals.get(hour, Decimal(0)) + value
    return totals


def cells_of(sent) -> dict[datetime, Cell]:
    parts: dict[datetime, tuple[Part, ...]] = {}
    for seconds, value in sent:
        hour = hour_of(H + timedelta(seconds=seconds))
        parts[hour] = (*parts.get(hour, ()), part(value))
    return {hour: Cell(hour, found) for hour, found in parts.items()}


@given(events)
def test_the_same_events_are_equal_and_one_unit_or_one_second_across_a_border_is_not(sent):
    arguments = {"read_at": READ_AT, "settle_seconds": SETTLE_SECONDS}
    ours = cells_of(sent)

    for cell in compare(ours=ours, stripe=folded(sent), **arguments):
        inexact = cell.stripe > MAX_EXACT
        assert (cell.verdict, cell.reason) == ((DIFFERS, Reason.INEXACT) if inexact else EQUAL)

    (seconds, value), *rest = sent
    one_less = compare(ours=ours, stripe=folded([(seconds, value - 1), *rest]), **arguments)
    assert sum(cell.verdict == DIFFERS for cell in one_less) >= 1

    border = -(-(seconds + 1) // 3_600) * 3_600
    before = compare(
        ours=cells_of([(border - 1, value)]), stripe=folded([(border, value)]), **arguments
    )
    assert [(cell.verdict, cell.difference) for cell in before] == [
        (DIFFERS, -value),
        (DIFFERS, value),
    ]


def summary(start, end=None, value="1") -> Summary:
    return Summary(start, end or start + HOUR, Decimal(value))


def test_summaries_become_totals_by_hour():
    found = by_hour([summary(H + HOUR, value="0"), summary(H)], start=H, end=H + 2 * HOUR)

    assert found == {H: Decimal(1), H + HOUR: Decimal(0)}


@pytest.mark.parametrize(
    "summaries",
    [
        [summary(H), summary(H)],
        [summary(H - HOUR)],
        [summary(H + 2 * HOUR)],
        [summary(H, H + timedelta(days=1))],
        [summary(H + timedelta(minutes=30))],
    ],
)
def test_an_answer_that_was_not_asked_for_is_not_used(summaries):
    with pytest.raises(UnusableSummaries):
        by_hour(summaries, start=H, end=H + 2 * HOUR)


def test_ranges_are_joined_over_gaps_that_a_page_bridges():
    day = 24 * HOUR

    assert list(
        merged(
            [(H + day, H + 2 * day), (H, H + HOUR), (H + 9 * day, H + 9 * day + HOUR)],
            bridge_hours=100,
        )
    ) == [(H, H + 2 * day), (H + 9 * day, H + 9 * day + HOUR)]
    assert list(merged([(H, H + HOUR), (H + 101 * HOUR, H + 102 * HOUR)], bridge_hours=100)) == [
        (H, H + 102 * HOUR)
    ]
    assert list(merged([], bridge_hours=100)) == []


@given(
    st.sets(st.integers(min_value=0, max_value=400), min_size=1),
    st.integers(min_value=0, max_value=30),
)
def test_ranges_hold_every_hour_apart_and_in_order(hours, bridge):
    ranges = list(merged([(H + n * HOUR, H + (n + 1) * HOUR) for n in hours], bridge_hours=bridge))

    assert all(sum(start <= H + n * HOUR < end for start, end in ranges) == 1 for n in hours)
    assert all(later[0] - earlier[1] > bridge * HOUR for earlier, later in pairwise(ranges))


@pytest.mark.parametrize(
    ("instant", "start", "after"),
    [
        (H, H, H),
        (H + timedelta(microseconds=1), H, H + HOUR),
        (H + HOUR - timedelta(microseconds=1), H, H + HOUR),
        (datetime(2026, 3, 1, tzinfo=UTC), *[datetime(2026, 3, 1, tzinfo=UTC)] * 2),
        (
            datetime(2026, 11, 20, 15, 45, tzinfo=timezone(timedelta(hours=5, minutes=45))),
            H,
            H,
        ),
    ],
)
def test_hours_are_utc_hours(instant, start, after):
    assert (hour_of(instant), hour_after(instant)) == (start, after)
