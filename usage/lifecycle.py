"""The states of a submission and the legal moves between them. Pure.

The database refuses every other move; `tests/usage/test_lifecycle.py` holds the two equal.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a submission stands. A unit in any of them is neither lost nor billed twice."""

    READY = "ready"
    SENDING = "sending"
    RETRY = "retry"
    IN_DOUBT = "in_doubt"
    ACCEPTED = "accepted"
    SETTLED = "settled"
    UNPROVEN = "unproven"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    WRITTEN_OFF = "written_off"

    @property
    def label(self) -> str:
        """The word shown to people."""
        return self.value.replace("_", " ")


MOVES: dict[State, frozenset[State]] = {
    # Straight to UNPROVEN after a restore only: the attempts it had may be what was lost.
    State.READY: frozenset({State.SENDING, State.SUPERSEDED, State.EXPIRED, State.UNPROVEN}),
    State.SENDING: frozenset(
        {State.ACCEPTED, State.RETRY, State.IN_DOUBT, State.REJECTED, State.UNPROVEN}
    ),
    State.RETRY: frozenset({State.SENDING, State.SUPERSEDED, State.UNPROVEN, State.EXPIRED}),
    State.IN_DOUBT: frozenset({State.SENDING, State.UNPROVEN}),
    State.ACCEPTED: frozenset({State.SETTLED, State.REJECTED, State.UNPROVEN}),
    State.UNPROVEN: frozenset({State.ACCEPTED, State.SUPERSEDED, State.WRITTEN_OFF}),
    State.REJECTED: frozenset({State.SUPERSEDED, State.WRITTEN_OFF}),
    State.EXPIRED: frozenset({State.SUPERSEDED, State.WRITTEN_OFF}),
    State.SETTLED: frozenset(),
    State.SUPERSEDED: frozenset(),
    State.WRITTEN_OFF: frozenset(),
}

SENDABLE = frozenset({State.READY, State.RETRY, State.IN_DOUBT})
"""States a delivery pass may claim once `next_action_at` has come."""

COUNTED = frozenset({State.ACCEPTED, State.SETTLED})
"""States whose value Stripe is known to have taken."""

DOUBTFUL = frozenset({State.SENDING, State.IN_DOUBT, State.UNPROVEN})
"""States whose value Stripe may have taken. RETRY joins them while `doubt_since` is set."""


def is_legal(before: State, after: State) -> bool:
    """Return whether a submission may go from `before` to `after`. Staying is always legal."""
    return before == after or after in MOVES[before]
