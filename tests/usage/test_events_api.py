"""POST /api/v1/events: what callers send, and what each is told."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import zlib
from datetime import timedelta
from decimal import Decimal

import pytest
import time_machine
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from billing.authentication import Caller, Limits, issue
from billing.enums import Scope
from billing.key_limits import spend
from billing.models import ApiKey, KeySpending
from tests.factories.billing import make_customer
from usage.models import EventConflict, IngestBatch, UsageEvent
from usage.reports import CONFLICT
from usage.storing import COPY_FROM

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
        "events": [{"index": 0, "outcome": "duplicate"}, {"index": 1, "outcome": "held"}],
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


# --- compressed ------------------------------------------------------------------------------------

GZIP = {"Content-Encoding": "gzip"}


def test_a_gzip_body_is_stored(post):
    whole = [event(id=str(number)) for number in range(1_000)]

    text = json.dumps(whole).encode()
    answer = post(gzip.compress(text[:20_000]) + gzip.compress(text[20_000:]), BATCH, **GZIP)

    assert answer.status_code == 204
    assert len(stored()) == 1_000


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"\x1f\x8b", 400, "The gzip body ended early."),
        (gzip.compress(b"[]")[:-1], 400, "The gzip body ended early."),
        (gzip.compress(b"[]") + b"[]", 400, "The body is not gzip"),
        (gzip.compress(b"") * 101, 400, "A gzip body takes at most 100 members."),
        (b"[]", 400, "The body is not gzip"),
        (zlib.compress(b"[]"), 400, "The body is not gzip"),
        (b"", 400, "The gzip body ended early."),
        (gzip.compress(b""), 400, "The body is empty."),
        # A few kilobytes that stand for thirty million, and what is a byte too much as it comes.
        (gzip.compress(b" " * 30_000_000), 413, "Inflated, a request takes at most"),
        (gzip.compress(os.urandom(2**20 + 1)), 413, "A request takes at most 1048576 bytes."),
        (gzip.compress(b" " * 500_000), 413, "200 times what was sent"),
    ],
    # A packed text begins with the time at which it was packed.
    ids=itertools.count(),
)
def test_a_gzip_body_that_is_not_whole_or_too_large_is_refused(post, body, status, detail):
    answer = post(body, BATCH, **GZIP)

    assert answer.status_code == status
    assert detail in answer.json()["detail"]
    assert stored() == []


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd"])
def test_another_encoding_is_refused_and_not_misread(post, encoding):
    answer = post(json.dumps(event()).encode(), ONE, **{"Content-Encoding": encoding})

    assert answer.status_code == 415
    assert stored() == []


# --- limited keys ----------------------------------------------------------------------------------


@pytest.fixture
def limited(client, meters):
    """Post with a key that has these limits."""

    def limited(body, **limits):
        _, plain = issue("gateway", [Scope.INGEST], limits=Limits(**limits))
        return [
            client.post(
                "/api/v1/events",
                data=json.dumps(each),
                content_type="application/json",
                headers={"Authorization": f"Bearer {plain}"},
            )
            for each in body
        ]

    return limited


def test_a_key_for_one_customer_reports_for_no_other(limited):
    [answer] = limited(
        [[event(id="a"), event(id="b", subject="globex"), event(id="c")]],
        customers=frozenset({"acme"}),
    )

    assert answer.status_code == 400
    assert answer.json()["errors"] == [
        {"index": 1, "field": "subject", "reason": "is a customer this API key is not for"}
    ]
    assert stored() == ["a", "c"]
    assert not KeySpending.objects.exists()


def test_events_beyond_a_keys_limit_wait_for_the_next_minute(limited):
    with time_machine.travel("2026-11-20T12:00:10Z", tick=False):
        first, second, third = limited(
            [[event(id="a"), event(id="b")], [event(id="c"), event(id="d")], event(id="e")],
            events_per_minute=3,
        )

    assert [answer.status_code for answer in (first, second, third)] == [204, 429, 204]
    assert second["Retry-After"] == "50"
    assert "may report 3 events a minute, and has. Nothing is stored" in second.json()["detail"]
    assert stored() == ["a", "b", "e"]
    with time_machine.travel("2026-11-20T12:01:00Z", tick=False):
        [key] = ApiKey.objects.all()
        assert authenticate_and_spend(key) is None


def authenticate_and_spend(key):
    caller = Caller(key.source_id, "gateway", key.prefix, frozenset(), Limits(None, 3, None))
    return spend(caller, events=3, units=Decimal(0), now=timezone.now())


def test_units_beyond_a_keys_limit_are_refused_as_a_whole(limited):
    few, many, never = limited(
        [
            event(id="a", data={"input_tokens": 60}),
            [event(id="b", data={"input_tokens": 30}), event(id="c", data={"input_tokens": 11})],
            event(id="d", data={"input_tokens": 101}),
        ],
        units_per_minute=100,
    )

    assert [answer.status_code for answer in (few, many, never)] == [204, 429, 413]
    assert "may report 100 units a minute; these are 101" in never.json()["detail"]
    assert stored() == ["a"]


# --- each outcome ----------------------------------------------------------------------------------


def test_each_outcome_is_told_by_index_also_beside_a_refusal(post):
    make_customer("acme")
    post([event(id="known"), event(id="changed")], BATCH)

    answer = post(
        [
            event(id="known", time=...),
            event(id="changed", data={"input_tokens": 11}),
            event(id="new"),
            event(id="unknown", subject="nobody"),
            event(id="bad", data={"input_tokens": -1}),
            event(id=7),
        ],
        BATCH,
        Prefer="return=representation",
    )

    assert answer.status_code == 400
    assert answer.json()["events"] == [
        {"index": 0, "outcome": "conflict", "field": "id", "reason": CONFLICT.reason},
        {"index": 1, "outcome": "conflict", "field": "id", "reason": CONFLICT.reason},
        {"index": 2, "outcome": "accepted"},
        {"index": 3, "outcome": "held"},
        {
            "index": 4,
            "outcome": "refused",
            "field": "data.input_tokens",
            "reason": "must not be negative",
        },
        {"index": 5, "outcome": "refused", "field": "id", "reason": "must be a string"},
    ]


def test_the_same_body_again_is_all_duplicates(post):
    body = [event(id="a"), event(id="b", subject="nobody")]
    post(body, BATCH)

    answer = post(body, BATCH, Prefer="return=representation")

    assert answer.json() == {
        "accepted": 0,
        "duplicates": 2,
        "events": [{"index": 0, "outcome": "duplicate"}, {"index": 1, "outcome": "duplicate"}],
    }


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


def test_a_thousand_events_take_as_few_queries_as_a_hundred(post, django_assert_num_queries):
    def batch(name, count):
        return [event(id=f"{name}-{number}") for number in range(count)]

    post(event())

    with django_assert_num_queries(5):
        assert post(event(id="one")).status_code == 204
    for name, count in (("fewest copied", COPY_FROM), ("most", 1_000)):
        with django_assert_num_queries(8):
            assert post(batch(name, count), BATCH).status_code == 204
