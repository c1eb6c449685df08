"""What billing's tests share."""

from io import StringIO
from types import SimpleNamespace

import pytest
from django.core.management import call_command


@pytest.fixture
def run():
    """Run a management command and return what it wrote."""

    def run(*arguments):
        stdout, stderr = StringIO(), StringIO()
        call_command(*arguments, stdout=stdout, stderr=stderr)
        return SimpleNamespace(stdout=stdout.getvalue(), stderr=stderr.getvalue())

    return run


@pytest.fixture
def catalogue(emulator, run):
    """The default catalogue, here and at the emulator."""
    run("sync_catalogue")
