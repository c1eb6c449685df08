"""One operation: which URL it answers, with which function and parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.params import EXPAND, Hash

ONLY_EXPAND = Hash({"expand": EXPAND})


@dataclass(frozen=True, slots=True)
class Route:
    """One operation."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    answer: Callable[[Call], Answer]
    takes: Hash
    meter_event: bool = False
    """Whether one call at a time is allowed for a customer and meter."""

    @property
    def v2(self) -> bool:
        return self.path.startswith("/v2/")

    @property
    def listed(self) -> bool:
        """Whether the answer is a page, in which paths of `expand` begin with `data`."""
        return "limit" in self.takes.fields
