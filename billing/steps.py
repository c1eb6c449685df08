"""Named steps: every commit and every call on the money's path goes through here under a name.

The name stands on every line logged inside the step, so that a failure says how far it got, and
the tests end the process at each of them in turn. Call both as `steps.commit(...)`, so that one
place is enough to see, or to break, them all; a name is `package.subject.step`, given literally.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction
from structlog.contextvars import bound_contextvars


@contextmanager
def commit(name: str, *, durable: bool = False, savepoint: bool = True) -> Iterator[None]:
    """Run the block as one transaction, or as a part of the one that is open.

    Where none was open, all of it is durable once the block is left, and nothing of it when that
    raises; only a connection lost in the commit itself leaves it open which. `durable` insists
    that none was open. Without a `savepoint`, whoever has one open cannot go on with it after a
    failure in here, and two round trips are spared.
    """
    with bound_contextvars(step=name), transaction.atomic(durable=durable, savepoint=savepoint):
        yield


@contextmanager
def call(name: str) -> Iterator[None]:
    """Run the block, which calls Stripe, with no transaction open."""
    with bound_contextvars(step=name):
        yield
