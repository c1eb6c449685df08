"""The embedded PostgreSQL and Valkey: private, persistent, and found again after a crash."""

import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from billing_project.local_stack import state
from tests.stack.launcher import kill
from tests.stack.programs import line, sleeper

pytestmark = pytest.mark.stack


@pytest.fixture
def served(environment):
    """A real database and broker, and no emulator."""
    return environment | {"STRIPE_SECRET_KEY": "sk_test_nothing"}


def values(stack):
    lines = (stack.state / "stack.env").read_text().splitlines()
    return dict(text.split("=", 1) for text in lines)


def connect(stack):
    url = urlsplit(values(stack)["DATABASE_URL"])
    return psycopg.connect(
        host=parse_qs(url.query)["host"][0], user=url.username, dbname=url.path[1:]
    )


def ping(stack):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(urlsplit(values(stack)["CELERY_BROKER_URL"]).path)
        connection.sendall(b"PING\r\n")
        return connection.recv(64)


def listening_on_tcp(pids):
    inodes = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A":
                inodes.add(f"socket:[{fields[9]}]")
    found = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if str(descriptor.readlink()) in inodes:
                    found.add(pid)
            except OSError:
                continue
    return found


def test_servers_are_private_and_outlive_a_killed_launcher(launcher, served):
    stack = launcher(served, worker=line(sleeper)).start_ready()

    modes = {name: stat.S_IMODE((stack.state / name).stat().st_mode) for name in (".", "stack.env")}
    assert modes == {".": 0o700, "stack.env": 0o600}
    assert ping(stack) == b"+PONG\r\n"
    assert len(stack.below()) > 3
    assert listening_on_tcp(stack.below()) == set()
    with connect(stack) as connection:
        connection.execute("create table kept (value int)")
        connection.execute("insert into kept values (42)")
    secret = values(stack)["DJANGO_SECRET_KEY"]

    # Both at once, as when the machine runs out of memory: no server says goodbye.
    for pid in [stack.process.pid, *stack.below()]:
        kill(pid)
    stack.wait()
    again = launcher(served).start_ready()

    with connect(again) as connection:
        assert connection.execute("select value from kept").fetchall() == [(42,)]
    assert ping(again) == b"+PONG\r\n"
    assert values(again)["DJANGO_SECRET_KEY"] == secret
    assert again.stop(signal.SIGINT) == 0
    assert again.below() == set()
    assert "database system is shut down" in again.log("postgres")[-1]


def test_deep_state_folder_moves_its_sockets_to_a_short_one(launcher, served, tmp_path):
    deep = tmp_path / ("d" * 90) / "state"
    environment = served | {"STATE_DIR": str(deep)}

    stack = launcher(environment, worker=line(sleeper)).start_ready()

    host = Path(parse_qs(urlsplit(values(stack)["DATABASE_URL"]).query)["host"][0])
    assert not host.is_relative_to(deep)
    assert len(bytes(host / ".s.PGSQL.5432")) <= 100
    assert stat.S_IMODE(host.stat().st_mode) == 0o700
    with connect(stack) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert stack.stop() == 0
    assert launcher(environment).start("clean").wait() == 0
    assert not host.exists()
    assert not deep.exists()


@pytest.mark.parametrize(
    ("folder", "fits"),
    [
        ("/" + "a" * 84, True),
        ("/" + "a" * 86, False),
        ("/" + "ä" * 43, False),
        ("/home/me/my project", False),
    ],
)
def test_socket_folder_is_short_and_plain(folder, fits):
    assert state.fits_a_socket(Path(folder)) is fits


def test_with_services_passes_the_exit_code_and_cleans_up(launcher, environment):
    code = (
        "import os, sys, psycopg\n"
        "from urllib.parse import parse_qs, urlsplit\n"
        "host = parse_qs(urlsplit(os.environ['DATABASE_URL']).query)['host'][0]\n"
        "row = psycopg.connect(host=host, user='postgres', dbname='billing')"
        ".execute('show fsync').fetchone()\n"
        "print(row[0], host, os.environ['CELERY_BROKER_URL'], flush=True)\n"
        "sys.exit(7)\n"
    )
    stack = launcher(environment)

    exit_code = stack.start("with-services", "--broker", "--", sys.executable, "-c", code).wait()

    fsync, host, broker = stack.printed.split()
    assert (exit_code, fsync) == (7, "off")
    assert broker.startswith("redis+socket:///")
    assert not Path(host).exists()
    assert stack.below() == set()


def test_with_services_leaves_what_is_set_alone(launcher, bare):
    code = "import os; print(os.environ['DATABASE_URL'], os.environ['CELERY_BROKER_URL'])"
    stack = launcher(bare)

    exit_code = stack.start("with-services", "--broker", "--", sys.executable, "-c", code).wait()

    assert exit_code == 0
    assert stack.printed.split() == ["postgres://nobody@/nothing", "memory://"]


def test_with_services_ends_its_command_when_stopped(launcher, environment):
    code = "import time; print('here', flush=True); time.sleep(600)"
    stack = launcher(environment).start("with-services", "--", sys.executable, "-c", code)
    stack.until(lambda: "here" in stack.printed)

    assert stack.stop() == 128 + signal.SIGTERM
    assert stack.below() == set()


def test_starting_needs_no_django():
    code = (
        "import sys, billing_project.local_stack.__main__\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'django', 'celery'}))"
    )

    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, check=True)

    assert done.stdout == b"[]\n"
