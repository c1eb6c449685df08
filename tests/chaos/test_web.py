"""F01, F02, F03: the web server killed under load, as `make chaos` does for longer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.stack.launcher import REPOSITORY

pytestmark = pytest.mark.stack


def test_web_killed_under_load_loses_nothing_and_doubles_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.web", "--kills", "3", "--callers", "4"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    figures = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines()[1:])
    told = {name.strip(): int(figure.replace(",", "")) for name, figure in figures.items()}
    assert (told["kills"], told["lost"], told["double"]) == (3, 0, 0)
    assert told["acknowledged events"] > 100
