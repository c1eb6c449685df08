"""GET /api/v1/usage and /usage/top-customers: what is told, to whom, in what form, and what is not."""

from __future__ import annotations

import csv
import io
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from billing import authentication
from billing.enums import Scope
from billing.models import Meter
from tests.usage.conftest import USAGE, report
from usage import flush, questions

pytestmark = pytest.mark.integration

TOP = f"{USAGE}/top-customers"
DAY = {"from": "2026-11-20T00:00:00Z", "until": "2026-11-21T00:00:00Z"}


def rows(answer: Any, *names: str) -> list[tuple[Any, ...]]:
    assert answer.status_code == 200, answer.content
    return [tuple(row[name] for name in names) for row in answer.json()["data"]]


def refused(answer: Any, field: str) -> str:
    """The reason why one field is refused."""
    assert answer.status_code == 422, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    [error] = answer.json()["errors"]
    assert error["field"] == field
    return str(error["reason"])


# --- what is told ---------------------------------------------------------------------------------


def test_an_answer_tells_window_meter_quantity_and_unit(store, acme, ask, now):
    Meter.objects.filter(slug="input_tokens").update(scale=2)
    store(report("a", at=now, input_tokens="1.25"), report("b", at=now, input_tokens=2))
    flush.flush_batches(now=now)

    answer = ask(**DAY, meter="input_tokens", time_zone="Asia/Kathmandu")

    body = answer.json()
    as_of = datetime.fromisoformat(body.pop("as_of"))
    assert body == {
        "data": [
            {
                "window_start": "2026-11-20T05:45:00+05:45",
                "window_end": "2026-11-21T05:45:00+05:45",
                "meter": "input_tokens",
                "quantity": "3.25",
                "unit": "token",
                "event_count": 2,
            }
        ],
        "has_more": False,
        "next": None,
    }
    assert abs(datetime.now(as_of.tzinfo) - as_of) < timedelta(minutes=1)


def test_what_was_answered_for_counts_before_any_flush(store, acme, ask, now):
    store(report("a", at=now, input_tokens=3))
    flush.flush_batches(now=now)
    store(report("b", at=now, input_tokens=4))

    told = ask(**DAY, meter="input_tokens", window="hour")

    assert rows(told, "window_start", "quantity", "event_count") == [
        ("2026-11-20T12:00:00Z", "7", 2)
    ]


def test_meters_are_always_told_apart(store, acme, ask, now):
    store(report("a", at=now, input_tokens=3, cached_tokens=1), report("b", at=now))

    assert rows(ask(**DAY), "meter", "quantity", "event_count") == [
        ("cached_tokens", "1", 1),
        ("input_tokens", "13", 2),
        ("llm_calls", "2", 2),
    ]


def test_windows_at_the_ends_are_cut_to_the_instant(store, acme, ask, now):
    for name, seconds in (("before", -1), ("first", 0), ("last", 3_719), ("after", 3_720)):
        at = now.replace(minute=7, second=0) + timedelta(seconds=seconds)
        store(report(name, at=at, input_tokens=1), at=at)
    flush.flush_batches(now=now + timedelta(hours=1))

    told = ask(
        **{"from": "2026-11-20T12:07:00Z", "until": "2026-11-20T13:09:00Z"},
        window="hour",
        meter="input_tokens",
    )

    assert rows(told, "window_start", "window_end", "quantity") == [
        ("2026-11-20T12:07:00Z", "2026-11-20T13:00:00Z", "1"),
        ("2026-11-20T13:00:00Z", "2026-11-20T13:09:00Z", "1"),
    ]


def test_an_answer_of_nothing_is_empty(ask, meters):
    assert rows(ask(**DAY)) == []
    assert ask(**DAY).json()["next"] is None


def test_a_long_model_is_found_by_its_whole_name(store, acme, ask, now):
    name = "m" * 120
    store(report("a", at=now, input_tokens=1, model=name), report("b", at=now, input_tokens=2))

    told = ask(**DAY, meter="input_tokens", model=[name], group_by="model")

    assert rows(told, "model", "quantity") == [("m" * 100, "1")]
    assert rows(ask(**DAY, meter="input_tokens", model=""), "quantity") == [("2",)]


