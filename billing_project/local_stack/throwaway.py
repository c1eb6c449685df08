"""`with-services`: a command with a database (and a broker) that exist for as long as it runs."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from billing_project.local_stack import binaries, postgres, valkey
from billing_project.local_stack.leftovers import ProcessRecord, end_leftovers
from billing_project.local_stack.output import Output, Shown
from billing_project.local_stack.problems import (
    CannotStartError,
    StackFailedError,
    StopRequestedError,
)
from billing_project.local_stack.stack import INTERRUPTED, report
from billing_project.local_stack.state import StateFolder, hold, remove
from billing_project.local_stack.supervisor import Supervisor

_PREFIX = "meterkeeper-services-"

_FRESH_SECONDS = 60.0
"""A folder younger than this may belong to a launcher that has not locked it yet."""


def run_with_services(command: list[str], *, broker: bool, durable: bool, folder: Path) -> int:
    """Run `command` in `folder` with DATABASE_URL, and CELERY_BROKER_URL if asked, set and served.

    A variable that is set already is left alone and its part not started. Only with `durable` does
    a commit reach the disk, as a measurement needs and a test does not. Returns the command's exit
    code.

    Raises:
        CannotStartError: there is no server program, or no such command.
    """
    if shutil.which(command[0], path=binaries.search_path()) is None:
        raise CannotStartError(f"There is no command {command[0]} to run.")
    needs_database = not os.environ.get("DATABASE_URL")
    needs_broker = broker and not os.environ.get("CELERY_BROKER_URL")
    with _temporary_state() as state:
        database = postgres.prepare(state, durable=durable) if needs_database else None
        queue = valkey.prepare(state, durable=durable) if needs_broker else None
        environment = {**os.environ, "PATH": binaries.search_path()}
        if database:
            environment["DATABASE_URL"] = database.url
        if queue:
            environment["CELERY_BROKER_URL"] = queue.url
        parts = [part.service() for part in (database, queue) if part]
        output = Output(state.folder("log"), ["postgres", "valkey"], shown=Shown.TROUBLE)
        supervisor = Supervisor(
            output=output, record=ProcessRecord(state), root=folder, environment=environment
        )
        with contextlib.closing(output), supervisor:
            try:
                for part in parts:
                    supervisor.start(part)
                supervisor.wait_until_ready(*parts)
                if database:
                    database.create_database()
                return supervisor.attend(command, then_stay=False)
            except StopRequestedError:
                return INTERRUPTED
            except StackFailedError as failure:
                report(output, failure)
                return 1


@contextlib.contextmanager
def _temporary_state() -> Iterator[StateFolder]:
    _remove_abandoned()
    path = Path(tempfile.mkdtemp(prefix=_PREFIX))
    with hold(path) as state:
        try:
            yield state
        finally:
            postgres.remove_account_data(path)
            remove(path)


def _remove_abandoned() -> None:
    """Remove the folders of runs that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, CannotStartError):
            if time.time() - path.stat().st_mtime > _FRESH_SECONDS:
                with hold(path, any_format=True) as state:
                    end_leftovers(state)
                    postgres.remove_account_data(path)
                    remove(path)
