"""Alarms on age: told from a day on, loudly from a week on, and taken back when it is over (F58, A4)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from billing.models import Case
from tests.factories.usage import make_meter, make_submission, move
from tests.usage.conftest import report
from usage import alarms, flush, tasks
from usage.lifecycle import State
from usage.models import HeldUsage, Observation, SubmissionState

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)
TICK = timedelta(seconds=1)


@pytest.fixture
def moment(now):
    """A whole second, as timestamps of submissions are."""
    return now.replace(microsecond=0)


def open_cases() -> dict[str, Case]:
    return {case.reference: case for case in Case.objects.filter(closed_at=None)}


WARNING, PAGE, LAG = "warning: 24 hours", "page: 7 days", "summary lag"


@pytest.mark.parametrize(
    ("age", "levels"),
    [
        (DAY - TICK, set()),
        (DAY, {WARNING}),
        (7 * DAY - TICK, {WARNING}),
        (7 * DAY, {WARNING, PAGE}),
        (34 * DAY, {WARNING, PAGE}),
    ],
)
def test_unsent_usage_alarms_by_the_age_of_its_use(acme, meters, moment, age, levels):
    make_submission(customer=acme, meter=meters.input, at=moment - age)

    alarms.report(now=moment)

    assert set(open_cases()) == levels


@pytest.mark.parametrize(
    ("state", "alarms_at_all"),
    [
        (State.READY, True),
        (State.SENDING, True),
        (State.RETRY, True),
        (State.IN_DOUBT, True),
        (State.UNPROVEN, True),
        (State.SETTLED, False),
        (State.SUPERSEDED, False),
        (State.WRITTEN_OFF, False),
        # These have a case each.
        (State.REJECTED, False),
        (State.EXPIRED, False),
    ],
)
def test_only_what_may_still_reach_stripe_alarms(acme, meters, moment, state, alarms_at_all):
    make_submission(customer=acme, meter=meters.input, at=moment - 8 * DAY, state=state)

    alarms.report(now=moment)

    assert (PAGE in open_cases()) is alarms_at_all


def test_a_case_says_how_much_of_what_and_until_when(acme, meters, moment):
    used_at = moment - 10 * DAY
    for value in (1_000, 234):
        make_submission(customer=acme, meter=meters.input, at=used_at, value=value)
    make_submission(customer=acme, meter=meters.calls, at=used_at + DAY, value=5)
    precise = make_meter("gb_hours", scale=3, unit="GB hour")
    make_submission(customer=acme, meter=precise, at=used_at + DAY, value=1_500)
    make_submission(customer=acme, meter=meters.calls, at=moment - 2 * DAY, value=7)

    alarms.report(now=moment)

    cases = open_cases()
    assert cases[PAGE].reason == (
        "Not with Stripe after 7 days: gb_hours: 1 submission (1.5 GB hour);"
        " input_tokens: 2 submissions (1,234 token); llm_calls: 1 submission (5 call)."
        " The oldest is of 2026-11-10 12:30 UTC, which Stripe takes until 2026-12-15 00:30 UTC."
    )
    assert "llm_calls: 2 submissions (12 call)" in cases[WARNING].reason
    assert cases[PAGE].deadline_at == moment + timedelta(hours=4)
    assert cases[WARNING].deadline_at == used_at + 7 * DAY


def test_a_page_is_due_before_stripe_stops_taking_it(acme, meters, moment):
    used_at = moment - timedelta(days=34.5) + timedelta(hours=1)
    make_submission(customer=acme, meter=meters.input, at=used_at)

    alarms.report(now=moment)

    assert open_cases()[PAGE].deadline_at == moment + timedelta(hours=1)


def test_unfolded_and_held_usage_alarm_too(store, acme, meters, moment):
    early = moment - 9 * DAY
    store(report("a", at=early, input_tokens=10, cached_tokens=3), at=early)
    store(report("b", at=early, subject="nobody", input_tokens=7), at=early)
    flush.flush_batches(now=early)
    assert HeldUsage.objects.count() == 2
    store(report("c", at=early, input_tokens=20), report("d", at=early, input_tokens=1), at=early)
    SubmissionState.objects.update(next_action_at=moment + DAY)

    alarms.report(now=moment)

    assert open_cases()[PAGE].reason.startswith(
        "Not with Stripe after 7 days: cached_tokens: 1 submission (3 token), 2 unfolded events"
        " (0 token); input_tokens: 1 held hour (7 token), 1 submission (10 token), 2 unfolded"
        " events (21 token); llm_calls: 1 held hour (1 call), 1 submission (1 call), 2 unfolded"
        " events (2 call)."
    )


def test_usage_that_came_late_has_an_hour_before_it_alarms(store, acme, meters, moment):
    used_at = moment - 20 * DAY
    received_at = moment - timedelta(hours=1) + TICK
    store(report("a", at=used_at), report("b", at=used_at, subject="nobody"), at=received_at)

    alarms.report(now=moment)
    assert open_cases() == {}
    alarms.report(now=moment + TICK)
    assert set(open_cases()) == {WARNING, PAGE}

    flush.flush_batches(now=moment + 2 * TICK)
    alarms.report(now=moment + 2 * TICK)
    assert open_cases() == {}


def test_a_case_is_kept_up_to_date_and_closed_when_nothing_is_that_old(acme, meters, moment):
    first = make_submission(customer=acme, meter=meters.input, at=moment - 8 * DAY, value=1)
    second = make_submission(customer=acme, meter=meters.input, at=moment - 2 * DAY, value=2)
    for _ in range(2):
        alarms.report(now=moment)
    assert Case.objects.count() == 2

    move(first, State.SUPERSEDED, at=moment)
    alarms.report(now=moment)

    assert set(open_cases()) == {WARNING}
    assert "1 submission (2 token)" in open_cases()[WARNING].reason
    assert Case.objects.get(reference=PAGE).resolution == "nothing is that old any more"
    move(second, State.SUPERSEDED, at=moment)
    tasks.report_ages()
    assert open_cases() == {}


# --- Stripe's totals lag behind -------------------------------------------------------------------


def seen(submission, at):
    """A read of the submission's hour that did not show it."""
    Observation.objects.create(
        customer=submission.customer,
        meter=submission.meter,
        window_start=submission.window_start,
        window_end=submission.window_start + timedelta(hours=1),
        expected=submission.value,
        observed=0,
        observed_at=at,
    )


