"""`make setup`: the virtual environment, from nothing but a Python interpreter.

Run as a plain file by whichever Python is on PATH, before anything is installed: it imports nothing
of ours, and keeps to what Python 3.7 understands, well enough to be told that it is too old.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NEEDED = (3, 11)
UV = "uv==0.13.9"

CHECKOUT = Path(__file__).resolve().parents[2]
ENVIRONMENT = CHECKOUT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"


def main() -> None:
    """Make or repair the environment and install exactly what the lock file names."""
    require_python()
    if not environment_works():
        make_environment()
    run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV)
    # Some networks have a certificate authority of their own, known to the system only.
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")
    lock_file = CHECKOUT / "requirements-dev.txt"
    sync = ("-m", "uv", "pip", "sync", "--quiet", "--require-hashes")
    run(*sync, "--python", str(PYTHON), str(lock_file))


def require_python() -> None:
    """Go on with a Python that is new enough, if there is one."""
    if sys.version_info >= NEEDED:
        return
    for minor in range(14, 10, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            os.execv(found, [found, *sys.argv])  # noqa: S606  # no shell is the point
    found_version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    give_up(
        f"Python 3.11 or newer is needed and {sys.executable} is {found_version}: install one, or "
        "name it with `make setup PYTHON=/path/to/python3`."
    )


def environment_works() -> bool:
    """Tell whether .venv has a new enough Python and a pip; a moved or half-made one has not."""
    check = f"import sys, pip; sys.exit(sys.version_info < {NEEDED})"
    try:
        code = subprocess.call([str(PYTHON), "-c", check], stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return code == 0


def make_environment() -> None:
    """Make .venv anew; Debian and Ubuntu keep what that takes in a package of its own."""
    if not (has_ensurepip() or install_debian_package()):
        give_up(
            "Python's venv module is incomplete here: install it (on Debian or Ubuntu "
            f"`apt-get install {debian_package()}`) and run `make setup` again."
        )
    run("-m", "venv", "--clear", str(ENVIRONMENT), python=sys.executable)


def has_ensurepip() -> bool:
    """Tell whether this Python can put a pip into a new environment."""
    check = [sys.executable, "-c", "import venv, ensurepip"]
    return subprocess.call(check, stderr=subprocess.DEVNULL) == 0


def install_debian_package() -> bool:
    """Install what is missing where we may, and tell whether that helped."""
    apt = shutil.which("apt-get")
    if os.geteuid() != 0 or not apt:
        return False
    print(f"Installing {debian_package()}, which Python's venv module needs.", flush=True)
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    install = [apt, "install", "-qq", "--no-install-recommends", debian_package()]
    for command in ([apt, "update", "-qq"], install):
        subprocess.call(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return has_ensurepip()


def debian_package() -> str:
    """Name the package that belongs to this very Python."""
    return f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"


def run(*arguments: str, python: str = str(PYTHON)) -> None:
    """Run a step in Python; one that fails has already said why."""
    if subprocess.call([python, *arguments], stdin=subprocess.DEVNULL):
        step = " ".join(arguments[:4])
        give_up(f"setting up .venv failed at `python {step}`; `make setup` goes on from there.")


def give_up(sentence: str) -> None:
    """End with one sentence and no traceback."""
    sys.stderr.write(f"meterkeeper: {sentence}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
