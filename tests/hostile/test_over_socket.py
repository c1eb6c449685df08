"""The same bodies, and broken framings, to the web server of the Procfile."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.stack.launcher import REPOSITORY

pytestmark = pytest.mark.stack


def test_the_web_server_answers_hostile_requests_truly_and_does_not_grow():
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", "--bodies=0", "--places=0", "--over-socket=60"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        done.stdout.splitlines()[-1] == "every answer is true, and what is stored is what was told"
    )
