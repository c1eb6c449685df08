"""F08, F12: whatever is sent, nothing fails, the answer is true, and no neighbour is lost."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.hostile import bodies, positions, shop
from tests.hostile.callers import InProcess
from tests.hostile.oracle import EVENTS

pytestmark = pytest.mark.integration

BODIES = 250


@pytest.fixture
def caller(db) -> InProcess:
    shop.make_catalogue()
    return InProcess()


@settings(
    max_examples=BODIES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(request=bodies.requests())
def test_any_body_is_answered_truly(caller, request):
    shop.examine(caller, request)


def test_a_bad_event_anywhere_leaves_its_neighbours_stored(caller):
    """F12: 28 of the thousand places, every kind of badness; `make hostile` takes them all."""
    for position in range(0, EVENTS, 37):
        positions.check(caller, position)
