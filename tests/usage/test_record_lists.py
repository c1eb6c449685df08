"""GET /api/v1/submissions, /held-usage and /books: lists to page through, and one customer's books."""

from __future__ import annotations

import csv
import io
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.authentication import Limits, issue
from billing.enums import Scope
from billing.models import Customer
from tests.factories.usage import make_submission
from tests.usage.conftest import report
from usage import flush, queries, submission_records
from usage.api.csv_answers import csv_answer
from usage.lifecycle import State
from usage.models import FlushRun, HeldUsage
from usage.submission_records import Narrowing

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def key_of(**limits) -> str:
    return issue("console", [Scope.READ], limits=Limits(**limits))[1]


@pytest.fixture
def get(client):
    def get(path, query=None, *, key=None, status=200, accept="*/*"):
        answer = client.get(
            f"/api/v1/{path}",
            query or {},
            headers={"Authorization": f"Bearer {key or key_of()}", "Accept": accept},
        )
        assert answer.status_code == status, answer.content
        return answer

    return get


@pytest.fixture
def globex(db) -> Customer:
    return Customer.objects.create(external_id="globex", stripe_customer_id="cus_globex")


def hold(run: FlushRun, meter, at, subject="acme", **fields) -> HeldUsage:
    return HeldUsage.objects.create(
        run=run,
        subject=subject,
        meter=meter,
        window_start=at,
        segment_start=at,
        event_count=1,
        quantity=5,
        **{"reason": "late", "held_at": at} | fields,
    )


@pytest.fixture
def rows(acme, globex, meters, now):
    """Four submissions by name, in the order they were made."""
    hour = now.replace(minute=0, second=0)
    kinds = {
        "old": (acme, meters.input, hour - DAY, State.SETTLED),
        "calls": (acme, meters.calls, hour, State.REJECTED),
        "theirs": (globex, meters.input, hour, State.ACCEPTED),
        "new": (acme, meters.input, hour - HOUR, State.IN_DOUBT),
    }
    return {
        name: make_submission(customer=customer, meter=meter, at=at, state=state)
        for name, (customer, meter, at, state) in kinds.items()
    }


def stamp(instant):
    return instant.isoformat().replace("+00:00", "Z")


def names(answer, rows):
    by_identifier = {row.identifier: name for name, row in rows.items()}
    return [by_identifier[row["identifier"]] for row in answer.json()["data"]]


def test_submissions_are_listed_newest_first_with_their_state_in_words(get, rows):
    answer = get("submissions")

    assert names(answer, rows) == ["new", "theirs", "calls", "old"]
    first = answer.json()["data"][0]
    made = rows["new"]
    assert first == {
        "identifier": made.identifier,
        "customer": "acme",
        "meter": "input_tokens",
        "unit": "token",
        "hour": stamp(made.window_start),
        "segment_start": stamp(made.segment_start),
        "value": "10",
        "event_count": 1,
        "timestamp": stamp(made.timestamp),
        "run": made.run_id,
        "created_at": stamp(made.created_at),
        "state": "in_doubt",
        "meaning": "It was sent and how that ended is not known; it is sent again under the same"
        " identifier, which Stripe counts once.",
        "reason": None,
        "since": first["since"],
        "attempt_count": 1,
        "next_action_at": stamp(made.timestamp),
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"customer": "acme"}, ["new", "calls", "old"]),
        ({"customer": "nobody"}, []),
        ({"meter": "input_tokens"}, ["new", "theirs", "old"]),
        ({"state": "rejected"}, ["calls"]),
        ({"state": ["rejected", "settled"]}, ["calls", "old"]),
        ({"customer": "acme", "meter": "input_tokens", "state": "settled"}, ["old"]),
        ({"from": "2026-11-20T12:00:00Z"}, ["theirs", "calls"]),
        ({"until": "2026-11-20T12:00:00Z"}, ["new", "old"]),
        ({"from": "2026-11-20T12:00:00+01:00", "until": "2026-11-20T12:00:00Z"}, ["new"]),
    ],
)
def test_submissions_are_narrowed(get, rows, query, expected):
    assert names(get("submissions", query), rows) == expected


