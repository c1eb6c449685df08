"""The client against our own web server: what it relies on is so."""

import pytest
from meterkeeper_client import Meterkeeper

from billing import authentication
from billing.enums import Scope
from tests.usage.conftest import make_meter
from usage.models import UsageEvent

pytestmark = [pytest.mark.integration, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def ours(live_server):
    """Make clients of our own server, with a key that is good unless another is given."""
    make_meter("input_tokens", "input_tokens")
    _, good = authentication.issue("gateway", [Scope.INGEST])
    made = []

    def make(key=good, **settings):
        settings.setdefault("linger_seconds", 0.05)
        made.append(Meterkeeper(live_server.url, key, **settings))
        return made[-1]

    yield make
    for client in made:
        client.close(0)


def stored():
    return {event.event_id: event for event in UsageEvent.objects.all()}


def test_events_are_stored_under_their_ids_times_and_data(ours, now):
    client = ours()

    made = client.record("llm.call", "acme", {"input_tokens": 7, "model": "ü"})
    own = client.record("llm.call", "acme", {"input_tokens": 8}, id="mine")

    assert client.flush(10)
    events = stored()
    assert sorted(events) == sorted([made, own])
    assert events[made].data == {"input_tokens": 7, "model": "ü"}
    assert events[made].subject == "acme"
    assert abs((events[made].occurred_at - events[made].received_at).total_seconds()) < 10


def test_a_repetition_after_a_lost_answer_is_a_duplicate(ours, monkeypatch):
    """F01: the first answer is thrown away after our server has stored the batch."""
    client = ours()
    post = client._sender._transport._post
    calls = []

    def lossy(body, count):
        answer = post(body, count)
        calls.append((body, answer))
        if len(calls) == 1:
            raise TimeoutError("the answer was lost")
        return answer

    monkeypatch.setattr(client._sender._transport, "_post", lossy)
    ids = [client.record("llm.call", "acme", {"input_tokens": n}) for n in range(50)]

    assert client.flush(10)
    assert [body for body, _ in calls] == [calls[0][0]] * 2
    assert sorted(stored()) == sorted(ids)
    assert (client.stats().stored, client.stats().retries) == (50, 1)


def test_refused_events_are_named_by_our_server_and_the_others_stored(ours):
    """F12."""
    problems = []
    client = ours(on_problem=problems.append)
    good = [client.record("llm.call", "acme", {"input_tokens": 1}) for _ in range(3)]
    wrong_type = client.record("nobody.reads", "acme", {"input_tokens": 1})
    wrong_value = client.record("llm.call", "acme", {"input_tokens": -1})
    too_old = client.record("llm.call", "acme", {"input_tokens": 1}, time="2020-01-01T00:00:00Z")

    assert client.flush(10)

    assert sorted(stored()) == sorted(good)
    assert {(each.kind, each.event_id): each.detail for each in problems} == {
        ("refused", wrong_type): "type 'nobody.reads' is read by no meter of the catalogue",
        ("refused", wrong_value): "data.input_tokens must not be negative",
        ("refused", too_old): "time is more than 34 days in the past",
    }
    assert (client.stats().stored, client.stats().refused) == (3, 3)


def test_an_id_that_comes_back_with_another_payload_is_refused_as_a_conflict(ours):
    """F04."""
    problems = []
    client = ours(on_problem=problems.append)
    for tokens in (1, 2):
        client.record("llm.call", "acme", {"input_tokens": tokens}, id="same")
        assert client.flush(10)

    assert [(each.kind, each.event_id) for each in problems] == [("refused", "same")]
    assert stored()["same"].data == {"input_tokens": 1}


def test_a_key_our_server_does_not_know_keeps_the_events(ours):
    problems = []
    client = ours(key="mk_abcdefgh_" + "x" * 43, on_problem=problems.append)
    client.record("llm.call", "acme", {"input_tokens": 1})

    assert not client.flush(1)
    assert stored() == {}
    assert client.stats().queued == 1
    assert [each.kind for each in problems] == ["denied"]
    assert problems[0].detail.startswith("401 Send a valid API key")


def test_the_largest_batches_are_taken(ours):
    client = ours(batch_events=1_000, linger_seconds=5)

    ids = [client.record("llm.call", "acme", {"input_tokens": n}) for n in range(1_000)]
    ids += [
        client.record("llm.call", "acme", {"input_tokens": 1, "note": "ü" * 4_000})
        for _ in range(70)
    ]

    assert client.flush(30)
    assert sorted(stored()) == sorted(ids)
    assert client.stats().retries == 0


def test_compressed_batches_are_taken(ours):
    client = ours(compress=True)

    ids = [client.record("llm.call", "acme", {"input_tokens": n}) for n in range(300)]

    assert client.flush(10)
    assert sorted(stored()) == sorted(ids)
    assert client.stats().retries == 0
