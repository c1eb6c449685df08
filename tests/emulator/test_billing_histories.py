"""Random histories of subscriptions: every invoice and preview against a calculation written another way.

`make billing-histories` tells more of them, `make billing-histories SEED=k` one again.
"""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from random import Random

import pytest

from stripe_emulator.core.billing.periods import period_at

from .histories import charging, expecting
from .histories.charging import charged
from .histories.day_walk import DAY, boundaries, next_boundary
from .histories.drawing import story
from .histories.expecting import Subscriber
from .histories.fates import Fate, fate
from .histories.judging import differences, judged, report
from .histories.playing import Stage
from .histories.story import ONE, Price, Send, Tier

pytestmark = pytest.mark.unit
HISTORIES = 300
TOGETHER = 50


@pytest.mark.parametrize("first", range(0, HISTORIES, TOGETHER))
def test_invoices_and_previews_of_random_histories_are_as_computed_another_way(first):
    for seed in range(first, first + TOGETHER):
        found = differences(seed)
        assert not found, report(seed, found)


def test_histories_hold_what_is_hard():
    """Every kind of step, price and fate of an event comes up often, or the test above proves little."""
    steps, fates, at_the_edge = Counter(), Counter(), Counter()
    for seed in range(HISTORIES):
        told = story(seed)
        steps.update(type(step).__name__ for step in told.steps)
        for who in {step.who for step in told.steps}:
            life = Subscriber(told, who)
            for item, price in enumerate(life.begun.prices):
                for place, sent in life.steps:
                    if isinstance(sent, Send) and sent.meter == price.meter:
                        fates[fate(life, item, place, sent, told.end)] += 1
                        starts = {start for start, _ in life.periods(item, told.end)}
                        at_the_edge[sent.timestamp in starts, sent.timestamp + 1 in starts] += 1

    assert set(steps) == {
        "Subscribe", "Send", "Void", "Reprice", "Requantify", "Plan", "Unplan", "CancelNow",
        "EndTrial", "Preview", "Look", "Restart",
    }  # fmt: skip
    assert min(steps.values()) >= 10
    assert set(fates) == set(Fate)
    assert min(fates.values()) >= 10
    assert min(at_the_edge[True, False], at_the_edge[False, True]) >= 50


def half_even(exact):
    whole, rest = divmod(exact, ONE * ONE)
    return whole + (2 * rest > ONE * ONE or (2 * rest == ONE * ONE and whole % 2))


def with_the_end(of):
    return lambda self, meter, start, end, *rest: of(self, meter, start, end + 1, *rest)


def without_the_start(of):
    return lambda self, meter, start, *rest: of(self, meter, start + 1, *rest)


def latest_price_for_all(of):
    def stretches(self, item, start, end):
        return [(start, end, of(self, item, start, end)[-1][2])]

    return stretches


def whenever_it_came(of):
    return lambda self, received, sent, by, place: of(self, received, sent, by + 2 * DAY, place)


def with_trials(of):
    return lambda self, item: min(of(self, item), self.begun.start)


def never_negative(of):
    return lambda price, quantity: of(price, abs(quantity))


def always_unbilled(of):
    return lambda self: (of(self)[0], False)


def always_up(of):
    return lambda price, quantity: of(replace(price, round_up=True), quantity)


