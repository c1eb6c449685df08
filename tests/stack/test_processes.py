"""No process is lost: not on a stop, not when one dies, not when the launcher itself is killed."""

import os
import signal
import time

import pytest

from tests.stack.launcher import is_alive
from tests.stack.programs import broken, deaf, line, recording, sleeper, warm

pytestmark = pytest.mark.stack


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stop_lets_work_finish_and_leaves_no_process(launcher, how):
    stack = launcher(worker=line(warm), beat=line(sleeper)).start_ready()
    stack.until(lambda: stack.said("worker", "child works"))
    assert len(stack.below()) == 3

    code = stack.stop(how)

    assert code == 0
    assert stack.log("worker")[-3:] == ["asked to stop", "child finished", "stopped"]
    assert stack.below() == set()
    assert not (stack.state / "stack.env").exists()


def test_stop_ends_what_takes_work_in_before_the_worker(launcher, tmp_path):
    book = tmp_path / "order"
    roles = ("worker", "web", "flower", "beat")
    lines = {role: f"env ROLE={role} {line(recording, str(book))}" for role in roles}
    del lines["web"], lines["flower"]  # these two are waited for on their ports
    stack = launcher(**lines, front=f"env ROLE=front {line(recording, str(book))}").start_ready()
    stack.until_told("worker", "beat", "front")

    stack.stop()

    order = book.read_text().split()
    assert sorted(order) == ["beat", "front", "worker"]
    assert order[-1] == "worker"


def test_second_request_hastens_and_even_strangers_are_gone(launcher):
    stack = launcher(worker=line(deaf)).start_ready()
    stack.until_told("worker")
    pids = {stack.number("worker", name) for name in ("pid", "child", "stranger")}
    assert pids <= stack.below()
    started = time.monotonic()

    code = stack.stop_hastily()

    assert code == 0
    assert "worker did not stop in time; killing it" in stack.printed
    assert time.monotonic() - started < 10
    assert not [pid for pid in pids if is_alive(pid)]


def test_dead_process_is_started_again_without_its_orphans(launcher):
    stack = launcher(worker=line(deaf), beat=line(sleeper)).start_ready()
    stack.until_told("worker", "beat")
    first, child = stack.number("worker", "pid"), stack.number("worker", "child")
    beat = stack.number("beat", "pid")

    os.kill(first, signal.SIGKILL)
    stack.until(lambda: stack.number("worker", "pid") != first)

    assert "worker ended (killed by SIGKILL); starting it again in 0.05 s" in stack.printed
    assert not is_alive(child)
    assert is_alive(stack.number("worker", "pid"))
    assert stack.number("beat", "pid") == beat
    assert is_alive(beat)
    assert stack.stop_hastily() == 0


def test_process_that_keeps_dying_stops_the_stack_with_its_last_words(launcher):
    stack = launcher(worker=line(broken), beat=line(sleeper)).start()

    code = stack.wait()

    assert code == 1
    assert stack.log("worker") == ["no such thing"] * 5
    assert (
        "worker ended 5 times within a minute (exit code 3), so the stack stops; its last lines "
        f"({stack.state}/log/worker.log):"
    ) in stack.printed
    assert stack.printed.count("starting it again") == 4
    assert stack.below() == set()


def test_failed_release_starts_nothing(launcher):
    stack = launcher(release="echo preparing && false && echo never", worker=line(sleeper)).start()

    code = stack.wait()

    assert code == 1
    assert "The Procfile's release line ended with exit code 1" in stack.printed
    assert stack.log("release") == ["preparing"]
    assert stack.log("worker") == []
    assert stack.below() == set()


def test_killed_launcher_takes_willing_processes_with_it(launcher):
    stack = launcher(worker=line(warm)).start_ready()
    stack.until(lambda: stack.said("worker", "child works"))

    stack.stop(signal.SIGKILL)

    stack.until(lambda: stack.below() == set())


def test_start_after_a_killed_launcher_ends_what_it_left(launcher):
    killed = launcher(worker=line(deaf)).start_ready()
    killed.until_told("worker")
    left = {killed.number("worker", name) for name in ("pid", "child", "stranger")}
    killed.stop(signal.SIGKILL)
    assert all(is_alive(pid) for pid in left)
    assert (killed.state / "stack.env").exists()

    code = launcher().start("clean").wait()

    assert code == 0
    assert not [pid for pid in left if is_alive(pid)]
    assert not killed.state.exists()


def test_record_of_another_boot_or_a_reused_number_harms_nobody(launcher, tmp_path):
    bystander = launcher(root=tmp_path / "bystander", worker=line(sleeper)).start_ready()
    bystander.until_told("worker")
    pid = bystander.number("worker", "pid")
    stack = launcher(root=tmp_path / "ours", worker=line(sleeper)).start_ready()
    stack.until_told("worker")
    stack.stop(signal.SIGKILL)
    record = stack.state / "processes.json"
    ours = stack.number("worker", "pid")
    stack.until(lambda: not is_alive(ours))
    record.write_text(record.read_text().replace(str(ours), str(pid)))

    again = launcher(root=tmp_path / "ours").start_ready()

    assert again.stop() == 0
    assert is_alive(pid)
    assert bystander.stop() == 0
