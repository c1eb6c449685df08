"""Each case still runs: at a size that measures nothing, beside the product as it is today."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.cases import CASES

pytestmark = pytest.mark.stack


@pytest.mark.parametrize("case", CASES)
def test_a_case_runs_to_its_figures(case, tmp_path):
    figures = tmp_path / "figures.json"

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.bench",
            case,
            "--repeats",
            "1",
            "--scale",
            "0.01",
            "--json",
            str(figures),
        ],
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(figures.read_text())["cases"][case]
