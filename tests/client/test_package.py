"""The package as such: what it needs, and what it leaves alone until it is used."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import meterkeeper_client
import pytest
from meterkeeper_client.transport import Transport

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parents[2] / "client"
MODULES = sorted((FOLDER / "src" / "meterkeeper_client").glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_imports_the_standard_library_alone(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 10))

    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module.partition(".")[0])
    assert names - sys.stdlib_module_names <= {"meterkeeper_client"}


def test_importing_it_starts_no_thread_and_touches_no_random_numbers():
    program = """
import random, threading
random.seed(1)
before = random.getstate()
from meterkeeper_client import Meterkeeper
client = Meterkeeper("http://127.0.0.1:9", "mk_key", exit_seconds=0.2)
assert threading.active_count() == 1
client.record("llm.call", "acme", {})
client.flush(0.5)
assert threading.active_count() == 2
assert random.getstate() == before
"""
    path = str(FOLDER / "src")

    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": path}, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


def test_the_server_is_told_the_version_of_the_package():
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]

    transport = Transport("http://x", "k", timeout=1, compress=False, context=None)

    assert transport._headers["User-Agent"] == f"meterkeeper-client/{project['version']}"
    assert project["dependencies"] == []


def test_all_public_names_are_there():
    assert sorted(meterkeeper_client.__all__) == ["Meterkeeper", "Problem", "Stats"]