@pytest.mark.parametrize(
    ("read_after", "asked_after", "is_late"),
    [
        (None, timedelta(hours=36) - TICK, False),
        (None, timedelta(hours=36), True),
        (timedelta(hours=12) - TICK, timedelta(hours=36) - TICK, False),
        (timedelta(hours=12), timedelta(hours=12), True),
    ],
)
def test_a_total_that_does_not_show_what_stripe_took_alarms(
    acme, meters, moment, read_after, asked_after, is_late
):
    """A4: half a day without a read proves nothing, a read half a day later does."""
    submission = make_submission(
        customer=acme, meter=meters.input, at=moment, state=State.ACCEPTED, attempted_at=moment
    )
    other = make_submission(
        customer=acme, meter=meters.calls, at=moment, state=State.SETTLED, attempted_at=moment
    )
    seen(other, moment + timedelta(hours=12))
    if read_after is not None:
        seen(submission, moment + read_after)

    alarms.report(now=moment + asked_after)

    assert set(open_cases()) == ({LAG} if is_late else set())


def test_the_lag_is_over_when_the_hour_settles(acme, meters, moment):
    submission = make_submission(
        customer=acme, meter=meters.input, at=moment, state=State.ACCEPTED, attempted_at=moment
    )
    alarms.report(now=moment + 2 * DAY)
    assert open_cases()[LAG].reason == (
        "Taken by Stripe and not seen in its totals 12 hours later: input_tokens: 1 submission"
        " (10 token). The oldest call was at 2026-11-20 12:30 UTC."
    )

    move(submission, State.SETTLED, at=moment + 2 * DAY)
    alarms.report(now=moment + 2 * DAY)

    assert open_cases() == {}
