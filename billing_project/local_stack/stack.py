"""`run`: the whole system, in the order in which its parts need each other.

PostgreSQL, Valkey and the emulator first, then the Procfile's `release`, then its other lines.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from billing_project.local_stack import admin_account, binaries, ports, postgres, probes, valkey
from billing_project.local_stack.config import StackConfig
from billing_project.local_stack.leftovers import ProcessRecord, end_leftovers
from billing_project.local_stack.output import Output, Shown
from billing_project.local_stack.postgres import Postgres
from billing_project.local_stack.problems import StackFailedError, StopRequestedError
from billing_project.local_stack.procfile import read_procfile
from billing_project.local_stack.service import Service, Wave
from billing_project.local_stack.state import StateFolder, hold
from billing_project.local_stack.supervisor import Supervisor
from billing_project.local_stack.valkey import Valkey

RELEASE = "release"

WORKER_STOP_SECONDS = 90.0
"""A task may run 60 s (its hard limit) and the worker's soft shutdown waits 30 s for it."""

INTERRUPTED = 130
"""What a shell returns for a program ended by Ctrl-C."""

# What `manage.py` in another terminal must know to talk to the running stack.
_PUBLISHED = (
    "DATABASE_URL",
    "CELERY_BROKER_URL",
    "STRIPE_EMULATOR_URL",
    "STRIPE_WEBHOOK_SECRET",
    "STRIPE_THIN_WEBHOOK_SECRET",
    "DJANGO_SECRET_KEY",
    "FLOWER_BASIC_AUTH",
    "PORT",
    "FLOWER_PORT",
    "STRIPE_METER_EVENTS_PER_SECOND",
    "STRIPE_STREAM_PER_SECOND",
    "STRIPE_READS_PER_SECOND",
    "STRIPE_TEST_MODE_CALLS_PER_SECOND",
)

EMULATOR_LIMIT = "1000"
"""Calls a second of each kind. The emulator refuses nobody for being fast, and Stripe's limits in
test mode would make a first look a long one."""


@dataclass(frozen=True, slots=True)
class Foreground:
    """A command that runs at the terminal while the stack is up."""

    command: list[str]
    then_stay: bool


def run(config: StackConfig, *, foreground: Foreground | None = None) -> int:
    """Start everything, stay until asked to stop, stop everything, and return the exit code.

    With a `foreground` command the processes' lines go to their log files only.

    Raises:
        CannotStartError: something is in the way; nothing was left running.
    """
    lines = read_procfile(config.root / "Procfile")
    with hold(config.state_dir) as state:
        names = ["postgres", "valkey", "emulator", *lines]
        shown = Shown.LAUNCHER if foreground else Shown.ALL
        output = Output(state.folder("log"), names, shown=shown)
        with contextlib.closing(output):
            if ended := end_leftovers(state):
                output.say(f"ended {ended} processes that a killed run had left behind")
            ports.require_free(_wanted_ports(config, lines))
            state.clear_sockets()
            output.say(f"state and logs in {state.path}")
            database = None if config.database_url else postgres.prepare(state)
            broker = None if config.broker_url else valkey.prepare(state)
            environment = _environment(config, state, database, broker)
            supervisor = Supervisor(
                output=output,
                record=ProcessRecord(state),
                root=config.root,
                environment=environment,
            )
            with supervisor, _published(state, environment):
                try:
                    _start_parts(supervisor, config, database, broker)
                    _release(supervisor, output, lines)
                    output.say(f"starting {', '.join(name for name in lines if name != RELEASE)}")
                    _start_lines(supervisor, config, lines)
                    if foreground is None:
                        has_login = database is not None and _make_admin(supervisor, config)
                        _announce(output, config, environment, has_login=has_login)
                        return supervisor.attend()
                    return supervisor.attend(foreground.command, then_stay=foreground.then_stay)
                except StopRequestedError:
                    return INTERRUPTED if foreground else 0
                except StackFailedError as failure:
                    report(output, failure)
                    return 1


def report(output: Output, failure: StackFailedError) -> None:
    """Say why the stack stops, with the last lines of the one to blame."""
    output.complain(str(failure))
    for line in failure.tail:
        output.complain(f"    {line}")


def _wanted_ports(config: StackConfig, lines: Mapping[str, str]) -> dict[str, int]:
    wanted = {}
    if "web" in lines:
        wanted["PORT"] = config.port
    if "flower" in lines:
        wanted["FLOWER_PORT"] = config.flower_port
    if config.starts_emulator:
        wanted["EMULATOR_PORT"] = config.emulator_port
    return wanted


