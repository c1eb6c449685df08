"""Calls under way: a handful at once, each in a thread, none of which sees the database."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from usage.calling import Ended, call
from usage.claiming import Claim

GATHER_SECONDS = 0.005
"""About what a commit takes: waiting so long for company is never a loss."""


class Calls:
    """Up to `size` calls at once. With one, it is made in the caller's own thread."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._threads = ThreadPoolExecutor(size, "stripe-call") if size > 1 else None
        self._under_way: set[Future[list[Ended]]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._threads is not None:
            self._threads.shutdown()

    @property
    def under_way(self) -> int:
        """How many calls have been started and not collected."""
        return len(self._under_way)

    @property
    def free(self) -> int:
        """How many more may be started."""
        return self.size - self.under_way

    def start(self, claims: Sequence[Claim]) -> None:
        """Make one call for `claims`; what it comes to is told by `collect`."""
        if self._threads is not None:
            self._under_way.add(self._threads.submit(call, claims))
            return
        done: Future[list[Ended]] = Future()
        done.set_result(call(claims))
        self._under_way.add(done)

    def collect(self) -> tuple[list[list[Ended]], BaseException | None]:
        """Wait until a call has ended; return what ended calls came to, a list for each.

        Others that end within `GATHER_SECONDS` come along, since all are written in one commit.
        The second part is the error of a call that broke down: nobody knows how that one ended.
        """
        wait(self._under_way, return_when=FIRST_COMPLETED)
        done, self._under_way = wait(self._under_way, timeout=GATHER_SECONDS)
        broken = next((each.exception() for each in done if each.exception()), None)
        return [each.result() for each in done if not each.exception()], broken
