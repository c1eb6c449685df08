"""The judge of how fast something arrived, on arrivals made by hand."""

from __future__ import annotations

import pytest

from tests.bench import pace

pytestmark = pytest.mark.unit


def test_busiest_span_leaves_its_start_out():
    moments = [(0.0, 5), (0.5, 1), (1.0, 7), (1.4, 1)]

    assert pace.busiest(moments) == 9
    assert pace.busiest(moments, seconds=0.25) == 7
    assert pace.busiest([]) == 0


def test_average_leaves_the_first_arrival_out():
    assert pace.average([(10.0, 500), (11.0, 100), (12.0, 100)]) == 100.0
    assert pace.average([(10.0, 500)]) == 0.0


def test_a_full_bucket_and_its_refill_are_not_overdrawn():
    moments = [(0.0, 10), (1.0, 5), (2.0, 5)]

    assert pace.overdrawn(moments, rate=5, burst=10) == 0.0


def test_overdrawn_is_the_worst_debt():
    moments = [(0.0, 10), (1.0, 8), (9.0, 11)]

    assert pace.overdrawn(moments, rate=5, burst=10) == 3.0


def test_a_bucket_holds_no_more_than_its_burst():
    assert pace.overdrawn([(0.0, 1), (100.0, 11)], rate=5, burst=10) == 1.0
