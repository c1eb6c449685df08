"""The admin's login on a local stack: made once, with the password kept in the state folder.

Runs as `python -m billing_project.local_stack.admin_account` beside the stack, or is called by the
demo. Somebody's own database gets no account with a password of ours unless the demo is played.
"""

import os
import subprocess
import sys
from pathlib import Path

from billing_project.local_stack.state import StateFolder

ADMIN = "admin"


def ensure() -> str | None:
    """Make the account unless there is one, and return what went wrong, if anything did."""
    account = {
        "DJANGO_SUPERUSER_USERNAME": ADMIN,
        "DJANGO_SUPERUSER_EMAIL": "admin@example.com",
        "DJANGO_SUPERUSER_PASSWORD": password(Path(os.environ["STATE_DIR"])),
    }
    made = subprocess.run(
        [sys.executable, "manage.py", "createsuperuser", "--noinput"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **account},
    )
    if made.returncode and "already taken" not in made.stderr:
        return (made.stderr.strip().splitlines() or ["it gave no reason"])[-1]
    return None


def password(state: Path) -> str:
    """Return the password made for this state folder."""
    return StateFolder(state).secrets()["ADMIN_PASSWORD"]


if __name__ == "__main__":
    sys.exit(ensure())
