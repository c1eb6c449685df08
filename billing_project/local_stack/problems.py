"""What keeps the stack from starting or staying up, each as one sentence a person can act on."""


class CannotStartError(Exception):
    """The stack cannot start as asked: why, and what to change."""


class StackFailedError(Exception):
    """Something the stack started went wrong; `tail` is the last it said."""

    def __init__(self, message: str, *, tail: list[str] | None = None) -> None:
        super().__init__(message)
        self.tail = tail or []


class StopRequestedError(Exception):
    """Somebody asked the stack to stop while it was still starting."""
