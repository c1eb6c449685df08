"""The Makefile and the Procfile say what they offer, and offer what the documents promise."""

import re
import subprocess

import pytest

from billing_project.local_stack.procfile import read_procfile
from tests.stack.launcher import REPOSITORY

pytestmark = pytest.mark.stack


def test_help_lists_every_target_with_a_sentence():
    targets = set(
        re.findall(r"^\.PHONY: (.+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    )

    command = ["make", "--no-print-directory", "help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)

    listed = dict(re.findall(r"^  make (\S+) +(\S.*)$", done.stdout, re.MULTILINE))
    assert set(listed) == targets
    assert all(len(sentence.split()) > 2 for sentence in listed.values())


def test_procfile_has_one_line_per_role():
    lines = read_procfile(REPOSITORY / "Procfile")

    assert list(lines) == ["release", "web", "worker", "beat", "flower"]
    # Each is exec'ed, which a chain would cut short after its first command.
    assert [name for name, line in lines.items() if re.search(r"[;&|<>]", line)] == ["release"]
