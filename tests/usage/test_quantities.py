"""Reported values become whole numbers of the smallest unit, or are refused with a reason."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.quantities import MAX_VALUE, InvalidQuantity, read_quantity, split

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("value", "scale", "expected"),
    [
        (0, 0, 0),
        (7, 0, 7),
        ("7", 0, 7),
        ("7.0", 0, 7),
        (Decimal("7.00"), 0, 7),
        (Decimal("1E+3"), 0, 1000),
        (Decimal("0.125"), 3, 125),
        ("1.5", 2, 150),
        (2, 3, 2000),
        (MAX_VALUE, 0, MAX_VALUE),
    ],
)
def test_quantity_is_read_exactly(value, scale, expected):
    assert read_quantity(value, scale=scale) == expected


@pytest.mark.parametrize(
    ("value", "scale", "reason"),
    [
        (True, 0, "must be a number"),
        (False, 0, "must be a number"),
        (None, 0, "must be a number"),
        ([], 0, "must be a number"),
        ("", 0, "must be a number"),
        ("NaN", 0, "must be a number"),
        ("Infinity", 0, "must be a number"),
        ("1e3", 0, "must be a number"),
        ("１２", 0, "must be a number"),  # noqa: RUF001 - digits of another script are the point
        (" 5", 0, "must be a number"),
        ("5\n", 0, "must be a number"),
        ("123456789.00000000000000000001", 0, "must be a whole number"),
        (Decimal("0." + "9" * 40), 0, "must be a whole number"),
        (Decimal("1." + "0" * 8_000 + "1"), 3, "must have at most 3 decimals"),
        (Decimal("NaN"), 0, "must be a finite number"),
        (Decimal("1e400"), 0, f"must be at most {MAX_VALUE} of the meter's smallest unit"),
        (MAX_VALUE + 1, 0, f"must be at most {MAX_VALUE} of the meter's smallest unit"),
        (MAX_VALUE, 1, f"must be at most {MAX_VALUE} of the meter's smallest unit"),
        (-1, 0, "must not be negative"),
        (Decimal("-0.5"), 1, "must not be negative"),
        (Decimal("0.5"), 0, "must be a whole number"),
        (Decimal("1e-400"), 0, "must be a whole number"),
        ("0.0001", 3, "must have at most 3 decimals"),
    ],
)
def test_nonsense_is_refused_with_its_reason(value, scale, reason):
    with pytest.raises(InvalidQuantity) as refused:
        read_quantity(value, scale=scale)

    assert str(refused.value) == reason


@given(st.integers(0, MAX_VALUE), st.integers(0, 6))
def test_a_number_and_its_text_mean_the_same(smallest_units, scale):
    written = Decimal(smallest_units).scaleb(-scale)

    assert read_quantity(written, scale=scale) == smallest_units
    assert read_quantity(f"{written:f}", scale=scale) == smallest_units


@given(st.integers(-(10**19), 10**19))
def test_split_keeps_the_sum_in_parts_stripe_takes(total):
    parts = list(split(Decimal(total)))

    assert sum(parts) == total
    assert all(0 < part.copy_sign(1) <= MAX_VALUE for part in parts)
    assert all((part < 0) == (total < 0) for part in parts)
    assert len(parts) == -(-abs(total) // MAX_VALUE)


def test_split_of_a_negative_total_is_the_split_of_its_opposite():
    assert list(split(Decimal(-MAX_VALUE - 3))) == [-MAX_VALUE, -3]
    assert list(split(Decimal(0))) == list(split(Decimal("-0"))) == []