def _environment(
    config: StackConfig, state: StateFolder, database: Postgres | None, broker: Valkey | None
) -> dict[str, str]:
    made = state.secrets()
    environment = {name: made[name] for name in _PUBLISHED if name in made}
    environment |= os.environ  # what somebody set by hand stands
    environment |= {
        "PATH": binaries.search_path(),
        "STATE_DIR": str(state.path),
        "PORT": str(config.port),
        "FLOWER_PORT": str(config.flower_port),
    }
    if database:
        environment["DATABASE_URL"] = database.url
    if broker:
        environment["CELERY_BROKER_URL"] = broker.url
    if config.starts_emulator:
        environment["STRIPE_EMULATOR_URL"] = f"http://{ports.LOOPBACK}:{config.emulator_port}"
        # It signs both kinds of event with one secret.
        environment["STRIPE_THIN_WEBHOOK_SECRET"] = environment["STRIPE_WEBHOOK_SECRET"]
        for name in _PUBLISHED:
            if name.endswith("_PER_SECOND"):
                environment.setdefault(name, EMULATOR_LIMIT)
    return environment


@contextlib.contextmanager
def _published(state: StateFolder, environment: Mapping[str, str]) -> Iterator[None]:
    state.write_stack_env({name: environment[name] for name in _PUBLISHED if name in environment})
    try:
        yield
    finally:
        state.stack_env.unlink(missing_ok=True)


def _start_parts(
    supervisor: Supervisor,
    config: StackConfig,
    database: Postgres | None,
    broker: Valkey | None,
) -> None:
    parts = [part.service() for part in (database, broker) if part]
    if config.starts_emulator:
        parts.append(_emulator(config, supervisor.environment))
    for part in parts:
        supervisor.start(part)
    supervisor.wait_until_ready(*parts)
    if database:
        database.create_database()


def _emulator(config: StackConfig, environment: Mapping[str, str]) -> Service:
    ours = f"http://{ports.LOOPBACK}:{config.port}"
    return Service(
        name="emulator",
        command=(
            sys.executable,
            "-m",
            "stripe_emulator",
            f"--port={config.emulator_port}",
            f"--state={config.state_dir / 'emulator'}",
            f"--forward-to={ours}/webhooks/stripe",
            f"--forward-thin-to={ours}/webhooks/stripe/thin",
            f"--webhook-secret={environment['STRIPE_WEBHOOK_SECRET']}",
        ),
        wave=Wave.EMULATOR,
        stop_seconds=15,
        is_ready=probes.answers(config.emulator_port, "/_emulator/health", status=200),
    )


def _release(supervisor: Supervisor, output: Output, lines: Mapping[str, str]) -> None:
    if RELEASE not in lines:
        return
    output.say("preparing tables, static files and catalogue")
    code = supervisor.run_to_end(Service(RELEASE, ("sh", "-c", lines[RELEASE])))
    if code:
        raise StackFailedError(
            f"The Procfile's release line ended with exit code {code}; its last lines "
            f"({output.log_path(RELEASE)}):",
            tail=output.tail(RELEASE),
        )


def _start_lines(supervisor: Supervisor, config: StackConfig, lines: Mapping[str, str]) -> None:
    probe = {
        "web": probes.answers(config.port),
        "flower": probes.answers(config.flower_port),
    }
    services = [
        Service(
            name=name,
            # The shell only expands variables; exec makes the program itself the leader, so that a
            # signal reaches it and not a shell.
            command=("sh", "-c", f"exec {line}"),
            wave=Wave.WORKER if name == "worker" else Wave.FRONT,
            stop_seconds=WORKER_STOP_SECONDS if name == "worker" else 30.0,
            is_ready=probe.get(name),
        )
        for name, line in lines.items()
        if name != RELEASE
    ]
    for service in services:
        supervisor.start(service)
    supervisor.wait_until_ready(*services)


def _make_admin(supervisor: Supervisor, config: StackConfig) -> bool:
    """Make the admin's login, where there is a Django to log in to."""
    if not (config.root / "manage.py").is_file():
        return False
    command = (sys.executable, "-m", "billing_project.local_stack.admin_account")
    return supervisor.run_to_end(Service(RELEASE, command)) == 0


def _announce(
    output: Output, config: StackConfig, environment: Mapping[str, str], *, has_login: bool
) -> None:
    ours = f"http://{ports.LOOPBACK}:{config.port}"
    login = ""
    if has_login:
        login = (
            f" (user {admin_account.ADMIN}, password {admin_account.password(config.state_dir)})"
        )
    output.say(f"ready: admin {ours}/admin/{login}")
    output.say(f"       API {ours}/api/docs")
    user, _, flower_password = environment["FLOWER_BASIC_AUTH"].partition(":")
    output.say(
        f"       Flower http://{ports.LOOPBACK}:{config.flower_port} (user {user}, "
        f"password {flower_password})"
    )
    if config.starts_emulator:
        output.say(f"       Stripe emulator {environment['STRIPE_EMULATOR_URL']}")
    output.say("       stop with Ctrl-C")
