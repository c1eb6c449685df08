from __future__ import annotations

import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage import traffic
from usage.traffic import Call, Spread, Sums, Trace, TraceError

pytestmark = pytest.mark.unit

AZURE_TRACE = Path(__file__).resolve().parents[3] / "shared" / "traces" / "azure-llm-2023-code.csv"

THREE_CALLS = (
    b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    b"2023-11-16 18:17:03.9799600,4808,10\r\n"
    b"2023-11-16 18:17:04.0319609,3180,8\r\n"
    b"2023-11-16 18:17:04.0781490,110,27\r\n"
)


def test_trace_is_read_to_the_microsecond():
    trace = traffic.read_trace(content=THREE_CALLS)

    assert trace.calls == (
        Call(datetime(2023, 11, 16, 18, 17, 3, 979960, tzinfo=UTC), 4808, 0, 10),
        Call(datetime(2023, 11, 16, 18, 17, 4, 31960, tzinfo=UTC), 3180, 0, 8),
        Call(datetime(2023, 11, 16, 18, 17, 4, 78149, tzinfo=UTC), 110, 0, 27),
    )
    assert trace.first_at == trace.calls[0].occurred_at
    assert trace.last_at == trace.calls[2].occurred_at


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfTIMESTAMP, ContextTokens, GeneratedTokens\n2024-02-29 00:00:00, 1, 2\n",
        b"TIMESTAMP,ContextTokens,GeneratedTokens\n\n 2024-02-29T00:00:00.0000000Z ,1 ,2",
        b'"TIMESTAMP","ContextTokens","GeneratedTokens"\n"2024-02-29 00:00:00+00:00","1","2"\n',
    ],
    ids=["spaces", "no-last-newline", "quoted"],
)
def test_trace_is_read_in_its_variations(content):
    trace = traffic.read_trace(content=content)

    assert trace.calls == (Call(datetime(2024, 2, 29, tzinfo=UTC), 1, 0, 2),)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"ContextTokens", b"Tokens", "line 1, column 'Tokens': expected TIMESTAMP, "),
        (b",GeneratedTokens", b"", "line 1, column GeneratedTokens: expected TIMESTAMP, "),
        (b"4808", b"48o8", "line 2, column ContextTokens: '48o8' is no whole number"),
        (b"4808", b"-1", "line 2, column ContextTokens: '-1' is no whole number"),
        (b"4808", b"1.5", "line 2, column ContextTokens: '1.5' is no whole number"),
        (b"4808", b"9" * 5_000, "line 2, column ContextTokens: '999"),
        (b"4808", "٤".encode(), "line 2, column ContextTokens: '٤' is no whole number"),
        (b"3180", b"\xff", "line 3, column ContextTokens: '\ufffd' is no whole number"),
        (b",8\r", b"\r", "line 3, column GeneratedTokens: it is missing."),
        (b",8\r", b",8,9\r", "line 3, column 4: there are only 3."),
        (b",27\r", b",\r", "line 4, column GeneratedTokens: '' is no whole number"),
        (b"18:17:04.07", b"24:17:04.07", "line 4, column TIMESTAMP: '2023-11-16 24:17"),
        (b"2023-11-16 18:17:03", b"2023-02-29 18:17:03", "line 2, column TIMESTAMP: '2023-02-29"),
        (b"18:17:03.9799600", b"18:17:03.9799600+01:00", "line 2, column TIMESTAMP: '2023-11"),
        (THREE_CALLS[41:], b"", "line 2, column TIMESTAMP: there is no call"),
    ],
)
def test_malformed_trace_names_line_and_column(old, new, told):
    assert THREE_CALLS.count(old) >= 1

    with pytest.raises(TraceError) as refused:
        traffic.read_trace(content=THREE_CALLS.replace(old, new, 1))

    assert str(refused.value).startswith(told)


@given(st.binary(max_size=200))
def test_any_content_is_read_or_refused_with_its_place(content):
    try:
        trace = traffic.read_trace(content=b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + content)
    except TraceError:
        return
    assert len(trace.calls) >= 1


def test_azure_trace_keeps_its_sums():
    if not AZURE_TRACE.exists():
        pytest.skip("the recorded trace lies beside a working copy only")
    trace = traffic.read_trace(content=AZURE_TRACE.read_bytes())

    assert traffic.sums(trace=trace) == Sums(
        events=8_819, context_tokens=18_059_974, generated_tokens=245_896, cached_tokens=0
    )
    events = _events(trace, Spread(customers=25, seed=1))
    assert sum(event["data"]["total_tokens"] for event in events) == 18_059_974 + 245_896
    assert len({event["id"] for event in events}) == 8_819


def test_generated_traffic_is_identical_for_one_seed():
    first = traffic.generate_trace(events=2_000, seed=7)

    assert first == traffic.generate_trace(events=2_000, seed=7)
    assert first.digest != traffic.generate_trace(events=2_000, seed=8).digest


