"""Prices of every kind, drawn by chance."""

from __future__ import annotations

from random import Random

from tests.emulator.histories.story import ONE, Meter, Price, Tier

FORMULAS = ("sum", "sum", "sum", "count", "last")
INTERVALS = (("month", 1),) * 6 + (
    ("month", 2), ("month", 3), ("day", 1), ("day", 3), ("week", 1), ("week", 2), ("year", 1),
)  # fmt: skip
MOST_PERIODS = 15
KINDS = ("whole", "decimal", "half", "package", "package", "graduated", "graduated", "volume")


def beside(interval: str, count: int) -> list[tuple[str, int]]:
    """Return the intervals that an item can have beside this one without making dozens of invoices."""
    days = {"day": 1, "week": 7, "month": 30, "year": 365}
    return [
        (other, times)
        for other, times in INTERVALS
        if days[other] * times * MOST_PERIODS >= days[interval] * count
    ]


def meters(draw: Random) -> tuple[Meter, ...]:
    return tuple(Meter(f"m{i}", draw.choice(FORMULAS)) for i in range(draw.choice((1, 1, 2))))


def price(draw: Random, name: str, meter: Meter | None, interval: str, count: int) -> Price:
    kind = draw.choice(KINDS)
    if kind == "package":
        divide_by, round_up = draw.choice((2, 7, 10, 1000)), draw.random() < 0.5
        return Price(
            name, meter, interval, count, _unit(draw), divide_by=divide_by, round_up=round_up
        )
    if kind in {"graduated", "volume"}:
        return Price(name, meter, interval, count, tiers=_tiers(draw), volume=kind == "volume")
    if kind == "whole":
        return Price(name, meter, interval, count, draw.randrange(500) * ONE)
    if kind == "half":
        # Odd quantities end on a half, where the way of rounding shows.
        return Price(name, meter, interval, count, ONE // 2 + draw.randrange(3) * ONE)
    return Price(name, meter, interval, count, _unit(draw))


def _unit(draw: Random) -> int:
    """Return an amount with up to twelve places."""
    places = draw.choice((0, 1, 2, 3, 6, 12))
    return draw.randrange(1, 10 ** min(places + 2, 13)) * ONE // 10**places


def _tiers(draw: Random) -> tuple[Tier, ...]:
    tops: list[int | None] = sorted(draw.sample((1, 2, 5, 10, 11, 100, 1000), draw.randrange(3)))
    return tuple(_tier(draw, top) for top in (*tops, None))


def _tier(draw: Random, top: int | None) -> Tier:
    has = draw.choice(("unit", "unit", "flat", "both"))
    flat = draw.choice((100 * ONE, ONE // 2, 25 * ONE + ONE // 4))
    return Tier(top, _unit(draw) if has != "flat" else None, flat if has != "unit" else None)
