"""The state folder: who may use it, what is kept in it, and how it is thrown away.

Held under a lock for as long as a launcher lives. What runs from it is `leftovers`' business.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from billing_project.local_stack.problems import CannotStartError

FORMAT = "meterkeeper local state 1"
"""Raised when an older folder can no longer be read; then its owner is sent to `make clean`."""

_FORMAT_KIND = FORMAT.rpartition(" ")[0]

SOCKET_PATH_BYTES = 100
"""Longest socket path we use: the kernel takes 107 bytes on Linux and 103 on macOS."""

_LONGEST_SOCKET_NAME = ".s.PGSQL.5432"

# What needs no escaping in a connection URL, whoever parses it.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")


@dataclass(frozen=True, slots=True)
class StateFolder:
    """A locked state folder and the places in it."""

    path: Path

    @property
    def logs(self) -> Path:
        """Return the folder of one log file per process."""
        return self.path / "log"

    @property
    def stack_env(self) -> Path:
        """Return the file from which `manage.py` in another terminal learns where the stack is."""
        return self.path / "stack.env"

    @property
    def process_record(self) -> Path:
        """Return the file by which the next launcher finds what this one started."""
        return self.path / "processes.json"

    def folder(self, name: str) -> Path:
        """Return a private folder for one part, made when missing."""
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def sockets(self) -> Path:
        """Return the folder for unix sockets.

        It is inside the state folder, or a short private one beside the temporary files when that
        path is too long for a socket or too odd for a URL.
        """
        path = self.path / "run"
        if not fits_a_socket(path):
            path = _short_folder(self.path)
        path.mkdir(mode=0o700, exist_ok=True)
        _require_private(path)
        return path

    def clear_sockets(self) -> None:
        """Remove the sockets and locks of a run that was killed."""
        for stale in self.sockets().iterdir():
            stale.unlink()

    def secrets(self) -> dict[str, str]:
        """Return this folder's secrets; made at random the first time and kept."""
        path = self.path / "secrets.json"
        kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        fresh = {
            "DJANGO_SECRET_KEY": secrets.token_urlsafe(48),
            "STRIPE_WEBHOOK_SECRET": "whsec_" + secrets.token_hex(24),
            "STRIPE_THIN_WEBHOOK_SECRET": "whsec_" + secrets.token_hex(24),
            "FLOWER_BASIC_AUTH": "admin:" + secrets.token_urlsafe(15),
            "ADMIN_PASSWORD": secrets.token_urlsafe(15),
        }
        if missing := fresh.keys() - kept.keys():
            kept |= {name: fresh[name] for name in missing}
            write_private(path, json.dumps(kept, indent=1))
        return kept

    def write_stack_env(self, values: Mapping[str, str]) -> None:
        """Publish the running stack's addresses as KEY=value lines."""
        write_private(
            self.stack_env, "".join(f"{name}={value}\n" for name, value in values.items())
        )


@contextlib.contextmanager
def hold(path: Path, *, any_format: bool = False) -> Iterator[StateFolder]:
    """Make or take the state folder and lock it for the duration.

    `any_format` also takes the folder of another version, which is good for throwing it away only.

    Raises:
        CannotStartError: it is in use, not ours, or of another format.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStartError(
            f"The state folder {path} cannot be made ({error.strerror}): set STATE_DIR to a place "
            "you may write to."
        ) from None
    _require_private(path)
    _require_format(path, any_format=any_format)
    with (path / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise CannotStartError(
                f"The stack in {path} is already running (process {lock.read().strip()}): stop it "
                "with Ctrl-C first, or set STATE_DIR for a second one."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield StateFolder(path)


def remove(path: Path) -> None:
    """Throw the folder of a stopped stack away; the caller holds its lock."""
    shutil.rmtree(_short_folder(path), ignore_errors=True)
    shutil.rmtree(path)


def is_state_folder(path: Path) -> bool:
    """Tell whether the folder was made by a launcher, of any version."""
    try:
        return (path / "format").read_text().startswith(_FORMAT_KIND)
    except OSError:
        return False


def fits_a_socket(folder: Path) -> bool:
    """Tell whether sockets in this folder can be opened and named in a URL."""
    length = len(os.fsencode(folder / _LONGEST_SOCKET_NAME))
    return length <= SOCKET_PATH_BYTES and bool(_PLAIN_PATH.fullmatch(str(folder)))


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, readable by its owner only."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600, exist_ok=False)
    draft.write_text(text)
    draft.replace(path)


def _short_folder(state_dir: Path) -> Path:
    # Named after the state folder, so that the next run and `clean` find it without a note.
    name = f"meterkeeper-{os.geteuid()}-{hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:12]}"
    preferred = Path(tempfile.gettempdir()) / name
    return preferred if fits_a_socket(preferred) else Path("/tmp") / name  # noqa: S108  # private, checked


def _require_private(path: Path) -> None:
    """Refuse a folder somebody else could have prepared for us, and close ours to others."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        found = path.stat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise CannotStartError(
            f"{path} is not a folder of yours: remove it, or set STATE_DIR to another place."
        )
    if stat.S_IMODE(found.st_mode) != stat.S_IRWXU and _may_be_closed(path):
        path.chmod(0o700)


def _may_be_closed(path: Path) -> bool:
    # Only what we made, or found empty: a mistyped STATE_DIR must not lock people out of a folder.
    return is_state_folder(path) or not any(path.iterdir())


def _require_format(path: Path, *, any_format: bool) -> None:
    marker = path / "format"
    if not marker.exists() and not any(path.iterdir()):
        write_private(marker, FORMAT + "\n")
    if not is_state_folder(path):
        raise CannotStartError(
            f"{path} holds something else than this stack's state: set STATE_DIR to an empty or "
            "new folder."
        )
    found = marker.read_text().strip()
    if found != FORMAT and not any_format:
        raise CannotStartError(
            f"The state folder {path} was made by another version ({found}, this one makes "
            f"{FORMAT}): `make clean` throws its data away, or set STATE_DIR to a new folder."
        )