def test_the_largest_customers_come_first(store, acme, ask, now):
    for number, tokens in enumerate((5, 9, 9, 1)):
        store(report(f"e-{number}", at=now, subject=f"c-{number}", input_tokens=tokens))
        if number == 1:
            flush.flush_batches(now=now)

    told = ask(TOP, **DAY, meter="input_tokens", limit=3)

    assert rows(told, "customer", "quantity") == [("c-1", "9"), ("c-2", "9"), ("c-0", "5")]
    assert told.json()["has_more"] is True
    assert told.json()["data"][0]["window_end"] == "2026-11-21T00:00:00Z"
    filtered = ask(TOP, **DAY, meter="input_tokens", model="none")
    assert rows(filtered) == []


# --- to whom --------------------------------------------------------------------------------------


def test_a_key_for_some_customers_learns_nothing_of_others(store, acme, ask, now):
    store(
        report("a", at=now, input_tokens=1),
        report("b", at=now, subject="globex", input_tokens=2),
        report("c", at=now, subject="none's", input_tokens=4),
    )
    flush.flush_batches(now=now)
    store(report("d", at=now, subject="globex", input_tokens=8))

    def key(*customers: str) -> str:
        limits = authentication.Limits(customers=frozenset(customers))
        return authentication.issue("portal", [Scope.READ], limits=limits)[1]

    asked = {**DAY, "meter": "input_tokens"}
    assert rows(ask(**asked), "quantity") == [("15",)]
    assert rows(ask(**asked, key=key("acme")), "quantity") == [("1",)]
    assert rows(ask(**asked, key=key("acme", "globex"), group_by="customer"), "customer") == [
        ("acme",),
        ("globex",),
    ]
    for window in ("minute", "all"):
        span = {"from": "2026-11-20T12:00:01Z", "until": "2026-11-20T13:00:01Z"}
        told = ask(**asked | span, key=key("acme"), window=window)
        assert rows(told, "quantity") == [("1",)]
    assert rows(ask(TOP, **asked, key=key("acme")), "customer") == [("acme",)]
    for path, named in ((USAGE, ["globex"]), (USAGE, ["acme", "nobody"])):
        answer = ask(path, **asked, key=key("acme"), customer=named)
        assert (answer.status_code, answer.json()["title"]) == (403, "Not allowed")
        assert "8" not in answer.json()["detail"]


def test_a_cursor_of_another_key_opens_nothing(store, acme, ask, now):
    for number in range(3):
        store(report(f"e-{number}", at=now, subject=f"c-{number}", input_tokens=1))
    limits = authentication.Limits(customers=frozenset({"c-0"}))
    _, key = authentication.issue("portal", [Scope.READ], limits=limits)
    asked = {**DAY, "meter": "input_tokens", "group_by": "customer", "limit": 1}
    cursor = ask(**asked).json()["next"]

    assert rows(ask(**asked, cursor=cursor), "customer") == [("c-1",)]
    assert rows(ask(**asked, cursor=cursor, key=key), "customer") == []


