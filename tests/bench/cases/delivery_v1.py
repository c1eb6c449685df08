"""Draining a backlog over v1 with two workers: at Stripe's limit, at a lower one, of few pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.bench import draining, stack
from tests.bench.draining import V1, Backlog
from tests.bench.variants import Variant

BACKLOGS = (
    Backlog(name="v1", path=V1, submissions=20_000, limit=1_000),
    Backlog(name="v1-100/s", path=V1, submissions=2_000, limit=100),
    # One call at a time for each of four pairs is what bounds it.
    Backlog(name="v1-4-pairs", path=V1, submissions=1_600, limit=1_000, customers=2, meters=2),
)


@contextlib.contextmanager
def variants(*, scale: float, backends: stack.Backends) -> Iterator[list[Variant]]:
    """Yield one for each backlog; `scale` shortens or lengthens it."""
    yield draining.variants(BACKLOGS, scale=scale, backends=backends)
