"""What the cases run on: a database of the benchmark's own, and our web server as in the Procfile."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import django
import psycopg
from psycopg import sql

from tests.bench import cpu

ROOT = Path(__file__).resolve().parents[2]
DATABASE = "meterkeeper_bench"
APPLICATION = "billing_project.wsgi:application"
READY_SECONDS = 30
STOP_SECONDS = 30


class BenchFailed(Exception):
    """The measurement cannot be made. The message tells why."""


class Backends:
    """The server processes of the benchmark database's connections.

    Workers that PostgreSQL starts by itself (parallel queries, autovacuum) are not counted.
    """

    def __init__(self, administration: psycopg.Connection) -> None:
        self._administration = administration
        own = administration.info.backend_pid
        self.can_be_read = cpu.program(own) == "postgres" and bool(cpu.processes([own]))

    def reading(self) -> cpu.Reading | None:
        """Read their CPU time; None where the database is not on this machine to be seen."""
        return cpu.processes(self._pids()) if self.can_be_read else None

    def end(self) -> None:
        """End all connections, so that none grows too old and is replaced while measured."""
        for pid in self._pids():
            self._administration.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    def _pids(self) -> list[int]:
        rows = self._administration.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = %s AND backend_type = 'client backend'",
            [DATABASE],
        )
        return [pid for (pid,) in rows]


@contextlib.contextmanager
def bench_database(server_url: str) -> Iterator[Backends]:
    """Create the benchmark's database beside that of `server_url`, and drop it afterwards.

    Raises:
        BenchFailed: another benchmark is using it, or it cannot be created.
    """
    name = sql.Identifier(DATABASE)
    with psycopg.connect(server_url, autocommit=True) as administration:
        backends = Backends(administration)
        try:
            # Left over from a run that was killed; refused while somebody is connected.
            administration.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(name))
            administration.execute(sql.SQL("CREATE DATABASE {}").format(name))
        except psycopg.errors.ObjectInUse as error:
            raise BenchFailed(f"Another benchmark seems to be running: {error}") from None
        except psycopg.Error as error:
            raise BenchFailed(f"The database {DATABASE} cannot be created: {error}") from None
        try:
            yield backends
        finally:
            administration.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def bench_database_url(server_url: str) -> str:
    """Return the address of the benchmark's database on the server of `server_url`."""
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{DATABASE}"))


@contextlib.contextmanager
def bench_environment(server_url: str) -> Iterator[None]:
    """Give this process and its children the benchmark's database, and nothing of a real stack."""
    with tempfile.TemporaryDirectory(prefix="meterkeeper-bench-") as state:
        os.environ.pop("STRIPE_SECRET_KEY", None)
        os.environ |= {
            "DATABASE_URL": bench_database_url(server_url),
            "CELERY_BROKER_URL": "memory://",
            # Nothing here may call Stripe, so its address leads nowhere.
            "STRIPE_EMULATOR_URL": "http://127.0.0.1:1",
            "DJANGO_SECRET_KEY": "of the benchmark, and of nothing else",
            "DJANGO_SETTINGS_MODULE": "billing_project.settings",
            "STATE_DIR": state,
        }
        django.setup()
        yield


@contextlib.contextmanager
def web_server(
    port: int = 0,
    *,
    application: str = APPLICATION,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, int]]:
    """Start our web server as the Procfile says; yield its port and process id.

    Without a `port` it is a free one. The id is also that of its process group, which holds its
    workers. `application` stands in for the product's own, `environment` is added to this process's.

    Raises:
        BenchFailed: it does not come up; what it wrote is in the message.
    """
    port = port or free_port()
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {_web_line().replace(APPLICATION, application)}"],
            cwd=ROOT,
            env={
                **os.environ,
                **(environment or {}),
                "PORT": str(port),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_ready(server, port)
            yield port, server.pid
        except Exception:
            log.seek(0)
            sys.stderr.write(log.read()[-5_000:])
            raise
        finally:
            stop(server)


def _web_line() -> str:
    match = re.search(r"^web:\s*(.+)$", (ROOT / "Procfile").read_text(), re.MULTILINE)
    if match is None:
        raise BenchFailed("The Procfile has no line for `web`.")
    return match[1]


def free_port() -> int:
    """Return a port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise BenchFailed(f"The web server ended at once with {server.returncode}.")
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(client):
            client.request("GET", "/")
            client.getresponse()
            return
        time.sleep(0.1)
    raise BenchFailed(f"The web server did not answer within {READY_SECONDS} s.")


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a program that was started in a session of its own."""
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        # Its session is its own, so nobody else is in the group.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
