"""What the benchmark calls a success."""

import pytest

from stripe_emulator.bench import reached

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("case", "change", "good"),
    [
        ("v1", {}, True),
        ("v1", {"events_per_second": 999}, False),
        ("stream", {"events_per_second": 9_999}, False),
        ("memory", {"growth_after_first_tenth": 16}, True),
        ("memory", {"growth_after_first_tenth": 16.1}, False),
        ("books", {"equal": False}, False),
    ],
)
def test_goals_are_speed_flat_memory_and_right_books(case, change, good):
    results = [
        {"case": "v1", "events_per_second": 1_000},
        {"case": "stream", "events_per_second": 10_000},
        {"case": "memory", "growth_after_first_tenth": 0.5},
        {"case": "books", "equal": True},
    ]

    assert reached([each | (change if each["case"] == case else {}) for each in results]) is good
    assert reached([each for each in results if each["case"] != "memory"]) is True
