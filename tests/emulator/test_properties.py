"""Random histories of usage: summaries and truth against a calculation written another way.

The model keeps a plain list of everything that was accepted and computes each answer from nothing, in fractions.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stripe_emulator import Emulator, Request
from stripe_emulator.core.additive_book import AdditiveBook
from stripe_emulator.core.billing.periods import period_at
from stripe_emulator.core.entries import Entry
from stripe_emulator.core.truth import Truth

from .conftest import NOW

pytestmark = pytest.mark.unit
MINUTE, HOUR, DAY = 60, 3600, 86_400
HEADERS = {"authorization": "Bearer sk_test_x"}
WINDOWS = {None: None, "hour": HOUR, "day": DAY}


@dataclass
class Known:
    """One accepted event, as the model remembers it."""

    name: str
    at: int
    value: Fraction
    received: int
    order: int
    counts_from: int
    counts_until: float = float("inf")
    cancelled: bool = False


class Model:
    """A meter and one customer, by the rules as the fact sheet states them."""

    def __init__(self, formula, window, lag):
        self.formula, self.window, self.lag = formula, WINDOWS[window], lag
        self.events: list[Known] = []

    def send(self, now, name, at, value) -> bool:
        if not now - 35 * DAY <= at <= now + 5 * MINUTE:
            return False
        if any(e.name == name and now - e.received < DAY for e in self.events):
            return False
        self.events.append(Known(name, at, Fraction(value), now, len(self.events), now + self.lag))
        return True

    def cancel(self, now, name) -> bool:
        mine = [e for e in self.events if e.name == name]
        if not mine or mine[-1].cancelled or now - mine[-1].received >= DAY:
            return False
        event = mine[-1]
        event.cancelled = True
        event.counts_until = 0 if now < event.counts_from else now + self.lag
        return True

    def summary(self, now, start, end) -> Fraction:
        seen = [e for e in self.events if e.counts_from <= now < e.counts_until]
        if self.window:
            seen = [
                e
                for e in seen
                if all(
                    other.order <= e.order
                    for other in seen
                    if other.at // self.window == e.at // self.window
                )
            ]
        inside = [e for e in seen if start <= e.at < end]
        if self.formula == "sum":
            return sum((e.value for e in inside), Fraction(0))
        if self.formula == "count":
            return Fraction(len(inside))
        return max(inside, key=lambda e: (e.at, e.order)).value if inside else Fraction(0)

    def cells(self) -> dict[int, tuple[int, Fraction]]:
        found: dict[int, tuple[int, Fraction]] = {}
        for event in self.events:
            count, total = found.get(event.at // HOUR * HOUR, (0, Fraction(0)))
            standing = not event.cancelled
            found[event.at // HOUR * HOUR] = (count + standing, total + event.value * standing)
        return found


class Account:
    """The emulator with the same meter and customer, spoken to in bytes."""

    def __init__(self, formula, window, lag):
        self.emulator = Emulator(now=lambda: NOW)
        self.emulator.clock.freeze(NOW)
        self.emulator.settings.change(settle_lag_seconds=lag)
        meter = {"display_name": "x", "event_name": "x", "default_aggregation[formula]": formula}
        if window:
            meter["event_time_window"] = window
        self.meter = self.post("/v1/billing/meters", meter)[1]["id"]
        self.customer = self.post("/v1/customers", {})[1]["id"]

    def post(self, path, params):
        reply = self.emulator.handle(
            Request("POST", path, headers=HEADERS, body=urlencode(params).encode())
        )
        return reply.status, json.loads(reply.body)

    def send(self, name, at, value) -> bool:
        params = {
            "event_name": "x",
            "identifier": name,
            "timestamp": at,
            "payload[value]": value,
            "payload[stripe_customer_id]": self.customer,
        }
        return self.post("/v1/billing/meter_events", params)[0] == 200

    def cancel(self, name) -> bool:
        params = {"event_name": "x", "type": "cancel", "cancel[identifier]": name}
        return self.post("/v1/billing/meter_event_adjustments", params)[0] == 200

    def summaries(self, start, end, grouping=None):
        asked = {"customer": self.customer, "start_time": start, "end_time": end, "limit": 100}
        if grouping:
            asked["value_grouping_window"] = grouping
        path = f"/v1/billing/meters/{self.meter}/event_summaries"
        found = []
        while True:
            reply = self.emulator.handle(Request("GET", path, urlencode(asked), HEADERS))
            page = json.loads(reply.body)
            found += page["data"]
            if not page["has_more"]:
                return [(i["start_time"], i["end_time"], i["aggregated_value"]) for i in found]
            asked["starting_after"] = page["data"][-1]["id"]


values = st.one_of(
    st.integers(-(10**15) + 1, 10**15 - 1).map(str),
    st.tuples(st.integers(-(10**6), 10**6), st.integers(1, 6)).map(
        lambda pair: (
            f"{'-' if pair[0] < 0 else ''}{abs(pair[0]) // 10 ** pair[1]}.{abs(pair[0]) % 10 ** pair[1]:0{pair[1]}d}"
        )
    ),
)
near_edges = st.tuples(
    st.sampled_from(
        [0, HOUR, -HOUR, DAY - NOW % DAY, -(NOW % DAY), -35 * DAY, -3 * DAY, 5 * MINUTE]
    ),
    st.integers(-90, 90),
).map(sum)
offsets = st.one_of(near_edges, st.integers(-36 * DAY, 10 * MINUTE), st.integers(-2 * HOUR, 0))
names = st.integers(0, 12).map(lambda number: f"id{number}")
steps = st.one_of(
    st.tuples(st.just("send"), names, offsets, values),
    st.tuples(st.just("send"), names, offsets, values),
    st.tuples(st.just("cancel"), names),
    st.tuples(st.just("advance"), st.one_of(st.integers(0, 200), st.integers(0, 2 * DAY))),
    st.tuples(st.just("ask"), st.integers(-3 * DAY, DAY), st.integers(1, 4 * DAY)),
)


@settings(max_examples=200, deadline=None)
@given(
    formula=st.sampled_from(["sum", "count", "last"]),
    window=st.sampled_from([None, "hour", "day"]),
    lag=st.sampled_from([0, 0, 61, 2 * HOUR]),
    history=st.lists(steps, max_size=40),
)
def test_summaries_equal_an_independent_calculation(formula, window, lag, history):
    account, model = Account(formula, window, lag), Model(formula, window, lag)
    now = NOW
    for step in history:
        if step[0] == "send":
            _, name, offset, value = step
            assert account.send(name, now + offset, value) == model.send(
                now, name, now + offset, value
            )
        elif step[0] == "cancel":
            assert account.cancel(step[1]) == model.cancel(now, step[1])
        elif step[0] == "advance":
            now += step[1]
            account.emulator.clock.advance(step[1])
        else:
            start = (now + step[1]) // MINUTE * MINUTE
            compare(account, model, now, start, start + -(-step[2] // MINUTE) * MINUTE, None)
    first, last = (NOW - 37 * DAY) // DAY * DAY, (now + 2 * DAY) // DAY * DAY
    for moment in (now, now + lag):
        account.emulator.clock.set(moment, frozen=True)
        compare(account, model, moment, first, last, None)
        compare(account, model, moment, first, last, "day")
        compare(account, model, moment, last - 6 * DAY, last, "hour")
    compare_truth(account, model)


def compare(account, model, now, start, end, grouping):
    width = {None: end - start, "hour": HOUR, "day": DAY}[grouping]
    expected = [
        (at, at + width, float(model.summary(now, at, at + width)))
        for at in range(end - width, start - 1, -width)
    ]
    assert account.summaries(start, end, grouping) == expected


def compare_truth(account, model):
    truth = account.emulator.truth.as_dict()
    found = {cell["hour"]: (cell["count"], Fraction(cell["sum"])) for cell in truth["cells"]}
    if model.formula == "count":
        found = {hour: count for hour, (count, _) in found.items()}
        assert found == {hour: count for hour, (count, _) in model.cells().items()}
    else:
        assert found == model.cells()
    assert Truth.folded(account.emulator.arrivals).as_dict() == truth


@settings(max_examples=300, deadline=None)
@given(
    anchor=st.integers(1_500_000_000, 2_000_000_000),
    interval=st.sampled_from(["day", "week", "month", "year"]),
    count=st.integers(1, 6),
    offset=st.integers(-3 * 365 * DAY, 3 * 365 * DAY),
)
def test_periods_tile_time_and_keep_the_anchors_day(anchor, interval, count, offset):
    start, end = period_at(anchor, interval, count, anchor + offset)

    assert start <= anchor + offset < end
    assert period_at(anchor, interval, count, end)[0] == end
    assert period_at(anchor, interval, count, start - 1)[1] == start
    assert period_at(anchor, interval, count, anchor)[0] == anchor
    first, begin = (datetime.fromtimestamp(each, UTC) for each in (anchor, start))
    if interval in {"month", "year"}:
        tomorrow = datetime.fromtimestamp(start + DAY, UTC)
        assert begin.day == first.day or (begin.day < first.day and tomorrow.month != begin.month)
    assert begin.time() == first.time()


@settings(max_examples=200, deadline=None)
@given(
    cuts=st.tuples(st.integers(0, 3 * HOUR), st.integers(0, 3 * HOUR)).map(sorted),
    moments=st.lists(st.tuples(st.integers(-HOUR, 4 * HOUR), st.integers(1, 9)), max_size=60),
    taken_back=st.sets(st.integers(0, 59)),
)
def test_periods_are_cut_by_the_second(cuts, moments, taken_back):
    book = AdditiveBook("sum")
    start, end = (NOW + cut for cut in cuts)
    book.cut(start)
    book.cut(end)
    entries = [
        Entry(NOW + offset, order, Decimal(value)) for order, (offset, value) in enumerate(moments)
    ]
    for entry in entries:
        book.add(entry)
    for order in taken_back & set(range(len(entries))):
        book.remove(entries[order])

    inside = [
        e.value for e in entries if start <= e.timestamp < end and e.sequence not in taken_back
    ]

    assert book.aggregate(start, end) == sum(inside)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(names, values), max_size=60), st.integers(0, 2**32))
def test_lost_answers_and_repeats_count_everything_once(sent, seed):
    """A client that repeats every identifier until it hears of it counts each first value exactly once."""
    account = Account("sum", None, 0)
    path = "/v1/billing/meter_events"
    for kind in ("answer_lost", "drop_before", "500_after", "500_before", "503"):
        account.emulator.faults.switch_on(kind, path=path, probability=0.25, seed=seed)
    first: dict[str, Fraction] = {}
    for name, value in sent:
        first.setdefault(name, Fraction(value))
        for _ in range(200):
            params = {
                "event_name": "x",
                "identifier": name,
                "timestamp": NOW,
                "payload[value]": value,
            }
            params["payload[stripe_customer_id]"] = account.customer
            reply = account.emulator.handle(
                Request("POST", path, headers=HEADERS, body=urlencode(params).encode())
            )
            if reply.fate.value == "delivered" and reply.status in {200, 400}:
                break
    total = account.emulator.truth.as_dict()["event_names"].get("x", {"sum": "0"})["sum"]

    assert Fraction(total) == sum(first.values(), Fraction(0))


def test_minute_half_of_whose_seconds_are_known_is_not_cut():
    """Its first event is from before the cut was known, so the minute stays whole and in one range."""
    book = AdditiveBook("sum")
    book.add(Entry(NOW + 10, 1, Decimal(1)))
    for index in range(20):
        book.add(Entry(NOW + (index + 1) * MINUTE, index + 2, Decimal(0)))
    book.cut(NOW + 30)
    book.add(Entry(NOW + 40, 30, Decimal(2)))

    halves = [book.aggregate(NOW - HOUR, NOW + 30), book.aggregate(NOW + 30, NOW + HOUR)]

    assert halves == [3, 0]
