"""The table of planted bugs is what it says; `conftest` adds an item for each bug and its test."""

from __future__ import annotations

import importlib

import pytest

from tests.planted.bugs import BUGS, Bug
from tests.planted.planting import Misplaced, Value, Words

pytestmark = [pytest.mark.unit, pytest.mark.planted]


def test_there_are_at_least_twenty_five_bugs_with_names_of_their_own():
    """G11."""
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 25


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_says_what_is_wrong_and_what_it_costs(bug: Bug):
    assert bug.wrong.endswith((".", ")."))
    assert bug.cost.endswith(".")
    assert bug.changes
    assert bug.tests


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_is_gone_when_its_test_is_over(bug: Bug):
    before = [_at(change.place) for change in bug.changes]
    with pytest.MonkeyPatch.context() as monkeypatch:
        for change in bug.changes:
            change.plant(monkeypatch)
        during = [_at(change.place) for change in bug.changes]

    assert [_at(change.place) for change in bug.changes] == before
    assert all(one != other for one, other in zip(before, during, strict=True))


def _at(place: str) -> object:
    module_name, _, path = place.partition(":")
    thing: object = importlib.import_module(module_name)
    for name in path.split("."):
        thing = vars(thing)[name]
    return thing


def test_words_that_are_not_there_are_no_bug(monkeypatch):
    for words in (
        Words("usage.outcomes:_RECORD", "no such words", ""),
        Words("usage.outcomes:record", "no such words", ""),
        Words("usage.claiming:_TAKE", "no such words", ""),
        Words("usage.outcomes:no_such_name", "", ""),
        Value("usage.outcomes:no_such_name", 0),
    ):
        with pytest.raises(Misplaced):
            words.plant(monkeypatch)