def test_the_scope_read_is_needed(ask, client):
    _, ingest = authentication.issue("gateway", [Scope.INGEST])

    for path in (USAGE, TOP):
        assert ask(path, **DAY, key=ingest).status_code == 403
        assert client.get(path).status_code == 401


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"from": "yesterday"}, "from", "must be an RFC 3339 time with an offset"),
        ({"from": "2026-11-20T00:00:00"}, "from", "must be an RFC 3339 time with an offset"),
        ({"until": "1795132800"}, "until", "must be an RFC 3339 time with an offset"),
        ({"until": "2026-11-20T02:00:00 01:00"}, "until", "+ is written %2B"),
        ({"until": "0001-01-01T00:00:00+10:00"}, "until", "must be an RFC 3339 time"),
        ({"until": "2026-11-20T00:00:00Z"}, "until", "must be later than `from`"),
        ({"from": "2019-12-31T23:59:59Z"}, "from", "must be of the years 2020 to 2099"),
        ({"until": "2101-01-01T00:00:00Z"}, "until", "must be of the years 2020 to 2099"),
        ({"window": "fortnight"}, "window", "Input should be 'minute', 'hour', 'day'"),
        ({"window": "minute"}, "until", "windows of a minute are told for 6 h"),
        (
            {"window": "hour", "from": "2025-10-01T00:00:00Z"},
            "until",
            "windows of an hour are told for 400 days",
        ),
        ({"time_zone": "Mars/Olympus"}, "time_zone", "must be the IANA name of a time zone"),
        ({"time_zone": "../../etc/passwd"}, "time_zone", "must be the IANA name of a time zone"),
        ({"customer": "a\0b"}, "customer.0", "must not hold a NUL character"),
        ({"customer": "c" * 201}, "customer.0", "String should have at most 200 characters"),
        ({"model": "a\0b"}, "model.0", "must not hold a NUL character"),
        ({"model": ["m"] * 101}, "model", "List should have at most 100 items"),
        ({"meter": "no-such"}, "meter", "There is no meter 'no-such'."),
        ({"meter": "a\0b"}, "meter.0", "must not hold a NUL character"),
        ({"group_by": ["customer", "source"]}, "group_by.1", "Input should be 'customer'"),
        ({"limit": 0}, "limit", "Input should be greater than or equal to 1"),
        ({"limit": 10_001}, "limit", "Input should be less than or equal to 10000"),
        ({"limit": "many"}, "limit", "Input should be a valid integer"),
        ({"format": "xml"}, "format", "Input should be 'json' or 'csv'"),
        ({"meters": "input_tokens"}, "meters", "is no parameter; these are: cursor, customer"),
    ],
)
def test_a_bad_question_is_refused_by_the_field_at_fault(
    ask, store, acme, now, change, field, reason
):
    store(report("a", at=now))

    assert reason in refused(ask(**DAY | change), field)


@pytest.mark.parametrize("missing", ["from", "until"])
def test_both_ends_are_required(ask, meters, missing):
    asked = {name: value for name, value in DAY.items() if name != missing}

    assert refused(ask(**asked), missing) == "Field required"


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({}, "meter", "Field required"),
        ({"meter": "no-such"}, "meter", "There is no meter 'no-such'."),
        ({"meter": "llm_calls", "limit": 1_001}, "limit", "Input should be less than or equal"),
        ({"meter": "llm_calls", "until": DAY["from"]}, "until", "must be later than `from`"),
        ({"meter": "llm_calls", "customer": "acme"}, "customer", "is no parameter; these are:"),
    ],
)
def test_a_bad_question_for_the_largest_is_refused(ask, meters, change, field, reason):
    assert reason in refused(ask(TOP, **DAY | change), field)


def test_a_cursor_belongs_to_its_question(ask, store, acme, now):
    for number in range(3):
        store(report(f"e-{number}", at=now, subject=f"c-{number}", input_tokens=1))
    asked = {**DAY, "meter": "input_tokens", "group_by": "customer", "limit": 1}
    cursor = ask(**asked).json()["next"]

    for changed in (
        asked | {"cursor": cursor, "window": "day"},
        asked | {"cursor": cursor, "until": "2026-11-22T00:00:00Z"},
        asked | {"cursor": cursor[:-4]},
        asked | {"cursor": "nonsense!"},
        asked | {"cursor": "bnVsbA"},
    ):
        assert refused(ask(**changed), "cursor").startswith("is not of this question")
    # How much of it is told, and in which form, is no part of a question.
    assert rows(ask(**asked | {"cursor": cursor, "limit": 5}), "customer") == [("c-1",), ("c-2",)]


def test_a_question_that_takes_too_long_is_refused(ask, meters, settings, monkeypatch):
    settings.USAGE_QUERY_SECONDS = 1
    monkeypatch.setattr(
        questions, "IN_ORDER", ", pg_sleep(3) WHERE %(limit)s > 0 OR %(after)s > ''"
    )

    assert "takes more than 1 s to count" in refused(ask(**DAY), "until")


def test_another_failure_of_the_database_is_no_fault_of_the_question(ask, meters):
    def unreachable(execute: Any, statement: str, *rest: Any) -> Any:
        if "set_config" in statement:
            raise OperationalError("the connection is gone")
        return execute(statement, *rest)

    with connection.execute_wrapper(unreachable):
        assert ask(**DAY).status_code == 503


