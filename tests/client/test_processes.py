"""Forked children, and the end of a process."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
BEGINNING = """
import json, os, sys
import tests
from meterkeeper_client import Meterkeeper
url, spool = sys.argv[1], sys.argv[2] or None
client = Meterkeeper(url, "mk_key", spool=spool, linger_seconds=0.2, exit_seconds=3)
def record(count):
    return [client.record("llm.call", "acme", {"pid": os.getpid()}) for _ in range(count)]
"""


@pytest.fixture(params=["memory", "spool"])
def run(request, server, tmp_path):
    """Run a program; return what it printed as JSON, one line each."""
    spool = str(tmp_path / "spool") if request.param == "spool" else ""

    def run(program, url=server.url):
        done = subprocess.run(
            [sys.executable, "-W", "error::ResourceWarning", "-c", BEGINNING + program, url, spool],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    run.spool = spool and Path(spool)
    return run


def test_a_forked_child_sends_its_own_and_leaves_the_parents_to_the_parent(run, server):
    printed = run("""
ids = record(3)
if os.fork() == 0:
    own = record(2)
    settled = client.flush(5)
    stats = client.stats()
    print(json.dumps([own, settled, stats.recorded, stats.stored]), flush=True)
    os._exit(0)
os.wait()
ids += record(1)
print(json.dumps([ids, client.flush(5), client.stats().recorded, client.stats().stored]))
""")

    child, parent = printed
    assert (len(child[0]), *child[1:]) == (2, True, 2, 2)
    assert (len(parent[0]), *parent[1:]) == (4, True, 4, 4)
    assert sorted(server.stored) == sorted(child[0] + parent[0])
    assert set(server.arrivals.values()) == {1}


def test_children_forked_within_a_millisecond_share_no_id(run, server):
    printed = run("""
from types import SimpleNamespace
import meterkeeper_client.client
meterkeeper_client.client.clock = SimpleNamespace(time_ns=lambda: 1_795_000_000_000_000_000)
record(1)
for _ in range(20):
    if os.fork() == 0:
        os.write(1, json.dumps(record(50)).encode() + b"\\n")
        client.close()
        os._exit(0)
for _ in range(20):
    os.wait()
""")

    ids = [each for child in printed for each in child]
    assert len(set(ids)) == 1_000
    assert set(ids) < set(server.stored)


def test_a_child_of_a_closed_client_finds_it_closed(run, server):
    [printed] = run("""
record(1)
client.close()
if os.fork() == 0:
    record(2)
    print(json.dumps([client.stats().dropped, client.flush(1)]), flush=True)
    os._exit(0)
os.wait()
""")

    assert printed == [2, True]
    assert len(server.stored) == 1


@pytest.mark.parametrize("run", ["spool"], indirect=True)
def test_a_child_does_not_keep_the_lock_of_a_dead_parent(run, server, make_client):
    dead = "http://127.0.0.1:9"
    [pid] = run(
        """
record(3)
reading, writing = os.pipe()
if pid := os.fork():
    os.read(reading, 1)
    print(pid, flush=True)
    os.kill(os.getppid(), 0)
    os._exit(0)
os.close(1)
os.close(2)
os.write(writing, b"x")
import time
time.sleep(20)
""",
        url=dead,
    )
    assert Path(f"/proc/{pid}").exists()

    client = make_client(spool=run.spool)

    assert client.flush(5)
    assert len(server.stored) == 3
    subprocess.run(["kill", str(pid)], check=True)  # noqa: S607


def test_what_waits_is_sent_at_the_end_of_the_program(run, server):
    [ids] = run("print(json.dumps(record(100)))")

    assert list(server.stored) == ids


def test_what_a_forgotten_client_holds_is_sent_at_the_end_too(run, server):
    [ids] = run("""
import gc
print(json.dumps(record(100)))
del client
gc.collect()
""")

    assert list(server.stored) == ids


def test_a_program_ends_in_time_without_a_server(run, server, make_client):
    began = time.monotonic()

    [ids] = run("print(json.dumps(record(10)))", url="http://127.0.0.1:9")

    assert time.monotonic() - began < 8
    if run.spool:
        assert make_client(spool=run.spool).flush(5)
        assert list(server.stored) == ids


def test_a_program_that_recorded_nothing_ends_at_once_and_connects_to_nobody(run, server):
    assert run("print(json.dumps([client.stats().recorded]))") == [[0]]
    assert server.connections == 0
