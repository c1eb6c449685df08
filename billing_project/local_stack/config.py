"""What this run of the stack is made of, read once from the environment.

`DATABASE_URL`, `CELERY_BROKER_URL` and `STRIPE_SECRET_KEY` each replace an embedded part by a real
one.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from billing_project.local_stack import ports
from billing_project.local_stack.problems import CannotStartError


@dataclass(frozen=True, slots=True)
class StackConfig:
    """One run's choices; `root` is the checkout, where the Procfile lies and programs start."""

    root: Path
    state_dir: Path
    port: int
    flower_port: int
    emulator_port: int
    database_url: str | None
    broker_url: str | None
    stripe_emulator_url: str | None
    has_stripe_key: bool

    @property
    def starts_emulator(self) -> bool:
        """A real account, or an emulator somebody else runs, replaces ours."""
        return not self.has_stripe_key and self.stripe_emulator_url is None


def read_config(root: Path, environment: Mapping[str, str]) -> StackConfig:
    """Read this run's choices.

    Raises:
        CannotStartError: a value is nonsense, or two contradict each other.
    """
    has_stripe_key = bool(environment.get("STRIPE_SECRET_KEY"))
    if has_stripe_key and environment.get("STRIPE_EMULATOR_URL"):
        raise CannotStartError(
            "STRIPE_SECRET_KEY and STRIPE_EMULATOR_URL are both set, a real account and an "
            "emulator: unset one of them."
        )
    return StackConfig(
        root=root,
        state_dir=state_dir(root, environment),
        port=ports.read_port(environment, "PORT", 8000),
        flower_port=ports.read_port(environment, "FLOWER_PORT", 5555),
        emulator_port=ports.read_port(environment, "EMULATOR_PORT", 12111),
        database_url=environment.get("DATABASE_URL") or None,
        broker_url=environment.get("CELERY_BROKER_URL") or None,
        stripe_emulator_url=environment.get("STRIPE_EMULATOR_URL") or None,
        has_stripe_key=has_stripe_key,
    )


def state_dir(root: Path, environment: Mapping[str, str]) -> Path:
    """Return the absolute state folder; a relative STATE_DIR counts from the checkout."""
    # Not resolved: a symlink somebody set up stays the name by which they know the folder.
    return Path(os.path.normpath(root / (environment.get("STATE_DIR") or ".local")))
