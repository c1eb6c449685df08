"""POST /api/v1/events: what callers send, and what each is told."""

from __future__ import annotations

import io
import json
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from billing.authentication import issue
from billing.enums import Scope
from usage.models import EventConflict, IngestBatch, UsageEvent

pytestmark = pytest.mark.integration

ONE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


@pytest.fixture
def key(meters) -> str:
    _, plain = issue("gateway", [Scope.INGEST])
    return plain


@pytest.fixture
def post(client: Client, key: str):
    def post(body, content_type=ONE, authorization=None, **headers):
        if not isinstance(body, bytes | str):
            body = json.dumps(body)
        return client.post(
            "/api/v1/events",
            data=body,
            content_type=content_type,
            headers={"Authorization": authorization or f"Bearer {key}"} | headers,
        )

    return post


def event(**changes):
    """An event as a caller would send it; a change to ... leaves the attribute out."""
    whole = {
        "specversion": "1.0",
        "id": "e-1",
        "source": "my-app",
        "type": "llm.call",
        "subject": "acme",
        "time": timezone.now().isoformat(),
        "data": {"input_tokens": 10},
    } | changes
    return {name: value for name, value in whole.items() if value is not ...}


def stored() -> list[str]:
    return sorted(UsageEvent.objects.values_list("event_id", flat=True))


@pytest.mark.parametrize(
    "content_type", [ONE, "application/json", f"{ONE}; charset=utf-8", "Application/JSON"]
)
def test_one_event_is_stored_and_answered_204(post, content_type):
    answer = post(event(), content_type)

    assert (answer.status_code, answer.content) == (204, b"")
    assert stored() == ["e-1"]


@pytest.mark.parametrize("content_type", [BATCH, "application/json"])
def test_a_batch_is_stored_and_answered_204(post, content_type):
    answer = post([event(id="a"), event(id="b", time=...)], content_type)

    assert answer.status_code == 204
    assert stored() == ["a", "b"]


def test_each_outcome_is_told_on_demand(post):
    post(event(id="a", time=...))

    answer = post([event(id="a", time=...), event(id="b")], BATCH, Prefer="return=representation")

    assert answer.status_code == 200
    assert answer.json() == {
        "accepted": 1,
        "duplicates": 1,
        "events": [{"index": 0, "outcome": "duplicate"}, {"index": 1, "outcome": "accepted"}],
    }


def test_the_source_is_the_keys_and_not_the_bodys(post):
    post(event(source="another-tenant"))

    assert UsageEvent.objects.get().source.name == "gateway"


def test_refused_events_are_named_and_the_others_stored(post):
    answer = post(
        [event(id="a"), event(id="b", subject=...), event(id="c"), event(id="d", data={"x": 1})],
        BATCH,
    )

    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["accepted"], problem["duplicates"]) == (400, 2, 0)
    assert problem["errors"] == [
        {"index": 1, "field": "subject", "reason": "is required"},
        {"index": 3, "field": "data.input_tokens", "reason": "is required by input_tokens"},
    ]
    assert stored() == ["a", "c"]


def test_a_conflict_is_told_and_kept(post):
    post(event(time=...))

    answer = post(event(time=..., data={"input_tokens": 11}))

    assert answer.status_code == 400
    assert answer.json()["errors"] == [
        {
            "index": 0,
            "field": "id",
            "reason": "this id was stored before with another payload, which stays",
        }
    ]
    assert EventConflict.objects.get().payload["data"] == {"input_tokens": 11}


def days(count: float) -> str:
    return (timezone.now() + timedelta(days=count)).isoformat()


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (event(id=...), "id"),
        (event(id=""), "id"),
        (event(id=7), "id"),
        (event(id="x" * 201), "id"),
        (event(id="a\nb"), "id"),
        (event(id="a\u0000b"), "id"),
        (event(type=...), "type"),
        (event(type="llm.cal"), "type"),
        (event(subject=...), "subject"),
        (event(subject=None), "subject"),
        (event(specversion="0.3"), "specversion"),
        (event(time="yesterday"), "time"),
        (event(time="2026-11-20T12:00:00"), "time"),
        (event(time="0001-01-01T00:00:00+14:00"), "time"),
        (event(time=1700000000), "time"),
        (event(data=...), "data"),
        (event(data=[1]), "data"),
        (event(data="text"), "data"),
        (event(data={"input_tokens": 1, "note": "x" * 9000}), "data"),
        (event(data={"input_tokens": 1, "note": "\u0000"}), "data.note"),
        (event(data={"input_tokens": 1, "deep": [[[[[1]]]]]}), "data.deep"),
        (event(data={}), "data.input_tokens"),
        (event(data={"input_tokens": None}), "data.input_tokens"),
        (event(data={"input_tokens": True}), "data.input_tokens"),
        (event(data={"input_tokens": "ten"}), "data.input_tokens"),
        (event(data={"input_tokens": -1}), "data.input_tokens"),
        (event(data={"input_tokens": 0.5}), "data.input_tokens"),
        (event(data={"input_tokens": 10**15}), "data.input_tokens"),
        (event(data={"input_tokens": {"n": 1}}), "data.input_tokens"),
        ([1], ""),
        ([None], ""),
        (["text"], ""),
    ],
)
def test_a_bad_event_is_refused_by_index_and_field(post, bad, field):
    bad = bad[0] if isinstance(bad, list) else bad

    answer = post([event(id="good"), bad], BATCH)

    assert answer.status_code == 400
    [error] = answer.json()["errors"]
    assert (error["index"], error["field"]) == (1, field)
    assert error["reason"]
    assert stored() == ["good"]


