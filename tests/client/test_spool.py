"""With a spool, what `record()` returned for outlives its process and is stored once."""

import fcntl
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from meterkeeper_client import spool as spool_module
from meterkeeper_client.spool import Spool

from tests.client.conftest import USE, is_balanced
from tests.client.server import LOST, STORED_BUT_LOST, Reply, Server

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
LINE = b'{"id":"%d"}'
EVENTS = 2_000


def dead_process(root, lines=(), *, segment=b"", done=0):
    """Leave behind what a process leaves that was killed after `done` settled lines."""
    spool = Spool(root, most_bytes=1 << 20)
    for line in lines:
        assert spool.put(line) == ("", "")
    [folder] = root.iterdir()
    if segment:
        with (folder / "0000000001").open("ab") as file:
            file.write(segment)
    if done:
        spool.peek(done, 1 << 20)
        spool.done(done)
    spool.abandon()
    return folder


def taken_over(root):
    spool = Spool(root, most_bytes=1 << 20)
    assert spool.backlog == 1
    assert spool.tend() == []
    return spool


def drained(spool, most=3):
    lines = []
    while batch := spool.peek(most, 1 << 20):
        lines += batch
        spool.done(len(batch))
    return lines


def numbered(count):
    return [LINE % number for number in range(count)]


def test_lines_are_on_disk_when_put_returns_and_come_back_in_order(tmp_path):
    spool = Spool(tmp_path, most_bytes=1 << 20)
    for line in numbered(10):
        spool.put(line)

    [folder] = tmp_path.iterdir()
    assert (folder / "0000000001").read_bytes() == b"\n".join(numbered(10)) + b"\n"
    assert drained(spool) == numbered(10)
    assert (spool.kept, spool.settled, spool.waiting) == (10, 10, 0)
    assert spool.close() == 0
    assert list(tmp_path.iterdir()) == []


def test_segments_are_removed_once_settled_and_the_disk_stays_bounded(tmp_path):
    spool = Spool(tmp_path, most_bytes=4_000)
    kept, refused = [], 0
    for number in range(5_000):
        line = LINE % number
        told, _ = spool.put(line)
        if told:
            assert told == "full"
            refused += 1
        else:
            kept.append(line)
        on_disk = sum(path.stat().st_size for path in tmp_path.glob("*/0*"))
        assert on_disk == spool.disk_bytes <= 4_000
        if number == 2_500:
            assert drained(spool, 50) == kept
            kept.clear()
            assert len(list(tmp_path.glob("*/0*"))) == 1

    assert refused > 4_000
    assert drained(spool, 50) == kept
    spool.close()


def test_what_a_dead_process_left_is_taken_over_from_where_it_was(tmp_path):
    dead_process(tmp_path, numbered(10), done=4)

    spool = taken_over(tmp_path)

    assert (spool.recovered, spool.torn, spool.waiting, spool.backlog) == (6, 0, 6, 6)
    assert drained(spool) == numbered(10)[4:]
    assert list(tmp_path.iterdir()) == []


def test_leftovers_go_before_what_is_new(tmp_path):
    dead_process(tmp_path, numbered(4))
    spool = taken_over(tmp_path)
    spool.put(b'{"id":"new"}')

    assert drained(spool) == [*numbered(4), b'{"id":"new"}']
    spool.close()


@pytest.mark.parametrize(
    "position", [b"", b"xx", b"0000000001 7", b"1 99999", b"9 4", b"9 0", b"0 0", b"-1 -1"]
)
def test_a_position_that_makes_no_sense_sends_everything_again(tmp_path, position):
    folder = dead_process(tmp_path, numbered(5), done=2)
    (folder / "position").write_bytes(position)

    spool = taken_over(tmp_path)

    assert drained(spool) == numbered(5)


def test_a_position_beyond_old_segments_leaves_them_out(tmp_path):
    folder = dead_process(tmp_path, numbered(5))
    (folder / "0000000002").write_bytes(b'{"id":"second"}\n')
    (folder / "position").write_bytes(b"0000000002 %020d\n" % 0)

    spool = taken_over(tmp_path)

    assert drained(spool) == [b'{"id":"second"}']
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("torn", "count"),
    [
        (b'{"id":"to', 1),
        (b'{"id":"to\0\0\0"}\n' + LINE % 7 + b"\n", 1),
        (b"\0" * 300_000 + b"\n" + LINE % 7 + b"\n", 1),
        (b"\0" * 3_000_000 + LINE % 7 + b"\n", 1),
        (b"\n\n" + LINE % 7 + b"\n", 2),
    ],
)
def test_torn_lines_are_skipped_and_counted_and_others_are_not(tmp_path, torn, count):
    dead_process(tmp_path, numbered(5), segment=torn)
    whole = [line for line in torn.split(b"\n") if line == LINE % 7]

    spool = taken_over(tmp_path)

    assert (spool.torn, spool.recovered) == (count, 5 + len(whole))
    assert drained(spool) == numbered(5) + whole
    assert list(tmp_path.iterdir()) == []


