"""What a quantity costs, by hand and by laws that hold for all rules."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.charges import Part, parts

pytestmark = pytest.mark.unit


def unit(amount):
    return {"unit_amount_decimal": amount}


def package(amount, size, way):
    return unit(amount) | {"transform_quantity": {"divide_by": size, "round": way}}


def tiers(mode, *rows):
    return {
        "tiers_mode": mode,
        "tiers": [
            {"up_to": up_to, "unit_amount_decimal": each, "flat_amount_decimal": flat}
            for up_to, each, flat in rows
        ],
    }


GRADUATED = tiers("graduated", (100, "0", "500"), (1_000, "2", "0"), ("inf", "0.5", "30"))
VOLUME = tiers("volume", (100, "3", "0"), (1_000, "2", "7"), ("inf", "0.5", "0"))


def amounts(rule, quantity):
    return [part.amount for part in parts(rule, Decimal(quantity))]


@pytest.mark.parametrize(
    ("rule", "quantity", "expected"),
    [
        (unit("4"), 0, [0]),
        (unit("4"), 3, [12]),
        # $0.000003 a token: 1,500 tokens are 0.45 cents.
        (unit("0.0003"), 1_500, [0]),
        (unit("0.0003"), 1_666, [0]),
        (unit("0.0003"), 1_667, [1]),
        # Halves go up, once, on the whole of it.
        (unit("0.5"), 1, [1]),
        (unit("0.5"), 3, [2]),
        (unit("2.5"), 1, [3]),
        (unit("0.000000000001"), 499_999_999_999, [0]),
        (unit("0.000000000001"), 500_000_000_000, [1]),
        (package("4", 1_000, "up"), 0, [0]),
        (package("4", 1_000, "up"), 1, [4]),
        (package("4", 1_000, "up"), 1_000, [4]),
        (package("4", 1_000, "up"), 1_001, [8]),
        (package("4", 1_000, "down"), 999, [0]),
        (package("4", 1_000, "down"), 1_999, [4]),
        (package("0.5", 10, "up"), 21, [2]),
        (GRADUATED, 0, [500]),
        (GRADUATED, 100, [500]),
        (GRADUATED, 101, [500, 2]),
        (GRADUATED, 1_000, [500, 1_800]),
        (GRADUATED, 1_001, [500, 1_800, 31]),
        (GRADUATED, 1_002, [500, 1_800, 31]),
        (VOLUME, 0, [0]),
        (VOLUME, 100, [300]),
        (VOLUME, 101, [209]),
        (VOLUME, 1_000, [2_007]),
        (VOLUME, 1_001, [501]),
    ],
)
def test_a_quantity_costs_what_it_does_by_hand(rule, quantity, expected):
    assert amounts(rule, quantity) == expected


@pytest.mark.parametrize("rule", [unit("4"), package("4", 10, "up"), GRADUATED, VOLUME])
def test_a_negative_total_counts_as_none(rule):
    assert parts(rule, Decimal(-5)) == parts(rule, Decimal(0))


def test_a_part_tells_what_is_multiplied():
    assert parts(package("4", 1_000, "up"), Decimal(2_500)) == (
        Part(quantity=Decimal(3), unit_amount=Decimal(4), flat_amount=Decimal(0)),
    )
    assert parts(GRADUATED, Decimal(150)) == (
        Part(quantity=Decimal(100), unit_amount=Decimal(0), flat_amount=Decimal(500)),
        Part(quantity=Decimal(50), unit_amount=Decimal(2), flat_amount=Decimal(0)),
    )


def test_no_digit_is_dropped_before_rounding():
    # 35 digits: the default arithmetic keeps 28, and makes a half of .499999899999.
    quantity = Decimal(999_000_000_100_001)
    [part] = parts(unit("99999998.499999999999"), quantity)

    exact = Fraction(quantity) * Fraction("99999998.499999999999")
    assert part.amount == int(exact) < exact < int(exact) + Fraction(1, 2)


SIZES = st.integers(min_value=1, max_value=10_000)
QUANTITIES = st.integers(min_value=0, max_value=10**15 - 1)
AMOUNTS = st.decimals(min_value=0, max_value=99_999_999, places=12).map(str)


@st.composite
def tiered(draw, mode):
    limits = sorted(draw(st.sets(st.integers(1, 10**9), min_size=1, max_size=4)))
    return tiers(mode, *((limit, draw(AMOUNTS), draw(AMOUNTS)) for limit in [*limits, "inf"]))


RULES = st.one_of(
    AMOUNTS.map(unit),
    st.builds(package, AMOUNTS, SIZES, st.sampled_from(["up", "down"])),
    tiered("graduated"),
    tiered("volume"),
)


@given(RULES, QUANTITIES)
def test_each_line_is_the_nearest_whole_minor_unit(rule, quantity):
    for part in parts(rule, Decimal(quantity)):
        exact = Fraction(part.quantity) * Fraction(part.unit_amount) + Fraction(part.flat_amount)
        assert -Fraction(1, 2) <= exact - part.amount < Fraction(1, 2)


@given(tiered("graduated"), QUANTITIES)
def test_graduated_parts_share_the_quantity_out(rule, quantity):
    found = parts(rule, Decimal(quantity))

    assert sum(part.quantity for part in found) == quantity
    # All tiers before the last one reached are full.
    widths = [tier["up_to"] for tier in rule["tiers"]][: len(found) - 1]
    filled = [int(sum(part.quantity for part in found[: n + 1])) for n in range(len(widths))]
    assert filled == widths


@given(tiered("volume"), QUANTITIES)
def test_one_volume_tier_prices_all(rule, quantity):
    [part] = parts(rule, Decimal(quantity))

    reached = [
        tier for tier in rule["tiers"] if tier["up_to"] == "inf" or quantity <= tier["up_to"]
    ]
    assert (part.quantity, str(part.unit_amount)) == (quantity, reached[0]["unit_amount_decimal"])


@given(AMOUNTS, SIZES, QUANTITIES)
def test_packages_cover_the_quantity_and_no_more(amount, size, quantity):
    [up] = parts(package(amount, size, "up"), Decimal(quantity))
    [down] = parts(package(amount, size, "down"), Decimal(quantity))

    assert (up.quantity - 1) * size < quantity <= up.quantity * size
    assert down.quantity * size <= quantity < (down.quantity + 1) * size


@given(st.one_of(AMOUNTS.map(unit), tiered("graduated")), QUANTITIES, QUANTITIES)
def test_more_usage_never_costs_less(rule, one, other):
    less, more = sorted([one, other])

    assert sum(amounts(rule, less)) <= sum(amounts(rule, more))
