"""What each answer means for the events of a request."""

import json
import time
from email.message import Message
from email.utils import formatdate

import pytest
from meterkeeper_client.transport import Answer, Fate, Refusal, Transport, judge

pytestmark = pytest.mark.unit

PROBLEM = "application/problem+json"


def judged(status, body=None, content_type=PROBLEM, count=3, **headers):
    message = Message()
    message["Content-Type"] = content_type
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return judge(status, message, json.dumps(body or {}).encode(), count)


def test_success_settles_all():
    assert judged(204) == Answer(Fate.STORED)
    assert judged(200, {"accepted": 3}, "application/json") == Answer(Fate.STORED)


@pytest.mark.parametrize("status", [200, 201, 202, 206])
def test_success_of_somebody_else_settles_nothing(status):
    assert judged(status, content_type="text/html").fate is Fate.DENIED


def test_named_events_are_refused_and_the_others_stored():
    errors = [
        {"index": 2, "field": "data.input_tokens", "reason": "must be a number"},
        {"index": 0, "field": "", "reason": "is not valid JSON"},
        {"index": 2, "field": "id", "reason": "was told already"},
    ]

    answer = judged(400, {"detail": "2 of 3 refused.", "errors": errors})

    assert answer == Answer(
        Fate.STORED,
        "400 2 of 3 refused.",
        (Refusal(0, "it is not valid JSON"), Refusal(2, "data.input_tokens must be a number")),
    )


@pytest.mark.parametrize(
    "errors", [[], "all", [{"index": 3}], [{"index": -1}], [{"index": True}], [{}], [None]]
)
def test_errors_that_name_no_event_of_ours_refuse_none(errors):
    answer = judged(400, {"errors": errors})

    assert (answer.fate, answer.refusals) == (Fate.UNREADABLE, ())


@pytest.mark.parametrize(
    ("status", "content_type", "count", "fate"),
    [
        (400, PROBLEM, 3, Fate.UNREADABLE),
        (422, PROBLEM, 1, Fate.UNREADABLE),
        (413, PROBLEM, 1, Fate.UNREADABLE),
        (413, "text/html", 3, Fate.UNREADABLE),
        (413, "text/html", 1, Fate.DENIED),
        (400, "text/html", 3, Fate.DENIED),
        (401, PROBLEM, 3, Fate.DENIED),
        (403, PROBLEM, 3, Fate.DENIED),
        (404, "text/html", 3, Fate.DENIED),
        (415, PROBLEM, 3, Fate.DENIED),
        (301, "text/html", 3, Fate.DENIED),
        (408, PROBLEM, 3, Fate.LATER),
        (409, PROBLEM, 3, Fate.LATER),
        (425, PROBLEM, 3, Fate.LATER),
        (429, PROBLEM, 3, Fate.LATER),
        (500, "text/html", 3, Fate.LATER),
        (503, PROBLEM, 3, Fate.LATER),
        (599, "text/html", 3, Fate.LATER),
    ],
)
def test_each_other_status_has_its_fate(status, content_type, count, fate):
    assert judged(status, content_type=content_type, count=count).fate is fate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("0", 0.0), ("99999", 3600.0), ("soon", None), ("", None), ("-5", None)],
)
def test_retry_after_is_read(text, seconds):
    assert judged(503, Retry_After=text).retry_after == seconds


def test_retry_after_may_be_a_date():
    later = judged(429, Retry_After=formatdate(time.time() + 100, usegmt=True)).retry_after
    past = judged(429, Retry_After=formatdate(0, usegmt=True)).retry_after

    assert later == pytest.approx(100, abs=2)
    assert past == 0.0


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("meterkeeper.example", "k"),
        ("ftp://x", "k"),
        ("https://", "k"),
        ("http://x:port", "k"),
        ("http://x", ""),
        ("http://x", "a\nb"),
        ("http://x", "ü"),
    ],
)
def test_an_address_or_key_that_cannot_work_is_refused_at_once(url, key):
    with pytest.raises(ValueError):  # noqa: PT011 - the last is the library's own
        Transport(url, key, timeout=1, compress=False, context=None)