def test_a_living_process_keeps_what_is_its_own(tmp_path):
    living = Spool(tmp_path, most_bytes=1 << 20)
    living.put(LINE % 1)

    spool = taken_over(tmp_path)

    assert (spool.recovered, spool.waiting) == (0, 0)
    assert drained(living) == [LINE % 1]
    living.close()


def test_a_closed_spool_is_left_to_the_next(tmp_path):
    first = Spool(tmp_path, most_bytes=1 << 20)
    for line in numbered(5):
        first.put(line)
    first.peek(2, 1 << 20)
    first.done(2)
    first.close()

    assert drained(taken_over(tmp_path)) == numbered(5)[2:]


def test_strangers_in_the_directory_are_left_alone(tmp_path):
    (tmp_path / "a-file").write_text("mine")
    (tmp_path / "a-folder").mkdir()
    (tmp_path / ".unfinished").mkdir()

    spool = taken_over(tmp_path)

    assert spool.waiting == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".unfinished",
        "a-file",
        "a-folder",
    ]


def test_a_folder_removed_while_its_lock_was_waited_for_is_not_taken(tmp_path, monkeypatch):
    folder = dead_process(tmp_path, numbered(2))
    lock = fcntl.flock

    def lose_the_race(file, how):
        lock(file, how)
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()

    monkeypatch.setattr("fcntl.flock", lose_the_race)

    assert taken_over(tmp_path).waiting == 0


def test_a_disk_that_is_full_drops_and_tells_and_is_tried_again(tmp_path, monkeypatch):
    spool = Spool(tmp_path, most_bytes=1 << 20)
    spool.put(LINE % 0)
    full = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115 - closed by the spool
    working, spool._writing = spool._writing, full

    assert spool.put(LINE % 1) == (
        "spool",
        "the spool cannot be written: [Errno 28] No space left on device",
    )
    assert spool.put(LINE % 2)[0] == "spool"

    monkeypatch.setattr(spool_module, "AGAIN_AFTER_SECONDS", 0)
    spool._fails_until, spool._writing = 0, working
    full.close()
    assert spool.put(LINE % 3) == ("", "")
    assert drained(spool) == [LINE % 0, LINE % 3]
    spool.close()


def test_a_spool_that_cannot_be_written_is_told_when_the_client_is_made(tmp_path, make_client):
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match="file"):
        make_client(spool=tmp_path / "file")


def test_a_client_takes_over_and_counts(make_client, server, dead_port, tmp_path):
    first = make_client(f"http://127.0.0.1:{dead_port}", spool=tmp_path)
    ids = [first.record("llm.call", "acme", USE) for _ in range(20)]
    assert not first.close(0.1)
    assert first.stats().queued == 20
    assert first.stats().dropped == 0

    second = make_client(spool=tmp_path)

    assert second.flush(5)
    assert list(server.stored) == ids
    assert (second.stats().recovered, second.stats().stored) == (20, 20)
    assert is_balanced(first.stats())
    assert is_balanced(second.stats())
    assert second.close()
    assert list(tmp_path.iterdir()) == []


def test_clients_share_a_directory(make_client, server, tmp_path):
    clients = [make_client(spool=tmp_path) for _ in range(4)]

    ids = [client.record("llm.call", "acme", USE) for _ in range(100) for client in clients]

    assert all(client.flush(5) for client in clients)
    assert sorted(server.stored) == sorted(ids)
    assert set(server.arrivals.values()) == {1}


@pytest.mark.parametrize("seed", range(2))
def test_every_id_returned_is_stored_however_often_the_process_is_killed(tmp_path, seed):
    chance = random.Random(seed)  # noqa: S311 - a test's dice
    server = Server()
    book, spool = tmp_path / "book", tmp_path / "spool"
    book.touch()
    command = [sys.executable, "-m", "tests.client.recorder", server.url, spool, book, str(EVENTS)]
    kills = 0
    try:
        while True:
            with server._lock:
                server.script.clear()
                server.script += chance.choices([LOST, STORED_BUT_LOST, Reply(503)], k=3)
            before = book.stat().st_size
            process = subprocess.Popen(command, cwd=ROOT)
            while book.stat().st_size == before and process.poll() is None:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.3))
            if kills == 8:
                assert process.wait(60) == 0
                break
            process.kill()
            kills += process.wait() != 0
    finally:
        server.close()

    returned = book.read_text().split()
    assert len(returned) == len(set(returned)) == EVENTS
    assert set(returned) <= set(server.stored)
    # A process may die between the moment an event is kept and the moment its id is written down.
    assert len(server.stored) - EVENTS <= kills
    assert list(spool.iterdir()) == []
    assert json.dumps(USE) in {json.dumps(event["data"]) for event in server.stored.values()}