def test_submissions_are_found_by_identifier_and_by_run(get, rows):
    made = rows["calls"]

    assert names(get("submissions", {"identifier": made.identifier}), rows) == ["calls"]
    assert names(get("submissions", {"run": made.run_id}), rows) == ["calls"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"state": "gone"}, "state.0"),
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-11-20T12:00:00"}, "from"),
        ({"until": "0001-01-01T00:00:00+14:00"}, "until"),
        ({"run": 0}, "run"),
        ({"run": 2**63}, "run"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"meter": "none"}, "meter"),
        ({"meter": "a\0"}, "meter"),
        ({"customer": "a\0"}, "customer"),
        ({"cursor": "AAAA"}, "cursor"),
        ({"cursor": "\N{SNOWMAN}"}, "cursor"),
        ({"cursor": "aGVsZDo1"}, "cursor"),
        ({"cursor": "c3VibWlzc2lvbnM6OTk5OTk5OTk5OTk5OTk5OTk5OTk5"}, "cursor"),
    ],
)
def test_a_filter_that_makes_no_sense_is_named(get, rows, query, field):
    problem = get("submissions", query, status=422).json()

    assert [error["field"] for error in problem["errors"]] == [field]


def test_pages_hold_every_row_once_while_others_come_in(get, acme, meters, now):
    made = [make_submission(customer=acme, meter=meters.input, at=now) for _ in range(7)]
    seen = []
    cursor = ""
    for wanted in (3, 3, 1):
        page = get("submissions", {"limit": 3, "cursor": cursor}).json()
        assert len(page["data"]) == wanted
        seen += [row["identifier"] for row in page["data"]]
        cursor = page["next_cursor"]
        make_submission(customer=acme, meter=meters.input, at=now)

    assert cursor is None
    assert seen == [row.identifier for row in reversed(made)]


def test_a_full_last_page_says_that_it_is_the_last(get, rows):
    assert get("submissions", {"limit": 4}).json()["next_cursor"] is None
    assert get("submissions", {"limit": 3}).json()["next_cursor"] is not None


def test_submissions_come_as_csv_with_the_next_page_in_a_header(get, rows):
    answer = get("submissions", {"limit": 3, "meter": "input_tokens"}, accept="text/csv")
    assert "Link" not in answer

    answer = get("submissions", {"limit": 2, "meter": "input_tokens"}, accept="text/csv")

    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    read = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [row["identifier"] for row in read] == [
        rows["new"].identifier,
        rows["theirs"].identifier,
    ]
    assert (read[0]["value"], read[0]["state"], read[0]["hour"]) == (
        "10",
        "in_doubt",
        "2026-11-20T11:00:00Z",
    )
    address = answer["Link"].removeprefix("<").removesuffix('>; rel="next"')
    assert names(get(address.removeprefix("/api/v1/")), rows) == ["old"]


def test_a_spreadsheet_takes_no_text_of_others_for_a_formula():
    row = {"customer": "=1+1", "value": "-5", "empty": None}

    answer = csv_answer(list(row), [row], texts=frozenset({"customer"}), name="a.csv", next_page="")

    assert answer.content == b"customer,value,empty\r\n'=1+1,-5,\r\n"


def test_a_submission_is_shown_with_its_calls(get, rows):
    told = get(f"submissions/{rows['calls'].identifier}").json()

    assert (told["state"], told["settled"], told["superseded"], told["cancellation"]) == (
        "rejected",
        False,
        None,
        None,
    )
    assert [(call["number"], call["outcome"], call["meaning"]) for call in told["attempts"]] == [
        (1, "rejected", "Stripe refused it for good.")
    ]


def test_what_is_not_there_is_a_404(get, rows):
    for identifier in ("nothing", "%00"):
        assert get(f"submissions/{identifier}", status=404).json()["title"] == "Not found"