MISTAKES = {
    "halves go to the even": (charging, "half_up", lambda _: half_even),
    "the end belongs to the period": (Subscriber, "_used", with_the_end),
    "the start does not belong to it": (Subscriber, "_used", without_the_start),
    "the last price is for all usage": (Subscriber, "_stretches", latest_price_for_all),
    "late usage is billed": (Subscriber, "counts", whenever_it_came),
    "usage in a trial is billed": (Subscriber, "first", with_trials),
    "corrections are added": (expecting, "charged", never_negative),
    "every last period is lost": (Subscriber, "_end", always_unbilled),
    "packs begun are always full": (expecting, "charged", always_up),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_histories_tell_a_mistake_from_the_right_calculation(mistake, monkeypatch, record_property):
    """The mistakes are put into this side, where they show as in the other: each tells itself within 100 histories."""
    owner, name, wrong = MISTAKES[mistake]
    for seed in range(100):
        told = story(seed)
        stage = Stage(told).run()
        with monkeypatch.context() as planting:
            planting.setattr(owner, name, wrong(getattr(owner, name)))
            found = judged(told, stage)
        if found:
            assert judged(told, stage) == []
            record_property("seed", seed)
            return
    pytest.fail("no history tells this mistake")


def test_a_seed_tells_the_same_history_again():
    assert story(7) == story(7)
    assert story(7).steps != story(8).steps


INTERVALS = [("day", 1), ("day", 10), ("week", 1), ("week", 3), ("month", 1), ("month", 2), ("month", 3),
             ("month", 6), ("year", 1), ("year", 2), ("year", 3)]  # fmt: skip


def follows_the_walk(anchor: int, interval: str, count: int, periods: int) -> None:
    """Ask for the period at the first, the last and another second of each period of a walk from the anchor."""
    start = anchor
    for number in range(periods):
        end = next_boundary(anchor, interval, count, start)
        for moment in (start, end - 1, start + (end - start) * (number + 1) // (periods + 2)):
            assert period_at(anchor, interval, count, moment) == (start, end)
        start = end


@pytest.mark.parametrize(("interval", "count"), INTERVALS)
def test_periods_of_random_anchors_follow_a_walk_day_by_day(interval, count):
    draw = Random(f"{interval} {count}")
    for _ in range(100):
        anchor = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) + draw.randrange(6 * 366 * DAY)
        follows_the_walk(anchor, interval, count, 5)


@pytest.mark.parametrize(("interval", "count"), INTERVALS)
@pytest.mark.parametrize("day", [28, 29, 30, 31])
def test_periods_anchored_at_the_end_of_any_month_follow_the_walk(day, interval, count):
    """Five years from each, so a leap day is among them; 2100 would be none."""
    for year in (2027, 2028):
        for month in range(1, 13):
            anchor = datetime(year, month, 1, 23, 59, 59, tzinfo=UTC) + timedelta(days=day - 1)
            if anchor.month == month:
                years = {"day": 365, "week": 52, "month": 12, "year": 1}[interval]
                periods = min(5 * years // count + 1, 70)
                follows_the_walk(int(anchor.timestamp()), interval, count, periods)


def test_the_walk_itself_knows_the_calendar():
    """By hand: 31 Jan goes to the ends of the short months and back to the 31st; 29 Feb to the 28th and back."""

    def days(anchor, *recurring, until):
        begin = int(datetime(*anchor, 12, 0, 7, tzinfo=UTC).timestamp())
        end = int(datetime(*until, tzinfo=UTC).timestamp())
        found = boundaries(begin, *recurring, begin, end)
        assert {each % DAY for each in found} <= {12 * 3600 + 7}
        return [datetime.fromtimestamp(each, UTC).strftime("%y-%m-%d") for each in found]

    assert days((2027, 1, 31), "month", 1, until=(2027, 7, 1)) == [
        "27-02-28", "27-03-31", "27-04-30", "27-05-31", "27-06-30",
    ]  # fmt: skip
    assert days((2027, 12, 31), "month", 2, until=(2028, 7, 1)) == [
        "28-02-29",
        "28-04-30",
        "28-06-30",
    ]
    assert days((2028, 2, 29), "year", 1, until=(2033, 1, 1)) == [
        "29-02-28", "30-02-28", "31-02-28", "32-02-29",
    ]  # fmt: skip
    assert days((2026, 12, 30), "week", 2, until=(2027, 2, 1)) == ["27-01-13", "27-01-27"]


TIERS = (Tier(5, 7 * ONE, None), Tier(10, 65 * ONE // 10, 100 * ONE), Tier(None, 6 * ONE, None))


def money(amount: int, **price) -> Price:
    return Price("p", None, "month", 1, amount, **price)


@pytest.mark.parametrize(
    ("price", "quantity", "lines"),
    [
        (money(4 * ONE, divide_by=1000, round_up=True), "1001", [("2", 8)]),
        (money(4 * ONE, divide_by=1000), "1999", [("1", 4)]),
        (money(ONE * 4 // 1000), "1001", [("1001", 4)]),
        (money(ONE // 2), "1", [("1", 1)]),
        (money(ONE // 2), "5", [("5", 3)]),
        (money(ONE // 2), "0.999999", [("0.999999", 0)]),
        (money(ONE), "-3", [("0", 0)]),
        (money(0, tiers=TIERS), "0", [("0", 0)]),
        (money(0, tiers=TIERS), "5", [("5", 35)]),
        (money(0, tiers=TIERS), "5.5", [("5", 35), ("0.5", 103)]),
        (money(0, tiers=TIERS), "12", [("5", 35), ("5", 133), ("2", 12)]),
        (money(0, tiers=TIERS, volume=True), "5", [("5", 35)]),
        (money(0, tiers=TIERS, volume=True), "6", [("6", 139)]),
        (money(0, tiers=TIERS, volume=True), "12", [("12", 72)]),
    ],
)
def test_the_other_calculation_is_right_by_hand(price, quantity, lines):
    found = charged(price, int(Decimal(quantity) * ONE))

    assert [(Decimal(billed) / ONE, amount) for billed, amount in found] == [
        (Decimal(billed), amount) for billed, amount in lines
    ]


def test_halves_are_rounded_up_as_decimal_has_it():
    draw = Random(1)
    for _ in range(1000):
        unit, quantity = draw.randrange(10**13), draw.randrange(10**6) * ONE // 4
        exact = Decimal(unit) * Decimal(quantity) / ONE / ONE
        assert charged(money(unit), quantity)[0][1] == exact.quantize(Decimal(1), ROUND_HALF_UP)
