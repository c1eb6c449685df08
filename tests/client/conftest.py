"""A server, clients of it that are closed afterwards, and the problems they told."""

from __future__ import annotations

import pytest
from meterkeeper_client import Meterkeeper

from tests.client.server import Server, free_port

KEY = "mk_abcdefgh_secret"
USE = {"model": "m-1", "input_tokens": 900, "output_tokens": 100}


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def dead_port():
    """A port where nobody listens, and where a test may start a server later."""
    return free_port()


@pytest.fixture
def problems():
    return []


@pytest.fixture
def make_client(server, problems):
    made = []

    def make(url=None, **settings):
        settings.setdefault("linger_seconds", 0.02)
        made.append(Meterkeeper(url or server.url, KEY, on_problem=problems.append, **settings))
        return made[-1]

    yield make
    server.script.clear()
    server.otherwise = None
    for client in made:
        client.close(0)


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture(params=["memory", "spool"])
def either(request, tmp_path):
    """The settings of both places where events may wait."""
    return {"spool": tmp_path / "spool"} if request.param == "spool" else {}


def is_balanced(stats):
    return stats.recorded + stats.recovered == (
        stats.stored + stats.refused + stats.dropped + stats.queued
    )