def test_held_usage_is_listed_with_its_reason_in_words(get, acme, meters, now):
    hour = now.replace(minute=0, second=0)
    run = FlushRun.objects.create(batch_count=0, event_count=0, meter_versions=[])
    hold(run, meters.input, hour, released_at=now)
    hold(run, meters.calls, hour - HOUR)
    hold(run, meters.input, hour, subject="nobody", reason="unknown_customer")

    def listed(**query):
        return [
            (row["customer"], row["meter"], row["reason"])
            for row in get("held-usage", query).json()["data"]
        ]

    late, calls, unknown = (
        ("acme", "input_tokens", "late"),
        ("acme", "llm_calls", "late"),
        ("nobody", "input_tokens", "unknown_customer"),
    )
    assert listed() == [unknown, calls, late]
    assert listed(released="false") == [unknown, calls]
    assert listed(released="true") == [late]
    assert listed(customer="acme") == [calls, late]
    assert listed(reason="unknown_customer") == [unknown]
    assert listed(until="2026-11-20T12:00:00Z") == [calls]
    assert listed(run=run.pk, meter="input_tokens") == [unknown, late]
    first = get("held-usage", {"limit": 1}).json()
    assert first["data"][0]["meaning"] == (
        "No customer has this external id; it is sent once one has."
    )
    following = get("held-usage", {"limit": 1, "cursor": first["next_cursor"]}).json()
    assert [row["meter"] for row in following["data"]] == ["llm_calls"]


def test_books_tell_where_every_unit_stands_and_ask_nobody(get, store, acme, now, emulator):
    store(report("a", at=now, input_tokens=7), report("b", at=now, subject="globex"))
    flush.flush_batches(now=now)
    store(report("c", at=now, input_tokens=5))

    books = get("books", {"customer": "acme"}).json()

    assert (books["customer"], books["event_count"], books["balanced"]) == ("acme", 2, True)
    [tokens] = [meter for meter in books["meters"] if meter["meter"] == "input_tokens"]
    assert (tokens["recorded"], tokens["unflushed"], tokens["held"], tokens["balanced"]) == (
        "12",
        "5",
        "0",
        True,
    )
    assert tokens["states"] == dict.fromkeys(State, "0") | {State.READY: "7"}
    assert list(emulator.arrivals) == []
    assert get("books", {"customer": "globex"}).json()["event_count"] == 1
    assert get("books", {"customer": "nobody"}, status=422).json()["errors"][0]["field"] == (
        "customer"
    )
    get("books", status=422)


def test_books_that_take_too_long_are_refused(get, acme, monkeypatch):
    monkeypatch.setattr(queries, "_BOOKS", "SELECT pg_sleep(2)")
    monkeypatch.setattr("usage.api.submissions.BOOKS_SECONDS", 1)

    problem = get("books", {"customer": "acme"}, status=503).json()

    assert problem["title"] == "Not within a request"


def test_a_limited_key_sees_its_own_customers_only(get, rows, meters, now):
    run = FlushRun.objects.create(batch_count=0, event_count=0, meter_versions=[])
    for subject in ("acme", "globex"):
        hold(run, meters.input, now, subject=subject)
    key = key_of(customers=frozenset({"globex"}))

    assert names(get("submissions", key=key), rows) == ["theirs"]
    assert [row["customer"] for row in get("held-usage", key=key).json()["data"]] == ["globex"]
    for path in ("submissions", "held-usage", "books"):
        get(path, {"customer": "acme"}, key=key, status=403)
    get(f"submissions/{rows['theirs'].identifier}", key=key)
    get(f"submissions/{rows['new'].identifier}", key=key, status=404)
    answer = get("submissions", {"identifier": rows["new"].identifier}, key=key)
    assert answer.json()["data"] == []


@pytest.mark.parametrize("path", ["submissions", "held-usage"])
def test_a_list_costs_the_same_queries_for_one_row_and_for_fifty(
    get, acme, globex, meters, now, path
):
    run = FlushRun.objects.create(batch_count=0, event_count=0, meter_versions=[])
    for customer, count in ((acme, 1), (globex, 50)):
        for number in range(count):
            at = now - number * HOUR
            make_submission(customer=customer, meter=meters.input, at=at)
            hold(run, meters.input, at, subject=customer.external_id)
    key = key_of()
    queries = {}

    for name, count in (("acme", 1), ("globex", 50)):
        with CaptureQueriesContext(connection) as found:
            rows = get(path, {"customer": name}, key=key).json()["data"]
        assert len(rows) == count
        queries[name] = [query["sql"] for query in found]

    assert len(queries["acme"]) == len(queries["globex"])
    assert [sql for sql in queries["globex"] if "COUNT(" in sql.upper()] == []


# --- what the database does ------------------------------------------------------------------------

