import os
import socket
from pathlib import Path

import pytest

from tests.stack.launcher import REPOSITORY, Launcher

NOT_OURS = (
    "DATABASE_URL",
    "CELERY_BROKER_URL",
    "STRIPE_SECRET_KEY",
    "STRIPE_EMULATOR_URL",
    "STATE_DIR",
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def ports():
    return {name: str(free_port()) for name in ("PORT", "FLOWER_PORT", "EMULATOR_PORT")}


@pytest.fixture
def environment(ports, tmp_path):
    kept = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    return (
        kept
        | ports
        | {
            "PYTHONPATH": str(REPOSITORY),
            "TMPDIR": str(tmp_path),
        }
    )


@pytest.fixture
def bare(environment):
    """Everything replaced by something of the user's: only the Procfile is started."""
    return environment | {
        "DATABASE_URL": "postgres://nobody@/nothing",
        "CELERY_BROKER_URL": "memory://",
        "STRIPE_SECRET_KEY": "sk_test_nothing",
    }


@pytest.fixture
def launcher(tmp_path, bare):
    """Make launchers of the Procfile given as keyword arguments."""
    made: list[Launcher] = []

    def make(environment=None, root: Path = tmp_path, **lines):
        root.mkdir(exist_ok=True)
        if lines:
            text = "".join(f"{name}: {line}\n" for name, line in lines.items())
            (root / "Procfile").write_text(text)
        made.append(Launcher(root, bare if environment is None else environment))
        return made[-1]

    yield make
    for each in made:
        each.end_all()