@given(events=st.integers(1, 300), seed=st.integers(0, 2**32))
def test_generated_traffic_stays_in_its_hour_and_is_sensible(events, seed):
    trace = traffic.generate_trace(events=events, seed=seed)

    assert len(trace.calls) == events
    times = [call.occurred_at for call in trace.calls]
    assert times == sorted(times)
    assert times[0] >= traffic.GENERATED_FROM
    assert times[-1] < traffic.GENERATED_FROM + timedelta(hours=1)
    for call in trace.calls:
        assert call.input_tokens >= 1
        assert call.output_tokens >= 1
        assert call.cached_input_tokens % traffic.CACHED_STEP_TOKENS == 0


def test_generated_traffic_is_bursty_heavy_tailed_and_partly_cached():
    calls = traffic.generate_trace(events=5_000, seed=1).calls

    minutes = Counter(call.occurred_at.minute for call in calls)
    assert max(minutes.values()) > 1.5 * len(calls) / 60
    answers = sorted(call.output_tokens for call in calls)
    assert answers[-1] > 50 * answers[len(answers) // 2]
    assert 0.2 < sum(call.cached_input_tokens > 0 for call in calls) / len(calls) < 0.5


def test_customers_follow_zipf_and_the_seed():
    spread = Spread(customers=25, seed=3)

    chosen = traffic.choose_customers(calls=50_000, spread=spread)

    assert chosen == traffic.choose_customers(calls=50_000, spread=spread)
    assert chosen != traffic.choose_customers(calls=50_000, spread=Spread(customers=25, seed=4))
    made = Counter(chosen)
    assert set(made) == set(range(1, 26))
    # Rank r makes 1/r**1.1 of what the first one makes.
    for rank in (2, 5, 10, 25):
        assert made[rank] / made[1] == pytest.approx(rank**-1.1, rel=0.15)


@given(customers=st.integers(1, 50), calls=st.integers(0, 200), seed=st.integers())
def test_customers_are_within_their_number(customers, calls, seed):
    spread = Spread(customers=customers, seed=seed)

    chosen = traffic.choose_customers(calls=calls, spread=spread)

    assert len(chosen) == calls
    assert set(chosen) <= set(range(1, customers + 1))


def test_events_carry_the_calls_shifted():
    trace = traffic.read_trace(content=THREE_CALLS)

    events = _events(trace, Spread(customers=1, seed=1), shift=timedelta(days=1_000, seconds=1.5))

    assert [event["time"] for event in events] == [
        "2026-08-12T18:17:05.479960Z",
        "2026-08-12T18:17:05.531960Z",
        "2026-08-12T18:17:05.578149Z",
    ]
    assert [event["data"] | {"model": ""} for event in events] == [
        {
            "model": "",
            "input_tokens": call.input_tokens,
            "cached_input_tokens": 0,
            "output_tokens": call.output_tokens,
            "total_tokens": call.input_tokens + call.output_tokens,
        }
        for call in trace.calls
    ]
    assert {event["subject"] for event in events} == {"demo-0001"}
    assert {event["type"] for event in events} == {"llm.call"}


def test_events_of_generated_traffic_count_each_kind_of_token_once():
    trace = traffic.generate_trace(events=500, seed=1)

    events = _events(trace, Spread(customers=5, seed=1))

    sums = traffic.sums(trace=trace)
    assert sums.cached_tokens > 0
    assert sum(event["data"]["total_tokens"] for event in events) == (
        sums.context_tokens + sums.cached_tokens + sums.generated_tokens
    )


def test_event_ids_are_ordered_uuids_that_do_not_depend_on_the_shift():
    trace = traffic.generate_trace(events=300, seed=1)
    spread = Spread(customers=5, seed=1)

    ids = [event["id"] for event in _events(trace, spread)]

    assert ids == [event["id"] for event in _events(trace, spread, shift=timedelta(days=9))]
    assert {(uuid.UUID(each).version, uuid.UUID(each).variant) for each in ids} == {
        (7, uuid.RFC_4122)
    }
    assert len(set(ids)) == 300
    # Time-ordered to the millisecond, which is 12 characters of the text.
    assert [each[:13] for each in ids] == sorted(each[:13] for each in ids)


@pytest.mark.parametrize(
    "other",
    [
        Spread(customers=6, seed=1),
        Spread(customers=5, seed=2),
        Spread(customers=5, seed=1, salt="2026-11-20T12:00:00+00:00"),
    ],
    ids=["customers", "seed", "salt"],
)
def test_event_ids_differ_where_the_events_may(other):
    trace = traffic.generate_trace(events=100, seed=1)

    ids = {event["id"] for event in _events(trace, Spread(customers=5, seed=1))}

    assert ids.isdisjoint(event["id"] for event in _events(trace, other))


def test_equal_rows_are_different_calls():
    row = b"2023-11-16 18:17:03.9799600,4808,10\n"
    trace = traffic.read_trace(content=b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + row * 3)

    assert len({event["id"] for event in _events(trace, Spread(customers=1, seed=1))}) == 3


def _events(
    trace: Trace, spread: Spread, *, shift: timedelta = timedelta(0)
) -> list[dict[str, object]]:
    return list(traffic.cloud_events(trace=trace, spread=spread, shift=shift))
