"""POST /api/v1/voids, /submissions/{identifier}/cancel and /backfills: corrections over HTTP."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import time_machine

from billing.authentication import Limits, issue
from billing.enums import Scope
from billing.models import Customer, Source
from tests.usage.conftest import report
from usage import flush
from usage.ingestion import accept
from usage.models import (
    Backfill,
    Cancellation,
    EventConflict,
    IngestBatch,
    Submission,
    UsageEvent,
    Void,
)

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

HOUR = timedelta(hours=1)


class Keys:
    """Keys of the source `gateway`, each with its plain text."""

    def __init__(self) -> None:
        self.key, self.plain = issue("gateway", [Scope.MANAGE])

    @property
    def author(self) -> str:
        return f"{self.key.prefix} (gateway)"

    def limited(self, *customers: str) -> str:
        return issue("gateway", [Scope.MANAGE], limits=Limits(customers=frozenset(customers)))[1]


@pytest.fixture
def keys(source) -> Keys:
    return Keys()


@pytest.fixture
def post(client, keys, now, monkeypatch):
    for module in ("corrections", "backfills"):
        monkeypatch.setattr(f"usage.api.{module}.database_clock", lambda: now)

    def post(path, body, *, key=None, status=200):
        with time_machine.travel(now, tick=False):
            answer = client.post(
                f"/api/v1/{path}",
                data=body if isinstance(body, str | bytes) else json.dumps(body),
                content_type="application/json",
                headers={"Authorization": f"Bearer {key or keys.plain}"},
            )
        assert answer.status_code == status, answer.content
        if status != 200:
            assert answer["Content-Type"] == "application/problem+json"
        return answer.json()

    return post


def event(event_id="e-1", *, at, subject="acme", **data):
    return {
        "id": event_id,
        "type": "llm.call",
        "subject": subject,
        "time": at.isoformat(),
        "data": data or {"input_tokens": 10},
    }


# --- voids ----------------------------------------------------------------------------------------


def test_events_are_taken_back_by_id_in_the_keys_name(post, keys, store, acme, now):
    store(report("a", at=now), report("b", at=now), report("c", at=now))

    answer = post("voids", {"ids": ["b", "a"], "reason": "counted twice"})

    assert answer == {
        "voided": 2,
        "already_voided": 0,
        "meaning": "Took 2 events back; the next flush sends their negative.",
        "events": [
            {
                "index": index,
                "id": event_id,
                "outcome": "voided",
                "meaning": "Taken back, for every meter that read it; the next flush sends its"
                " negative.",
            }
            for index, event_id in enumerate(["b", "a"])
        ],
    }
    assert sorted(Void.objects.values_list("event_id", "author", "reason", "created_at")) == [
        ("a", keys.author, "counted twice", now),
        ("b", keys.author, "counted twice", now),
    ]


def test_taking_back_again_changes_nothing_and_says_so(post, store, acme, now):
    store(report("a", at=now), report("b", at=now))
    post("voids", {"ids": ["a"], "reason": "counted twice"})

    answer = post("voids", {"ids": ["a", "a"], "reason": "again"})

    assert (answer["voided"], answer["already_voided"]) == (0, 1)
    assert answer["meaning"] == "Nothing changed: all of them had been taken back before."
    assert [each["outcome"] for each in answer["events"]] == ["already_voided"] * 2
    assert Void.objects.get().reason == "counted twice"
    mixed = post("voids", {"ids": ["a", "b"], "reason": "both"})
    assert [each["outcome"] for each in mixed["events"]] == ["already_voided", "voided"]


def test_unknown_ids_are_named_by_index_and_none_is_taken_back(post, store, acme, now):
    store(report("a", at=now))

    problem = post("voids", {"ids": ["x", "a", "y"], "reason": "r"}, status=422)

    assert problem["errors"] == [
        {"index": 0, "field": "ids", "id": "x", "reason": "is stored by no source 'gateway'"},
        {"index": 2, "field": "ids", "id": "y", "reason": "is stored by no source 'gateway'"},
    ]
    assert problem["detail"] == (
        "2 of 3 ids cannot be voided, so none was. Id 0: 'x' is stored by no source 'gateway'."
    )
    assert not Void.objects.exists()


def test_another_source_is_named(post, store, acme, now):
    store(report("a", at=now))
    _, console = issue("console", [Scope.MANAGE])
    body = {"ids": ["a"], "reason": "r"}

    post("voids", body, key=console, status=422)
    post("voids", body | {"source": "nowhere"}, key=console, status=422)
    assert not Void.objects.exists()

    assert post("voids", body | {"source": "gateway"}, key=console)["voided"] == 1
    assert Void.objects.get().source.name == "gateway"


def test_a_void_is_not_taken_back(post, store, acme, now):
    store(report("a", at=now))
    post("voids", {"ids": ["a"], "reason": "r"})
    void_id = UsageEvent.objects.exclude(voids=None).get().event_id

    problem = post(
        "voids",
        {"ids": [void_id], "reason": "r", "source": "meterkeeper:corrections"},
        status=422,
    )

    assert problem["errors"][0]["reason"] == (
        "is a void itself, which stays; report the usage again"
    )


def test_a_limited_key_takes_back_nothing_of_another_customer(post, keys, store, acme, now):
    store(report("a", at=now), report("b", at=now, subject="globex"))
    key = keys.limited("acme")

    theirs = post("voids", {"ids": ["a", "b"], "reason": "r"}, key=key, status=422)
    nothing = post("voids", {"ids": ["a", "c"], "reason": "r"}, key=key, status=422)

    assert json.dumps(theirs).replace('"b"', '"c"').replace("'b'", "'c'") == json.dumps(nothing)
    assert not Void.objects.exists()
    assert post("voids", {"ids": ["a"], "reason": "r"}, key=key)["voided"] == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ids": []}, "ids"),
        ({"ids": ["a"] * 1001}, "ids"),
        ({"ids": "a"}, "ids"),
        ({"ids": [""]}, "ids.0"),
        ({"ids": ["x" * 201]}, "ids.0"),
        ({"ids": ["a", "b\0"]}, "ids.1"),
        ({"ids": ["\ud800"]}, "ids.0"),
        ({"reason": " \n"}, "reason"),
        ({"reason": "a\0"}, "reason"),
        ({"reason": "\ud800"}, "reason"),
        ({"reason": "x" * 2001}, "reason"),
        ({"source": "\0"}, "source"),
        ({"more": 1}, "more"),
    ],
)
def test_voids_that_make_no_sense_are_refused_by_field(post, store, acme, now, change, field):
    store(report("a", at=now))

    problem = post("voids", {"ids": ["a"], "reason": "r"} | change, status=422)

    assert [error["field"] for error in problem["errors"]] == [field]
    assert not Void.objects.exists()


# --- cancellations --------------------------------------------------------------------------------


@pytest.fixture
def sent(world, source, meters, now) -> Submission:
    accept(source_id=source.pk, reports=[report(at=now - HOUR)], now=now)
    flush.flush_batches(now=now)
    world.deliver(seconds=1)
    return Submission.objects.get(meter=meters.input)


def test_a_submission_is_cancelled_once_in_the_keys_name(post, keys, sent, now):
    path = f"submissions/{sent.identifier}/cancel"

    answer = post(path, {"reason": "a test run"})
    again = post(path, {"reason": "once more"})

    negative = Submission.objects.get(meter=sent.meter, value=-10)
    assert (answer["already_cancelled"], answer["voided_events"]) == (False, 1)
    assert answer["cancellation"]["author"] == keys.author
    assert answer["cancellation"]["negative"] == negative.identifier
    assert sent.identifier in answer["cancelled"]
    assert (again["already_cancelled"], again["voided_events"], again["cancelled"]) == (
        True,
        0,
        [],
    )
    assert again["meaning"] == "It had been cancelled before; nothing changed."
    assert again["cancellation"] == answer["cancellation"]
    assert Cancellation.objects.get(original=sent).reason == "a test run"


def test_what_cannot_be_cancelled_is_a_409_with_the_reason(post, store, acme, meters, now):
    store(report(at=now - HOUR))
    flush.flush_batches(now=now)
    made = Submission.objects.get(meter=meters.input)

    problem = post(f"submissions/{made.identifier}/cancel", {"reason": "r"}, status=409)

    assert problem["detail"] == (
        f"{made.identifier} cannot be cancelled: Stripe is not known to have it. Nothing was"
        " voided; its events can be, which sends their negative."
    )
    assert (Void.objects.count(), Cancellation.objects.count()) == (0, 0)


def test_a_submission_that_the_key_may_not_know_is_not_cancelled(post, keys, sent):
    problem = post(
        f"submissions/{sent.identifier}/cancel",
        {"reason": "r"},
        key=keys.limited("globex"),
        status=404,
    )

    assert problem["detail"] == f"There is no submission '{sent.identifier}'."
    post("submissions/none/cancel", {"reason": "r"}, status=404)
    post(f"submissions/{sent.identifier}/cancel", {"reason": ""}, status=422)
    assert not Void.objects.exists()


# --- backfills ------------------------------------------------------------------------------------


def test_a_backfill_is_a_dry_run_unless_said_otherwise(post, keys, store, acme, source, now):
    store(report("known", at=now - HOUR))
    body = {
        "reason": "the exporter was down",
        "events": [
            event("known", at=now - HOUR),
            event("known", at=now - HOUR, input_tokens=11),
            event("a", at=now - HOUR, input_tokens=7),
            event("b", at=now - timedelta(days=40)),
            event("c", at=now, input_tokens=-1),
        ],
    }

    foretold = post("backfills", body)

    assert (foretold["dry_run"], foretold["backfill"]) == (True, None)
    assert {
        name: foretold[name] for name in ("accepted", "duplicates", "conflicts", "refused")
    } == {"accepted": 1, "duplicates": 1, "conflicts": 1, "refused": 2}
    assert [
        (each["index"], each["outcome"], each["field"], each["reason"])
        for each in foretold["events"]
    ] == [
        (0, "duplicate", None, None),
        (1, "conflict", "id", "this id was stored before with another payload, which stays"),
        (2, "accepted", None, None),
        (3, "refused", "time", "is more than 34 days in the past"),
        (4, "refused", "data.input_tokens", "must not be negative"),
    ]
    hour = (now - HOUR).replace(minute=0, second=0).isoformat().replace("+00:00", "Z")
    assert foretold["parts"][0] == {
        "customer": "acme",
        "meter": "input_tokens",
        "unit": "token",
        "period": {"start": None, "end": None},
        "invoice": {
            "id": None,
            "status": "none yet",
            "reason": "No subscription of the customer prices this meter.",
        },
        "outcome": "billed",
        "meaning": "Billed in its period: the next flush folds it, and it is sent to Stripe.",
        "units": "7",
        "event_count": 1,
        "hours": [{"hour": hour, "segment_start": hour, "units": "7", "event_count": 1}],
    }
    assert (UsageEvent.objects.count(), EventConflict.objects.count()) == (1, 0)

    done = post("backfills", body | {"dry_run": False})

    row = Backfill.objects.get()
    assert done["backfill"] == row.pk
    assert (row.author, row.source, row.reason) == (keys.author, source, "the exporter was down")
    assert (done["parts"], done["events"]) == (foretold["parts"], foretold["events"])
    assert done["meaning"] == (
        "1 event stored, 1 stored before, 1 in conflict with what is stored under their id, 2"
        " refused."
    )
    again = post("backfills", body | {"dry_run": False})
    assert (again["accepted"], again["backfill"], again["parts"]) == (0, None, [])
    assert (UsageEvent.objects.count(), IngestBatch.objects.count()) == (2, 2)


def test_a_backfill_goes_to_the_keys_source_whatever_the_events_say(
    post, source, meters, acme, now
):
    Source.objects.create(name="other")
    body = {"events": [event(at=now) | {"source": "other"}], "reason": "r", "dry_run": False}

    post("backfills", body)

    assert UsageEvent.objects.get().source == source


def test_a_limited_key_brings_in_its_own_customers_only(post, keys, acme, now, meters):
    Customer.objects.create(external_id="globex")
    body = {
        "events": [event("a", at=now), event("b", at=now, subject="globex")],
        "reason": "r",
        "dry_run": False,
    }

    answer = post("backfills", body, key=keys.limited("acme"))

    assert [each["outcome"] for each in answer["events"]] == ["accepted", "refused"]
    assert answer["events"][1]["reason"] == "is a customer this API key is not for"
    assert {part["customer"] for part in answer["parts"]} == {"acme"}
    assert UsageEvent.objects.get().event_id == "a"


def test_a_backfill_counts_against_the_keys_limits_once_it_is_stored(post, acme, meters, now):
    _, key = issue("gateway", [Scope.MANAGE], limits=Limits(events_per_minute=2))
    body = {"events": [event("a", at=now)], "reason": "r"}

    for _ in range(3):
        post("backfills", body, key=key)
    for _ in range(2):
        post("backfills", body | {"dry_run": False}, key=key)

    problem = post("backfills", body | {"dry_run": False}, key=key, status=429)
    assert problem["title"] == "Too much for now"
    three = {"events": [event("b", at=now)] * 3, "reason": "r", "dry_run": False}
    assert post("backfills", three, key=key, status=413)["title"] == "Too much for this key"
    assert UsageEvent.objects.get().event_id == "a"


def test_numbers_of_a_backfill_are_read_exactly_and_keys_once(post, acme, meters, now):
    type(meters.input).objects.filter(pk=meters.input.pk).update(scale=6)
    exact = json.dumps(event("a", at=now)).replace("10}", "123456789.000001}")
    twice = json.dumps(event("b", at=now)).replace('"subject"', '"id": "b", "subject"')

    answer = post("backfills", f'{{"events": [{exact}, {twice}], "reason": "r"}}')

    assert answer["parts"][0]["units"] == "123456789000001"
    assert answer["events"][1]["reason"] == "must not hold an attribute twice"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("", "body"),
        ("[]", "body"),
        ("{", "body"),
        (b"\xff", "body"),
        ('{"reason": "r"}', "events"),
        ('{"events": []}', "reason"),
        ('{"events": [], "reason": "r"}', "events"),
        ('{"events": {}, "reason": "r"}', "events"),
        (json.dumps({"events": [{}] * 1001, "reason": "r"}), "events"),
        ('{"events": [{}], "reason": " "}', "reason"),
        ('{"events": [{}], "reason": "\\u0000"}', "reason"),
        ('{"events": [{}], "reason": 5}', "reason"),
        ('{"events": [{}], "reason": "r", "dry_run": "no"}', "dry_run"),
        ('{"events": [{}], "reason": "r", "dryrun": false}', "body"),
    ],
)
def test_a_backfill_that_makes_no_sense_is_refused_by_field(post, meters, body, field):
    problem = post("backfills", body, status=422)

    assert [error["field"] for error in problem["errors"]] == [field]
    assert not UsageEvent.objects.exists()
