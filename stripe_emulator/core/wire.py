"""What comes in and what goes out, whichever transport carries it."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it left the wire; header names are lower case."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    host: str = ""
    """Whom the caller meant to reach; the stream is served on a host of its own."""


class Fate(enum.Enum):
    """How the transport ends the exchange; only DELIVERED reaches the caller whole."""

    DELIVERED = "delivered"
    DROPPED = "dropped"
    """The connection closes without one byte of an answer."""
    TRUNCATED = "truncated"
    """Headers and half of the body arrive, then the connection resets."""
    TRICKLED = "trickled"
    """Headers arrive at once, the body byte by byte over `Reply.delay_seconds`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, and what the transport must do to it on the way."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    fate: Fate = Fate.DELIVERED
    delay_seconds: float = 0.0
    ticket: int = 0
    """Names the call while it is in flight; `Emulator.finish` takes it back."""
