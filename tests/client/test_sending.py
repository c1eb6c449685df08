"""Events reach the server once each, whatever it answers; what cannot is counted and told."""

import asyncio
import json
import logging
import shutil
import ssl
import subprocess
import threading
import time
import uuid

import pytest
from meterkeeper_client import Meterkeeper, Problem, Stats

from tests.client.conftest import KEY, USE, is_balanced
from tests.client.server import LOST, STORED_BUT_LOST, Reply, Server, problem

pytestmark = pytest.mark.integration

BUSY = Reply(503)


def record(client, count, **data):
    return [client.record("llm.call", "acme", USE | data) for _ in range(count)]


def stats(**counts):
    return Stats(**dict.fromkeys(Stats.__dataclass_fields__, 0) | counts)


def test_a_recorded_use_is_stored_as_it_was(client, server):
    data = {"input_tokens": 5, "tags": ["a"]}

    event_id = client.record("llm.call", "acme", data)
    data["input_tokens"] = 6
    data["tags"].append("b")

    assert client.flush(5)
    assert uuid.UUID(event_id).version == 7
    [event] = server.stored.values()
    assert event.pop("time").endswith("Z")
    assert event == {
        "specversion": "1.0",
        "source": "meterkeeper-client",
        "id": event_id,
        "type": "llm.call",
        "subject": "acme",
        "data": {"input_tokens": 5, "tags": ["a"]},
    }
    headers = server.headers[0]
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/cloudevents-batch+json"
    assert client.stats() == stats(recorded=1, stored=1)


def test_an_id_and_a_time_of_the_callers_own_are_kept(client, server):
    assert client.record("t", "c", {}, id="mine", time="2026-11-20T12:00:00Z") == "mine"

    assert client.flush(5)
    assert server.stored["mine"]["time"] == "2026-11-20T12:00:00Z"


def test_nothing_runs_and_nothing_is_sent_before_the_first_event(client, server):
    names = [thread.name for thread in threading.enumerate()]

    assert "meterkeeper-client" not in names
    assert client.flush(0)
    assert server.connections == 0


def test_many_events_go_in_batches_over_one_connection(make_client, server, either):
    client = make_client(batch_events=400, linger_seconds=5, **either)

    ids = record(client, 1_000)

    assert client.flush(10)
    assert list(server.stored) == ids
    assert [len(json.loads(body)) for body in server.bodies] == [400, 400, 200]
    assert server.connections == 1


def test_large_events_keep_a_request_below_the_servers_limit(make_client, server, either):
    client = make_client(linger_seconds=5, **either)

    ids = record(client, 200, text="x" * 8_000)

    assert client.flush(10)
    assert list(server.stored) == ids
    assert max(map(len, server.bodies)) <= 512 * 1024


@pytest.mark.parametrize("trouble", [LOST, STORED_BUT_LOST, BUSY, Reply(429), Reply(500)])
def test_the_very_same_bytes_go_again_until_they_are_answered(make_client, server, either, trouble):
    server.script += [trouble] * 3
    client = make_client(**either)

    ids = record(client, 20)

    assert client.flush(10)
    assert list(server.stored) == ids
    assert set(server.arrivals.values()) == {len(server.bodies)}
    assert len(set(server.bodies)) == 1
    assert len(server.bodies) >= 4
    counts = client.stats()
    assert (counts.recorded, counts.stored, counts.queued) == (20, 20, 0)
    assert counts.retries in {2, 3}  # a kept connection that breaks is made anew at once


def test_a_server_that_is_away_is_waited_for(make_client, dead_port, problems, either):
    client = make_client(f"http://127.0.0.1:{dead_port}", **either)
    ids = record(client, 10)

    assert not client.flush(0.3)
    assert client.stats().queued == 10
    server = Server(dead_port)
    try:
        assert client.flush(10)
        assert list(server.stored) == ids
    finally:
        server.close()
    assert [each.kind for each in problems] == ["unreachable"]
    assert "ConnectionRefusedError" in problems[0].detail


def test_retry_after_is_obeyed_also_in_a_hurry(client, server):
    server.script += [Reply(503, headers={"Retry-After": "1"})]
    record(client, 1)
    began = time.monotonic()

    assert client.flush(10)

    assert time.monotonic() - began >= 1
    assert len(server.bodies) == 2