MANY = """
INSERT INTO usage_submission (
    identifier, run_id, customer_id, meter_id, window_start, segment_start, part, event_count,
    value, timestamp, stripe_customer_id, event_name, payload, payload_hash, live_mode, created_at
)
SELECT 'many-' || n, %(run)s, %(first)s + n %% 50, %(meter)s, hour, hour, n, 1, 1, hour, 'cus',
       'mk', '{}', '', false, hour
FROM generate_series(1, %(count)s) n,
     LATERAL (SELECT %(since)s::timestamptz + n / 50 * interval '1 hour' AS hour) hours;
INSERT INTO usage_submissionstate (
    submission_id, customer_id, meter_id, state, wire, attempt_count, reason, recount, changed_at
)
SELECT id, customer_id, meter_id, 'ready', 'stream', 1, '', false, created_at FROM usage_submission;
INSERT INTO usage_heldusage (
    run_id, subject, meter_id, window_start, segment_start, event_count, quantity, reason,
    held_at, released_at
)
SELECT %(run)s, 'many-' || n %% 50, %(meter)s, hour, hour, 1, 1, 'late', hour,
       CASE WHEN n %% 1000 > 0 THEN hour END
FROM generate_series(1, %(count)s) n,
     LATERAL (SELECT %(since)s::timestamptz + n * interval '1 hour' AS hour) hours;
"""


def plan_of(rows) -> str:
    with connection.cursor() as cursor:
        sql, params = rows.order_by("-pk")[:51].query.sql_with_params()
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT TEXT) {sql}", params)
        return "\n".join(line for (line,) in cursor.fetchall())


def test_every_list_finds_its_rows_by_an_index(meters, now):
    """On 100,000 rows no list reads them all, whatever it is narrowed to."""
    customers = Customer.objects.bulk_create(
        Customer(external_id=f"many-{number}") for number in range(50)
    )
    run = FlushRun.objects.create(batch_count=0, event_count=0, meter_versions=[])
    FlushRun.objects.create(batch_count=0, event_count=0, meter_versions=[])
    with connection.cursor() as cursor:
        cursor.execute(
            MANY,
            {
                "run": run.pk,
                "first": customers[0].pk,
                "meter": meters.input.pk,
                "count": 100_000,
                "since": now.replace(minute=0, second=0) - 400 * DAY,
            },
        )
        # Mostly settled, as the table of a running deployment is.
        for state in ("sending", "accepted", "settled"):
            cursor.execute("UPDATE usage_submissionstate SET state = %s", [state])
        for index in ("usage_submission_hour_brin", "usage_held_hour_brin"):
            cursor.execute("SELECT brin_summarize_new_values(%s)", [index])
        cursor.execute("ANALYZE usage_submission, usage_submissionstate, usage_heldusage")
    submissions = submission_records.submissions
    held = submission_records.held_usage
    one = Narrowing(customers=["many-7"])
    hour = now - 300 * DAY

    plans = {
        "all": submissions(Narrowing()),
        "customer": submissions(one),
        "rejected": submissions(Narrowing(), states=[State.REJECTED, State.EXPIRED]),
        "accepted": submissions(Narrowing(), states=[State.ACCEPTED]),
        "settled": submissions(Narrowing(), states=[State.SETTLED]),
        "identifier": submissions(Narrowing(), identifier="many-5"),
        "hour": submissions(Narrowing(since=hour, until=hour + HOUR)),
        "customer and hour": submissions(
            Narrowing(customers=["many-7"], meter=meters.input, since=hour, until=hour + DAY)
        ),
        "run": submissions(Narrowing(run_id=run.pk + 1)),
        "held": held(Narrowing()),
        "held open": held(Narrowing(), is_released=False),
        "held of one": held(one),
        "held of an hour": held(Narrowing(since=hour, until=hour + HOUR)),
        "held of one, open": held(one, is_released=False),
    }
    found = {name: plan_of(rows) for name, rows in plans.items()}

    sequential = {name: plan for name, plan in found.items() if "Seq Scan on usage_" in plan}
    assert sequential == {}
    # A page and not much more was looked at; a whole day of one customer is a page, too.
    for name, plan in found.items():
        removed = [
            int(line.rsplit(" ", 1)[1]) for line in plan.splitlines() if "Removed by" in line
        ]
        assert sum(removed) < 15_000, f"{name}:\n{plan}"