# --- CSV ------------------------------------------------------------------------------------------


def read(answer: Any) -> list[list[str]]:
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/csv")
    return list(csv.reader(io.StringIO(b"".join(answer).decode())))


def test_csv_tells_the_same_rows_with_a_header(store, acme, ask, now):
    store(report("a", at=now, input_tokens=3, model='m "1", new'), report("b", at=now))
    asked = {**DAY, "window": "day", "group_by": ["model", "customer"], "meter": "input_tokens"}

    told = read(ask(**asked, accept="text/csv"))

    assert told == [
        [
            "window_start",
            "window_end",
            "customer",
            "meter",
            "model",
            "quantity",
            "unit",
            "event_count",
        ],
        *[
            ["2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z", "acme", *rest]
            for rest in (
                ["input_tokens", "", "10", "token", "1"],
                ["input_tokens", 'm "1", new', "3", "token", "1"],
            )
        ],
    ]
    assert read(ask(**asked, format="csv")) == told
    assert ask(**asked, format="json", accept="text/csv").json()["data"][1]["quantity"] == "3"


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM", "'@SUM"),
        ("'quoted", "''quoted"),
        ("plain=1", "plain=1"),
    ],
)
def test_csv_names_are_no_formulas(store, acme, ask, now, name, cell):
    store(report("a", at=now, subject=name, input_tokens=3))

    [_, row] = read(ask(TOP, **DAY, meter="input_tokens", format="csv"))

    assert row[2:] == [cell, "input_tokens", "3", "token", "1"]


def test_csv_pages_are_linked(store, acme, ask, now):
    for number in range(3):
        store(report(f"e-{number}", at=now, subject=f"c {number}", input_tokens=number + 1))
    asked = {**DAY, "meter": "input_tokens", "group_by": "customer", "limit": 2, "format": "csv"}

    first = ask(**asked)
    assert [row[2] for row in read(first)[1:]] == ["c 0", "c 1"]
    target, _, relation = first["Link"].partition("; ")
    assert relation == 'rel="next"'
    address = urlsplit(target.strip("<>"))
    last = ask(address.path, **dict(parse_qsl(address.query)))
    assert [row[2] for row in read(last)[1:]] == ["c 2"]
    assert "Link" not in last


# --- what it costs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {"window": "hour", "group_by": ["customer", "model"]},
        {"window": "minute", "group_by": "customer", "until": "2026-11-20T06:00:00Z"},
        {"group_by": "customer", "meter": "input_tokens"},
    ],
)
def test_fifty_rows_take_as_many_queries_as_one(store, acme, ask, now, asked):
    at = now.replace(hour=5)

    def queries() -> tuple[int, int]:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            answer = ask(**DAY | asked)
        return len(answer.json()["data"]), len(captured)

    store(report("first", at=at, subject="a", input_tokens=1), at=at)
    few, once = queries()
    for number in range(50):
        store(report(f"e-{number}", at=at, subject=f"c-{number}", input_tokens=1), at=at)
        if number % 20 == 0:
            flush.flush_batches(now=at)
    many, again = queries()

    assert (few, many >= 50) == (1 if "meter" in asked else 2, True)
    # The key, the meters, the time limit with the clock, the rows; and a savepoint in tests.
    assert once == again == 6


def test_the_description_tells_both_questions(client):
    paths = client.get("/api/openapi.json").json()["paths"]

    asked = {each["name"]: each for each in paths[USAGE]["get"]["parameters"]}
    assert list(asked) == [
        "from",
        "until",
        "model",
        "format",
        "window",
        "time_zone",
        "customer",
        "meter",
        "group_by",
        "limit",
        "cursor",
    ]
    assert [name for name, each in asked.items() if each["required"]] == ["from", "until"]
    assert asked["from"]["schema"]["format"] == "date-time"
    assert set(paths[USAGE]["get"]["responses"]["200"]["content"]) == {
        "application/json",
        "text/csv",
    }
    assert all(
        each.get("description") or each["schema"].get("description") for each in asked.values()
    )
    assert TOP in paths
