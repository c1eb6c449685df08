"""Every named commit and call of the money's path, interrupted at each of four moments (G12).

For each the story that takes it goes on until the process ends there; another worker goes on from
what was committed, callers ask again for what was not acknowledged, and the workers work until
nothing is left to do. Then the emulator's own books decide: every unit is billed once, or parked
with a case, and at no instant was more billed than recorded (I1, I6, I7, I8, I11, I12).
"""

from __future__ import annotations

import pytest
from django.db import transaction

from tests.crashes.conftest import RUN, tell, told
from tests.crashes.shop import NOW, opened
from tests.crashes.stories import STORIES
from tests.support.interruptions import Kind, Moment, Step, named_steps
from usage.models import SubmissionState

pytestmark = [pytest.mark.scenario, pytest.mark.django_db]

QUIET = {
    "usage.invariants.report": "writes only when our own tables contradict each other",
}
"""Steps that leave nothing behind in a sound story; they are interrupted all the same."""
CORE = {
    "usage.ingestion.store",
    "usage.ingestion.accept",
    "usage.flush.run",
    "usage.delivery.claim",
    "usage.delivery.send",
    "usage.delivery.stream",
    "usage.delivery.record",
    "usage.sweep.stalled",
    "usage.settlement.settle",
}
"""Steps interrupted at their second occurrence, too: behind one that went well."""
CASES = [
    pytest.param(step, moment, occurrence, id=f"{step}-{moment}-{occurrence}")
    for step in named_steps()
    for moment in Moment
    for occurrence in ((1, 2) if step.name in CORE else (1,))
]


def chosen(step: Step, occurrence: int) -> tuple[str, int]:
    """Return the story to interrupt at the step, and which time it is taken there.

    A second time it is the story of that name, whose totals lag; else the shortest that takes it.
    """
    found = [
        (name != "second" and occurrence == 2, story.length, name, times[occurrence - 1])
        for name, story in told().items()
        if len(times := story.occurrences.get(step, [])) >= occurrence
    ]
    assert found, f"No story takes {step} {occurrence} times: a new step needs a story."
    *_, name, time = min(found)
    return name, time


@pytest.mark.parametrize("name", STORIES)
def test_a_story_without_interruption_bills_each_unit_once(name):
    with opened(*STORIES[name].meters) as shop:
        tell(shop, STORIES[name])
        shop.rest()

        shop.judge()


def test_every_named_step_is_taken_to_an_effect_by_a_story():
    taken = {step for story in told().values() for step in story.occurrences}

    assert [step.name for step in named_steps() if step not in taken] == list(QUIET)


@pytest.mark.parametrize(("step", "moment", "occurrence"), CASES)
def test_an_interruption_bills_each_unit_once(step, moment, occurrence):
    name, time = ("ordinary", 1) if step.name in QUIET else chosen(step, occurrence)
    RUN[step, moment] += 1
    with opened(*STORIES[name].meters) as shop:
        shop.interruptions.set_on(step, moment, occurrence=time)

        tell(shop, STORIES[name])
        assert shop.interruptions.struck
        shop.rest()

        shop.judge()


def test_the_moments_of_a_call_and_of_a_commit_are_told_apart_by_what_is_left():
    """The harness itself: what is there when the process has ended, by moment."""
    left = {}
    # The claims before are of lanes in which nothing waits.
    for step, occurrence in (
        (Step(Kind.COMMIT, "usage.delivery.claim"), 4),
        (Step(Kind.CALL, "usage.delivery.send"), 1),
    ):
        for moment in Moment:
            left[step.kind, moment] = _left_behind(step, moment, occurrence)

    assert left == {
        (Kind.COMMIT, Moment.BEFORE): ("ready", 0),
        (Kind.COMMIT, Moment.DURING): ("ready", 0),
        (Kind.COMMIT, Moment.AFTER): ("sending", 0),
        (Kind.COMMIT, Moment.UNKNOWN): ("sending", 0),
        (Kind.CALL, Moment.BEFORE): ("sending", 0),
        (Kind.CALL, Moment.DURING): ("sending", 0),
        (Kind.CALL, Moment.AFTER): ("sending", 10),
        (Kind.CALL, Moment.UNKNOWN): ("in_doubt", 10),
    }


def _left_behind(step: Step, moment: Moment, occurrence: int) -> tuple[str, int]:
    """Return where a first submission stands and what Stripe has, right after the interruption."""
    with transaction.atomic(), opened("input_tokens") as shop:
        shop.perform(shop.ingest(("e1", NOW, 10)))
        shop.perform(shop.flush())
        shop.interruptions.set_on(step, moment, occurrence=occurrence)
        shop.perform(shop.deliver())
        state = SubmissionState.objects.get().state
        taken = int(sum(shop.taken().values()))
        transaction.set_rollback(True)
    return state, taken
