"""The emulator's one idea of now. Test clocks of single customers live in `test_clocks`."""

import math
from collections.abc import Callable


class Clock:
    """Follow a source of seconds, moved or stopped on request."""

    def __init__(self, source: Callable[[], float]) -> None:
        self._source = source
        self._offset_seconds = 0.0
        self._frozen_at: float | None = None

    def now(self) -> float:
        """Return unix seconds, UTC."""
        if self._frozen_at is not None:
            return self._frozen_at
        return self._source() + self._offset_seconds

    def second(self) -> int:
        """Return the whole second we are in, as Stripe writes its timestamps."""
        return math.floor(self.now())

    @property
    def frozen(self) -> bool:
        return self._frozen_at is not None

    def set(self, at: float, *, frozen: bool) -> None:
        """Jump to `at`; a frozen clock stays there, another one runs on from it."""
        self._frozen_at = at if frozen else None
        self._offset_seconds = at - self._source()

    def freeze(self, at: float | None = None) -> None:
        """Stop at `at`, or where we are."""
        self.set(self.now() if at is None else at, frozen=True)

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`; a frozen clock stays frozen."""
        self.set(self.now() + seconds, frozen=self.frozen)

    def run(self) -> None:
        """Go back to the source: no offset, not frozen."""
        self._frozen_at = None
        self._offset_seconds = 0.0

    def state(self) -> tuple[float, float | None]:
        """Return what a snapshot must remember; the source is not part of it."""
        return (self._offset_seconds, self._frozen_at)

    def restore(self, state: tuple[float, float | None]) -> None:
        """Take back what `state` gave."""
        self._offset_seconds, self._frozen_at = state
