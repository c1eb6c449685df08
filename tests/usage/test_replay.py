"""`manage.py replay` against a scripted API, and against our own."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError, call_command
from django.db.models import BigIntegerField, Count, Sum
from django.db.models.functions import Cast

from billing.authentication import issue
from billing.enums import Scope
from billing.models import Customer, Subscription
from tests.usage.test_traffic import AZURE_TRACE
from usage.models import EventConflict, UsageEvent
from usage.replaying import connection, progress

pytestmark = pytest.mark.integration

TRACE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:17:03.9799600,4808,10\n"
    "2023-11-16 18:17:04.0319609,3180,8\n"
    "2023-11-16 18:17:05.0781490,110,27\n"
)
NOW = datetime(2026, 11, 20, 12, 30, 15, tzinfo=UTC)

Reply = tuple[int, dict[str, Any]] | None
"""Status and body; None hangs up without an answer."""


class ScriptedApi(ThreadingHTTPServer):
    """Knows the events it was sent, and answers as its `script` says while that lasts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Callable[[], Reply]] = []
        self.posts: list[tuple[str, Any]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.stored: dict[str, Any] = {}
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: Any) -> Reply:
        with self.lock:
            self.posts.append((path, body))
            if path != "/api/v1/events":
                return 201, {}
            if self.script:
                return self.script.pop(0)()
            new = [event for event in body if event["id"] not in self.stored]
            self.stored |= {event["id"]: event for event in body}
            return 200, {"accepted": len(new), "duplicates": len(body) - len(new)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedApi

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers_seen.append(dict(self.headers))
        reply = self.server.answer(self.path, body)
        if reply is None:
            self.close_connection = True
            return
        status, answer = reply
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def api(monkeypatch) -> Iterator[ScriptedApi]:
    monkeypatch.setattr(connection, "FIRST_PAUSE_SECONDS", 0.001)
    with ScriptedApi() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def state_dir(settings, tmp_path) -> Path:
    settings.STATE_DIR = tmp_path / "state"
    return settings.STATE_DIR


@pytest.fixture
def trace(tmp_path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return path


@pytest.fixture
def replay(api, capsys) -> Callable[..., dict[str, Any]]:
    """Run the command against the scripted API and return what its last line says."""

    def run(*arguments: Any, **options: Any) -> dict[str, Any]:
        options = {"api_url": api.url, "api_key": "mk_test", "customers": 2} | options
        call_command("replay", *map(str, arguments), **options)
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


# -- what is sent


@time_machine.travel(NOW, tick=False)
def test_replay_creates_customers_and_sends_calls_that_end_now(api, replay, trace):
    said = replay(trace, customers=2, batch=2)

    assert said.pop("seconds") >= 0
    assert said == {
        "events": 3,
        "context_tokens": 8_098,
        "generated_tokens": 45,
        "cached_tokens": 0,
        "accepted": 3,
        "duplicates": 0,
        "requests": 2,
    }
    created = [post for post in api.posts if post[0] != "/api/v1/events"]
    assert sorted(created, key=lambda post: json.dumps(post[1] | {"path": post[0]})) == sorted(
        [
            (
                "/api/v1/customers",
                {
                    "external_id": f"demo-000{number}",
                    "email": f"demo-000{number}@example.com",
                    "name": f"Demo customer 000{number}",
                },
            )
            for number in (1, 2)
        ]
        + [
            (f"/api/v1/customers/demo-000{number}/subscriptions", {"plan": "tokens-payg"})
            for number in (1, 2)
        ],
        key=lambda post: json.dumps(post[1] | {"path": post[0]}),
    )
    assert sorted(event["time"] for event in api.stored.values()) == [
        "2026-11-20T12:30:13.901811Z",
        "2026-11-20T12:30:13.953811Z",
        "2026-11-20T12:30:15.000000Z",
    ]
    last = api.headers_seen[-1]
    assert last["Content-Type"] == "application/cloudevents-batch+json"
    assert last["Authorization"] == "Bearer mk_test"
    assert last["Prefer"] == "return=representation"


def test_replay_sends_generated_traffic_without_a_file(api, replay):
    said = replay(events=250, seed=5)

    assert said["events"] == said["accepted"] == len(api.stored) == 250
    assert said["cached_tokens"] == sum(
        event["data"]["cached_input_tokens"] for event in api.stored.values()
    )
    assert replay(events=250, seed=5)["duplicates"] == 250
    assert replay(events=250, seed=6)["accepted"] == 250


# -- the remembered shift


def test_replay_of_the_same_content_sends_identical_events(api, replay, trace, tmp_path):
    with time_machine.travel(NOW, tick=False):
        replay(trace)
    first = dict(api.stored)
    copy = tmp_path / "another-name.csv"
    copy.write_text(TRACE)

    with time_machine.travel(NOW + timedelta(days=3), tick=False):
        said = replay(copy)

    assert (said["accepted"], said["duplicates"]) == (0, 3)
    assert api.stored == first


def test_replay_with_shift_again_is_new_usage(api, replay, trace):
    with time_machine.travel(NOW, tick=False):
        replay(trace)
    first = dict(api.stored)

    with time_machine.travel(NOW + timedelta(days=3), tick=False):
        said = replay(trace, shift_again=True)
        repeated = replay(trace)

    assert (said["accepted"], said["duplicates"]) == (3, 0)
    assert (repeated["accepted"], repeated["duplicates"]) == (0, 3)
    new = [event for event in api.stored.values() if event["id"] not in first]
    assert max(event["time"] for event in new) == "2026-11-23T12:30:15.000000Z"


def test_replay_says_when_its_shift_is_too_old(api, replay, trace):
    with time_machine.travel(NOW, tick=False):
        replay(trace)
    before = list(api.stored)

    with (
        time_machine.travel(NOW + timedelta(days=34), tick=False),
        pytest.raises(CommandError, match="--shift-again sends the trace as new usage"),
    ):
        replay(trace)

    assert list(api.stored) == before


def test_replay_refuses_a_trace_longer_than_the_api_looks_back(api, replay, trace):
    trace.write_text(TRACE + "2023-12-31 00:00:00,1,1\n")

    with pytest.raises(CommandError, match="spans 44 days; the API takes usage of the last 34"):
        replay(trace)

    assert api.stored == {}


def test_replay_says_when_its_shift_is_damaged(api, replay, trace, state_dir):
    replay(trace)
    (kept,) = (state_dir / "replay").iterdir()
    kept.write_text('{"shift_micro')

    with pytest.raises(CommandError, match="is damaged: --shift-again replaces it"):
        replay(trace)

    assert replay(trace, shift_again=True)["accepted"] == 3


def test_replay_that_could_not_begin_remembers_no_shift(api, replay, trace, state_dir, monkeypatch):
    monkeypatch.setattr(
        api, "answer", lambda *_: (401, {"title": "Not authenticated", "detail": "Send a key."})
    )

    with pytest.raises(CommandError, match=r"refuses to create demo-000.: Send a key"):
        replay(trace)

    assert not state_dir.exists()


# -- trouble on the way


@pytest.mark.parametrize(
    "trouble",
    [
        lambda: (503, {"title": "Not stored", "detail": "Send the same again."}),
        lambda: (429, {}),
        lambda: None,
    ],
    ids=["503", "429", "hang-up"],
)
def test_replay_repeats_with_the_same_ids(api, replay, trouble):
    api.script = [trouble] * 3

    said = replay(events=40, batch=10)

    assert (said["accepted"], said["duplicates"], said["requests"]) == (40, 0, 7)
    assert len(api.stored) == 40


def test_replay_reports_what_a_lost_answer_stored_as_duplicates(api, replay):
    def store_and_hang_up() -> None:
        _, events = api.posts[-1]
        api.stored |= {event["id"]: event for event in events}

    api.script = [store_and_hang_up]

    said = replay(events=40, batch=10)

    assert (said["accepted"], said["duplicates"]) == (30, 10)
    assert len(api.stored) == 40


def test_replay_gives_up_after_its_patience(api, replay, monkeypatch):
    monkeypatch.setattr(connection, "ATTEMPTS", 3)
    api.script = [lambda: (503, {"detail": "The database is away."})] * 100

    with pytest.raises(CommandError, match=r"it answers 503: The database is away\."):
        replay(events=40, batch=10)

    assert api.stored == {}


def test_replay_says_when_nothing_listens(trace, monkeypatch):
    monkeypatch.setattr(connection, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(connection, "ATTEMPTS", 2)

    with pytest.raises(CommandError, match=r"http://127.0.0.1:1 is not reached .* Is it running"):
        call_command("replay", str(trace), api_url="http://127.0.0.1:1", api_key="mk_test")


def test_replay_names_the_refused_event_and_field(api, replay, trace):
    refusal = {"index": 1, "field": "time", "reason": "is more than 120 s in the future"}
    api.script = [lambda: (400, {"title": "Some events are refused", "errors": [refusal]})]

    with pytest.raises(CommandError) as refused:
        replay(trace)

    (events,) = (body for path, body in api.posts if path == "/api/v1/events")
    assert str(refused.value).splitlines() == [
        "The API refuses 1 of a batch of 3 calls:",
        f"  call 2 (event {events[1]['id']}): time is more than 120 s in the future",
    ]


def test_replay_explains_conflicts_and_tells_a_few_of_many(api, replay):
    errors = [{"index": i, "field": "id", "reason": "was stored before"} for i in range(9)]
    api.script = [lambda: (400, {"errors": errors})]

    with pytest.raises(CommandError) as refused:
        replay(events=10)

    lines = str(refused.value).splitlines()
    assert lines[6] == "  and 4 more of the same batch"
    assert "--shift-again" in lines[7]
    assert len(lines) == 8


def test_replay_goes_on_where_it_was_interrupted(api, replay, monkeypatch):
    advanced = []

    def interrupt(_: progress.Progress, count: int) -> None:
        advanced.append(count)
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(progress.Progress, "advance", interrupt)
        with pytest.raises(CommandError, match="same command again sends the rest"):
            replay(events=200, batch=10)
    before = dict(api.stored)
    assert 10 <= len(before) < 200

    said = replay(events=200, batch=10)

    assert (said["accepted"], said["duplicates"]) == (200 - len(before), len(before))
    assert len(api.stored) == 200
    assert before.items() <= api.stored.items()


# -- the command line


def test_dry_run_prints_the_sums_and_sends_nothing(api, replay, trace, state_dir):
    said = replay(trace, dry_run=True, api_key=None)

    assert said == {
        "events": 3,
        "context_tokens": 8_098,
        "generated_tokens": 45,
        "cached_tokens": 0,
        "accepted": 0,
        "duplicates": 0,
        "requests": 0,
        "seconds": 0.0,
    }
    assert api.posts == []
    assert not state_dir.exists()


def test_missing_key_says_how_to_get_one(replay, trace, monkeypatch):
    monkeypatch.delenv("METERKEEPER_API_KEY", raising=False)

    with pytest.raises(CommandError, match="issue_api_key"):
        replay(trace, api_key=None)


def test_key_may_come_from_the_environment(api, replay, trace, monkeypatch):
    monkeypatch.setenv("METERKEEPER_API_KEY", "mk_environment")

    replay(trace, api_key=None)

    assert api.headers_seen[-1]["Authorization"] == "Bearer mk_environment"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch": 0}, "--batch is 0; the API takes 1 to 1000 at once"),
        ({"batch": 1_001}, "--batch is 1001"),
        ({"customers": 0}, "--customers is 0; it must be at least 1"),
        ({"events": 0}, "--events is 0; it must be at least 1"),
        ({"api_url": "localhost:8000"}, "'localhost:8000' is no address like http://"),
    ],
)
def test_nonsense_is_refused(replay, options, told):
    with pytest.raises(CommandError, match=told):
        replay(**options)


def test_events_belong_to_generated_traffic(replay, trace):
    with pytest.raises(CommandError, match="--events is for generated traffic"):
        replay(trace, events=5)


def test_malformed_trace_is_refused_before_anything_is_sent(api, replay, trace):
    trace.write_text(TRACE.replace("3180", "lots"))

    with pytest.raises(CommandError, match=r"trace\.csv: line 3, column ContextTokens: 'lots' is"):
        replay(trace)

    assert api.posts == []


def test_missing_file_is_said_in_a_sentence(replay, tmp_path):
    with pytest.raises(CommandError, match=r"none\.csv cannot be read: No such file"):
        replay(tmp_path / "none.csv")


def test_progress_is_one_line_where_nobody_watches(api, trace, capsys):
    call_command("replay", str(trace), api_url=api.url, api_key="mk_test", customers=1, batch=1)

    assert capsys.readouterr().err == "Replaying: 3 of 3\n"


# -- against our own API


@pytest.fixture
def our_replay(live_server, emulator, capsys) -> Callable[..., dict[str, Any]]:
    """Run the command against our API, its default catalogue synced to an emulator."""
    call_command("sync_catalogue")
    _, key = issue("replay", [Scope.INGEST, Scope.MANAGE])

    def run(*arguments: Any, **options: Any) -> dict[str, Any]:
        call_command(
            "replay", *map(str, arguments), api_url=live_server.url, api_key=key, **options
        )
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def _stored_sums() -> dict[str, int]:
    return UsageEvent.objects.aggregate(
        events=Count("id"),
        context_tokens=Sum(Cast("data__input_tokens", BigIntegerField())),
        cached_tokens=Sum(Cast("data__cached_input_tokens", BigIntegerField())),
        generated_tokens=Sum(Cast("data__output_tokens", BigIntegerField())),
    )


def test_replaying_twice_stores_each_call_once(our_replay):
    first = our_replay(events=250, customers=4)
    stored = _stored_sums()

    second = our_replay(events=250, customers=4)

    assert (first["accepted"], first["duplicates"]) == (250, 0)
    assert (second["accepted"], second["duplicates"]) == (0, 250)
    assert stored == {name: first[name] for name in stored}
    assert _stored_sums() == stored
    assert EventConflict.objects.count() == 0
    assert set(Customer.objects.values_list("external_id", flat=True)) == {
        f"demo-000{number}" for number in (1, 2, 3, 4)
    }
    assert Subscription.objects.count() == 4


def test_recorded_trace_is_stored_to_the_token(our_replay):
    if not AZURE_TRACE.exists():
        pytest.skip("the recorded trace lies beside a working copy only")

    said = our_replay(AZURE_TRACE, customers=5, batch=1_000)

    assert (said["accepted"], said["duplicates"]) == (8_819, 0)
    assert _stored_sums() == {
        "events": 8_819,
        "context_tokens": 18_059_974,
        "cached_tokens": 0,
        "generated_tokens": 245_896,
    }
    last = UsageEvent.objects.latest("occurred_at")
    assert abs(last.received_at - last.occurred_at) < timedelta(minutes=2)


def test_lost_state_makes_conflicts_and_no_usage(our_replay, state_dir):
    our_replay(events=30, customers=2)
    shutil.rmtree(state_dir)

    with pytest.raises(CommandError, match="id this id was stored before"):
        our_replay(events=30, customers=2)

    assert UsageEvent.objects.count() == 30
