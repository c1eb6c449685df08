"""What `record()` is given becomes one line of JSON at once, or a named problem, and never an error."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meterkeeper_client import Meterkeeper
from meterkeeper_client.events import InvalidEvent, event_line, instant

from tests.client.conftest import KEY, is_balanced

pytestmark = pytest.mark.unit

NOW = "2026-11-20T12:00:00+00:00"


def line(data, type="llm.call", customer="acme", id="e-1", time=NOW):  # noqa: A002
    return event_line(type, customer, data, id, time)


def test_an_event_is_a_cloud_event_on_one_line():
    made = line({"text": 'two\nlines, "quoted", and ü', "n": 3, "cost": Decimal("0.10")})

    assert b"\n" not in made
    assert json.loads(made) == {
        "specversion": "1.0",
        "source": "meterkeeper-client",
        "id": "e-1",
        "type": "llm.call",
        "subject": "acme",
        "time": NOW,
        "data": {"text": 'two\nlines, "quoted", and ü', "n": 3, "cost": "0.10"},
    }


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"type": ""}, "type must be text of 1 to 200 characters"),
        ({"customer": 7}, "customer must be text of 1 to 200 characters"),
        ({"id": "x" * 201}, "id must be text of 1 to 200 characters"),
        ({"data": ["a"]}, "data must be a mapping"),
        ({"data": {"a": {1}}}, "data holds a set, which JSON has not"),
        ({"data": {"a": Decimal("NaN")}}, "data holds a decimal that is no quantity"),
        ({"data": {"a": Decimal("1e99999")}}, "data holds a decimal that is no quantity"),
        ({"data": {"a": "x" * 8_185}}, "data must be at most 8192 bytes as JSON"),
        ({"data": {"a": "ü" * 4_093}}, "data must be at most 8192 bytes as JSON"),
    ],
)
def test_an_event_that_the_server_could_not_take_is_refused_with_its_reason(changed, reason):
    with pytest.raises(InvalidEvent) as caught:
        line(**{"data": {}} | changed)

    assert str(caught.value) == reason


@pytest.mark.parametrize("text", ["x" * 8_184, "ü" * 4_092])
def test_data_may_fill_the_limit(text):
    assert json.loads(line({"a": text}))["data"] == {"a": text}


def test_time_keeps_its_offset_and_is_now_without_one_given():
    given_at = datetime(2026, 11, 20, 14, tzinfo=timezone(timedelta(hours=2)))

    assert instant(given_at, 0) == "2026-11-20T14:00:00+02:00"
    assert instant("2026-11-20T12:00:00Z", 0) == "2026-11-20T12:00:00Z"
    second = 1_795_000_000
    for rest, text in [(0, "000000"), (123_456_789, "123456"), (999_999_999, "999999")]:
        for later in (0, 1, 0):
            expected = datetime.fromtimestamp(second + later, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
            given_back = instant(None, (second + later) * 10**9 + rest)
            assert given_back == f"{expected}{text}Z"


def test_time_without_an_offset_is_refused():
    with pytest.raises(InvalidEvent, match="offset"):
        instant(datetime(2026, 11, 20), 0)  # noqa: DTZ001 - the point


class Evil(Mapping):
    """It looks like a mapping until it is read."""

    def __getitem__(self, key):
        raise RuntimeError("no")

    def __iter__(self):
        raise ZeroDivisionError

    def __len__(self):
        raise OSError


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("no text")


class WithoutText(dict):
    def items(self):
        raise Unspeakable


MIDNIGHT = datetime(2026, 1, 1)  # noqa: DTZ001 - the point
CYCLE = {}
CYCLE["self"] = CYCLE
DEEP = {}
for _ in range(5_000):
    DEEP = {"d": DEEP}
ODD = [object(), b"bytes", {1, 2}, Evil(), CYCLE, DEEP, WithoutText(a=1), float("nan")]
ODD += [10**5_000, Decimal("sNaN"), "\ud800", "\0", "", "x" * 9_000, {("a", 1): 2}, MIDNIGHT]
# By number, because some cannot even be shown.
SIMPLE = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
KEYS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ANYTHING = st.recursive(
    SIMPLE | st.integers(0, len(ODD) - 1).map(lambda number: ODD[number]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def lonely():
    """A client whose server does not exist."""
    client = Meterkeeper("http://127.0.0.1:9", KEY, queue_events=50)
    yield client
    client.close(0)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(type=ANYTHING, customer=ANYTHING, data=ANYTHING, id=ANYTHING, time=ANYTHING)
def test_record_never_raises_whatever_it_is_given(lonely, type, customer, data, id, time):  # noqa: A002
    before = lonely.stats().recorded

    returned = lonely.record(type, customer, data, id=id, time=time)

    assert isinstance(returned, str)
    stats = lonely.stats()
    assert stats.recorded == before + 1
    assert is_balanced(stats)
    assert lonely.record("llm.call", "acme", data if isinstance(data, dict) else {"a": data})