def test_times_beyond_the_limits_are_refused(post):
    answer = post([event(id="a", time=days(-36)), event(id="b", time=days(1))], BATCH)

    assert answer.json()["errors"] == [
        {"index": 0, "field": "time", "reason": "is more than 34 days in the past"},
        {"index": 1, "field": "time", "reason": "is more than 120 s in the future"},
    ]
    assert stored() == []


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ('{"input_tokens":NaN}', "data.input_tokens"),
        ('{"model":"NaN","input_tokens":-Infinity}', "data.input_tokens"),
        ('{"input_tokens":1,"note":[NaN]}', ""),
        ('{"input_tokens":1e400}', "data.input_tokens"),
        ('{"input_tokens":1,"input_tokens":2}', "data"),
        ('{"input_tokens":"1e400"}', "data.input_tokens"),
        ('{"input_tokens":"NaN"}', "data.input_tokens"),
    ],
)
def test_numbers_that_are_none_are_refused(post, data, field):
    body = f'{{"id":"a","type":"llm.call","subject":"acme","data":{data}}}'

    answer = post(body)

    assert answer.status_code == 400
    [error] = answer.json()["errors"]
    assert (error["index"], error["field"]) == (0, field)
    assert "nothing is stored" in answer.json()["detail"]
    assert stored() == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("space", ["", " \n\t"])
def test_a_number_json_has_not_sinks_no_neighbour(post, value, space):
    good = json.dumps(event(id="a", time=...)), json.dumps(event(id="ü {[,]}", time=...))
    bad = f'{{"id":"b","type":"llm.call","subject":"acme","data":{{"input_tokens":{value}}}}}'

    answer = post(f"{space}[{space}{good[0]},{space}{bad}{space},{good[1]}{space}]{space}", BATCH)

    assert answer.json()["errors"] == [
        {
            "index": 1,
            "field": "data.input_tokens",
            "reason": f"must be a number that JSON has, not {value}",
        }
    ]
    assert stored() == ["a", "ü {[,]}"]


@pytest.mark.parametrize(
    "body",
    [
        "[NaN",
        "[NaN,",
        "[NaN,]",
        "[NaN NaN]",
        "[NaN]]",
        "[NaN] x",
        "NaN NaN",
        "[,NaN]",
        '["a", NaN',
        "[" * 99_999,
    ],
)
def test_a_body_that_nobody_can_read_is_refused_whole(post, body):
    answer = post(body, "application/json")

    assert answer.status_code == 400
    assert "errors" not in answer.json()


@pytest.mark.parametrize("id_", [b"b\xff", b'b","note":"\xff', b"b\xed\xa0\x80"])
def test_bytes_that_are_no_text_sink_no_neighbour(post, id_):
    good = json.dumps(event(id="a")).encode()
    bad = b'{"id":"' + id_ + b'","type":"llm.call","subject":"acme","data":{"input_tokens":1}}'

    answer = post(b"[" + good + b"," + bad + b"," + good.replace(b'"a"', b'"c"') + b"]", BATCH)

    assert answer.status_code == 400
    [error] = answer.json()["errors"]
    assert (error["index"], error["reason"][:17]) == (1, "is not valid JSON")
    assert stored() == ["a", "c"]


def test_a_number_of_any_length_sinks_no_neighbour(post):
    """Python reads no number of more than 4,300 digits, and has to read the body beside a NaN."""
    good = json.dumps(event(id="a"))
    long = json.dumps(event(id="b")).replace("10}", "9" * 5000 + "}")
    bad = json.dumps(event(id="c", data={"input_tokens": float("nan")}))

    answer = post(f"[{good},{long},{bad}]", BATCH)

    assert [error["index"] for error in answer.json()["errors"]] == [1, 2]
    assert stored() == ["a"]


@pytest.mark.parametrize(
    "attributes",
    [
        '"id":"a","id":"b","source":"specversion"',
        '"id":"a","source":"specversion","source":""',
        '"id":"specversion","id":"a"',
        '"id":"a","specversion":"1.0","specversion" :"1.0"',
    ],
)
def test_no_value_hides_an_attribute_that_stands_twice(post, attributes):
    body = f'{{{attributes},"type":"llm.call","subject":"acme","data":{{"input_tokens":1}}}}'

    answer = post(body)

    assert answer.json()["errors"] == [
        {"index": 0, "field": "", "reason": "must not hold an attribute twice"}
    ]
    assert stored() == []


