"""Draining a backlog over the stream with two workers, at Stripe's limit and at a lower one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.bench import draining, stack
from tests.bench.draining import STREAM, Backlog
from tests.bench.variants import Variant

BACKLOGS = (
    Backlog(name="stream", path=STREAM, submissions=200_000, limit=10_000),
    Backlog(name="stream-2000/s", path=STREAM, submissions=40_000, limit=2_000),
)


@contextlib.contextmanager
def variants(*, scale: float, backends: stack.Backends) -> Iterator[list[Variant]]:
    """Yield one for each backlog; `scale` shortens or lengthens it."""
    yield draining.variants(BACKLOGS, scale=scale, backends=backends)