def test_refused_events_are_named_and_their_neighbours_stored(
    make_client, server, problems, either, caplog
):
    client = make_client(linger_seconds=5, **either)
    ids = record(client, 5)
    server.refuses = {ids[1]: "must be a number", ids[3]: "is too large"}

    assert client.flush(5)

    assert sorted(server.stored) == [ids[0], ids[2], ids[4]]
    assert problems == [
        Problem("refused", "data must be a number", ids[1]),
        Problem("refused", "data is too large", ids[3]),
    ]
    counts = client.stats()
    assert (counts.stored, counts.refused, counts.retries, counts.queued) == (3, 2, 0, 0)
    assert set(server.arrivals.values()) == {1}
    assert [each.levelno for each in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_key_that_is_not_taken_keeps_the_events_and_is_told(
    make_client, server, problems, either, status
):
    server.otherwise = problem(status, title="Not authenticated")
    client = make_client(**either)
    ids = record(client, 3)
    assert not client.flush(0.2)
    assert server.stored == {}

    server.otherwise = None

    assert client.flush(10)
    assert list(server.stored) == ids
    assert problems == [Problem("denied", f"{status} Not authenticated")]


def test_a_page_that_answers_200_settles_nothing(client, server):
    server.script += [Reply(200, b"<p>Log in", {"Content-Type": "text/html"})]
    ids = record(client, 3)

    assert client.flush(10)
    assert list(server.stored) == ids


def test_a_batch_too_large_for_the_server_is_halved(make_client, server, either):
    server.most_bytes = 20_000
    client = make_client(linger_seconds=5, **either)

    ids = record(client, 300)

    assert client.flush(20)
    assert list(server.stored) == ids
    assert client.stats().refused == 0
    # It is learned once, and not by every batch.
    assert sum(len(body) > server.most_bytes for body in server.bodies) <= 8


def test_an_event_the_server_can_never_read_is_found_and_given_up_alone(
    make_client, server, problems
):
    client = make_client(linger_seconds=5)
    ids = record(client, 8)
    unreadable = problem(400, detail="The body is not valid JSON.")
    answer = server.answer

    def choosy(raw, headers):
        if ids[5].encode() in raw:
            server.bodies.append(raw)
            return unreadable
        return answer(raw, headers)

    server.answer = choosy

    assert client.flush(20)
    assert sorted(server.stored) == ids[:5] + ids[6:]
    assert client.stats().refused == 1
    assert [each for each in problems if each.kind == "refused"] == [
        Problem("refused", "400 The body is not valid JSON.", ids[5])
    ]


def test_a_full_queue_drops_what_is_new_and_tells(make_client, server, dead_port, problems):
    client = make_client(f"http://127.0.0.1:{dead_port}", queue_events=100, linger_seconds=5)

    ids = record(client, 1_000)

    counts = client.stats()
    assert (counts.recorded, counts.queued, counts.dropped) == (1_000, 100, 900)
    server = Server(dead_port)
    try:
        assert client.flush(10)
        assert list(server.stored) == ids[:100]
    finally:
        server.close()
    full = [each for each in problems if each.kind == "full"]
    assert sum(each.count for each in full) <= 900
    assert full[0].detail == "the queue is full; new events are dropped"


def test_a_queue_is_bounded_by_its_bytes(make_client, dead_port):
    client = make_client(f"http://127.0.0.1:{dead_port}", queue_bytes=100_000)

    record(client, 100, text="x" * 5_000)

    assert client.stats().queued == 19  # of 5.2 kB each
    assert client.stats().dropped == 81


def test_a_closed_client_drops_and_tells_at_once(client, problems):
    record(client, 1)
    assert client.close()

    record(client, 2)

    assert (client.stats().stored, client.stats().dropped) == (1, 2)
    assert problems == [
        Problem("closed", "the client is closed; new events are dropped", problems[0].event_id)
    ]
    assert client.close()


def test_closing_in_vain_is_bounded_and_counts_what_is_lost(make_client, dead_port, problems):
    client = make_client(f"http://127.0.0.1:{dead_port}")
    record(client, 7)
    began = time.monotonic()

    assert not client.close(0.3)

    assert time.monotonic() - began < 2
    assert (client.stats().dropped, client.stats().queued) == (7, 0)
    assert "7 events were not sent before the end" in [each.detail for each in problems]


def test_a_callback_may_fail_and_may_use_the_client(server):
    def complain(told):
        seen.append((told.kind, client.flush(5), client.stats().refused))
        client.record("llm.call", "acme", {"about": told.detail})
        raise RuntimeError("no")

    seen = []
    client = Meterkeeper(server.url, KEY, on_problem=complain, linger_seconds=0.02)
    server.refuses = {"bad": "is bad"}
    client.record("llm.call", "acme", {}, id="bad")
    while not client.stats().stored:
        time.sleep(0.01)

    assert client.close()
    assert seen == [("refused", False, 0)]
    assert [event["data"] for event in server.stored.values()] == [{"about": "data is bad"}]


def test_unusable_arguments_are_told_from_the_sender(client, problems):
    assert client.record("llm.call", "acme", {}, id=7) == ""
    assert client.record("llm.call", "acme", {"a": object()}, id="e-1") == "e-1"
    record(client, 1)

    assert client.flush(5)
    client.close()
    # The sender told of the first by itself when it started in between, and else of both at once.
    assert sum(each.count for each in problems) in {1, 2}
    assert {each.kind for each in problems} == {"invalid"}
    assert client.stats() == stats(recorded=3, stored=1, dropped=2)


def test_record_waits_for_nobody_while_the_server_hangs(make_client, server, either):
    server.gate.clear()
    client = make_client(**either)
    record(client, 1)
    while not server.connections:
        time.sleep(0.01)
    began = time.monotonic()

    record(client, 1_000)

    assert time.monotonic() - began < 1
    assert client.stats().stored == 0
    server.gate.set()
    assert client.flush(10)


def test_an_event_recorded_amid_another_is_kept(client, server):
    """As from a signal handler: within `record()` the lock is held by the same thread."""
    record(client, 1)
    client.flush(5)
    sender, late = client._sender, []
    put = sender._store.put

    def interrupted(line):
        sender._store.put = put
        late.extend(record(client, 2))
        return put(line)

    sender._store.put = interrupted
    began = time.monotonic()
    late += record(client, 1)

    assert time.monotonic() - began < 0.4
    assert client.stats().recorded == 4
    assert client.flush(5)
    assert set(late) < set(server.stored)


def test_threads_lose_nothing(make_client, server, either):
    client = make_client(**either)
    made = [[] for _ in range(6)]
    threads = [
        threading.Thread(target=lambda mine=mine: mine.extend(record(client, 500))) for mine in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert client.flush(20)
    assert set(server.stored) == {each for mine in made for each in mine}
    assert len(server.stored) == 3_000
    assert is_balanced(client.stats())


def test_gzip_is_sent_when_asked_for_and_given_up_when_refused(make_client, server):
    client = make_client(compress=True)
    ids = record(client, 50)
    assert client.flush(5)
    assert server.headers[0]["Content-Encoding"] == "gzip"
    assert int(server.headers[0]["Content-Length"]) < len(server.bodies[0]) / 4
    server.script += [problem(415, title="no")]

    ids += record(client, 5)

    assert client.flush(5)
    assert list(server.stored) == ids
    assert "Content-Encoding" not in server.headers[-1]


def test_an_event_loop_goes_on_while_it_flushes(server):
    server.gate.clear()

    async def main():
        ticks = 0
        async with Meterkeeper(server.url, KEY) as client:
            ids = record(client, 20)
            flushing = asyncio.create_task(client.aflush(10))
            while ticks < 20:
                await asyncio.sleep(0.01)
                ticks += 1
            assert not flushing.done()
            server.gate.set()
            assert await flushing
            return ids, client

    ids, client = asyncio.run(main())

    assert list(server.stored) == ids
    assert client.record("llm.call", "acme", {}) not in server.stored
    assert client.stats().dropped == 1


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_a_certificate_is_checked_before_a_byte_is_told(make_client, tmp_path, problems):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *[
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=test",
            ],
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server = Server(tls=tls)
    try:
        doubtful = make_client(server.url)
        record(doubtful, 1)
        assert not doubtful.flush(1)
        assert server.bodies == []
        assert "CERTIFICATE_VERIFY_FAILED" in problems[0].detail
        trusting = make_client(
            server.url, ssl_context=ssl.create_default_context(cafile=certificate)
        )

        ids = record(trusting, 10)

        assert trusting.flush(5)
        assert list(server.stored) == ids
        doubtful.close(0)
        trusting.close(0)
    finally:
        server.close()