@pytest.mark.parametrize("data", ['{"input_tokens":1}', '{"input_tokens":1,"specversion":"1.0"}'])
def test_an_attribute_that_stands_twice_is_refused(post, data):
    body = f'{{"id":"a","id":"b","type":"llm.call","subject":"acme","data":{data}}}'

    answer = post(body)

    assert answer.json()["errors"] == [
        {"index": 0, "field": "", "reason": "must not hold an attribute twice"}
    ]
    assert stored() == []


def test_extension_attributes_are_allowed(post):
    assert post(event(tenant="t:1", dataschema="https://example.com/a", n=1)).status_code == 204


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", ONE, 400),
        (b"  \n", ONE, 400),
        (b"{", ONE, 400),
        (b"nonsense", BATCH, 400),
        (b"\xff\xfe", ONE, 400),
        (b'{"id": "a"} trailing', ONE, 400),
        (b"[]", ONE, 400),
        (b"{}", BATCH, 400),
        (b"[" * 20_000 + b"]" * 20_000, BATCH, 400),
        (b'{"id":' + b"[" * 20_000 + b"]" * 20_000 + b"}", ONE, 400),
        (b"id=1", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain", 415),
        (b"[" + b" " * 1024 * 1024 + b"]", BATCH, 413),
        (json.dumps([{}] * 1001).encode(), BATCH, 413),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_whole(post, body, content_type, status):
    answer = post(body, content_type)

    assert answer.status_code == status
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"]


def test_an_empty_batch_is_answered_204_and_stores_nothing(post):
    assert post([], BATCH).status_code == 204
    assert not IngestBatch.objects.exists()


def test_an_encoded_body_is_refused_and_not_misread(post):
    answer = post(b"\x1f\x8b", ONE, **{"Content-Encoding": "gzip"})

    assert answer.status_code == 415


@pytest.mark.parametrize("length", ["some", "1e3", "9" * 5000])
def test_a_length_that_is_no_number_is_refused(client, key, length):
    answer = client.post(
        "/api/v1/events",
        data=b"{}",
        content_type=ONE,
        headers={"Authorization": f"Bearer {key}"},
        CONTENT_LENGTH=length,
    )

    assert answer.status_code == 400
    assert "Content-Length" in answer.json()["detail"]


def test_a_body_shorter_than_its_length_is_refused(client, key):
    """What came is whole events, and still not all that the caller set out to send."""
    body = json.dumps(event())

    answer = client.post(
        "/api/v1/events",
        data=body,
        content_type=ONE,
        headers={"Authorization": f"Bearer {key}"},
        **{"wsgi.input": io.BytesIO(body.encode()), "CONTENT_LENGTH": str(len(body) + 1)},
    )

    assert (answer.status_code, answer.json()["detail"]) == (400, "The body ended early.")
    assert stored() == []


@pytest.mark.parametrize("authorization", ["Bearer nonsense", "Basic !", "mk_x", " "])
def test_without_a_key_nothing_is_read(post, authorization):
    answer = post(event(), authorization=authorization)

    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == "Bearer"
    assert stored() == []


def test_a_key_of_another_scope_is_refused(post):
    _, reader = issue("gateway", [Scope.READ, Scope.MANAGE])

    answer = post(event(), authorization=f"Bearer {reader}")

    assert answer.status_code == 403
    assert "ingest" in answer.json()["detail"]
    assert stored() == []


def test_another_method_is_refused(client, key):
    answer = client.get("/api/v1/events", headers={"Authorization": f"Bearer {key}"})

    assert (answer.status_code, answer["Allow"]) == (405, "POST")


def test_no_redirect_swallows_a_post(client, key):
    assert client.post("/api/v1/events/", data=b"", content_type=ONE).status_code == 404


def test_when_the_database_cannot_store_the_caller_is_told_to_come_back(post):
    with connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE usage_ingestbatch ADD CONSTRAINT full_disk CHECK (event_count < 0)"
        )

    answer = post(event())

    assert answer.status_code == 503
    assert answer["Retry-After"] == "5"
    assert stored() == []


@pytest.mark.django_db(transaction=True)
def test_no_answer_can_come_before_the_outermost_commit(post):
    """F03: inside somebody's transaction a 2xx would be a promise nobody keeps."""
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        post(event())

    assert stored() == []


def test_a_thousand_events_take_the_same_few_queries_as_one(post, django_assert_num_queries):
    post(event())
    few = 7

    with django_assert_num_queries(few):
        assert post([event(id=str(i)) for i in range(1000)], BATCH).status_code == 204
    with django_assert_num_queries(few):
        assert post(event(id="one")).status_code == 204
