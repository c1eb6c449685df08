"""Webhook deliveries.

What is owed to whom is signed at the moment it leaves and repeated after failures. The queue can
misbehave on request as networks do: see the `webhook_` kinds in `faults`.
"""

import heapq
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stripe_emulator.core.collection import Object


@dataclass(frozen=True, slots=True)
class Delivery:
    """One POST to make now."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    id: int
    event_id: str
    endpoint_id: str
    attempt: int


@dataclass(slots=True)
class Owed:
    """An event an endpoint has not acknowledged."""

    id: int
    event_id: str
    endpoint_id: str
    body: bytes
    attempt: int = 0
    signature_age_seconds: int = 0
    """How far in the past the signature claims to be; a replay is old."""
    forged: bool = False


@dataclass(slots=True)
class Outbox:
    """All owed deliveries, by the moment they are due."""

    waiting: list[tuple[float, int, Owed]] = field(default_factory=list)
    under_way: dict[int, Owed] = field(default_factory=dict)
    recent: list[dict[str, object]] = field(default_factory=list)
    sequence: int = 0

    def owe(self, *, event_id: str, endpoint_id: str, body: bytes, due_at: float) -> Owed:
        self.sequence += 1
        owed = Owed(self.sequence, event_id, endpoint_id, body)
        self.put(owed, due_at)
        return owed

    def put(self, owed: Owed, due_at: float) -> None:
        # A second key keeps equal moments in order; a copy of an owed delivery shares its id.
        self.sequence += 1
        heapq.heappush(self.waiting, (due_at, self.sequence, owed))

    def take_due(self, now: float) -> list[Owed]:
        """Return everything due, in order; it counts as under way until its outcome is reported."""
        taken = []
        while self.waiting and self.waiting[0][0] <= now:
            taken.append(heapq.heappop(self.waiting)[2])
        return taken

    def next_due_at(self) -> float | None:
        return self.waiting[0][0] if self.waiting else None

    def drop_endpoint(self, endpoint_id: str) -> None:
        """Forget what a deleted endpoint was owed."""
        self.waiting = [entry for entry in self.waiting if entry[2].endpoint_id != endpoint_id]
        heapq.heapify(self.waiting)


def signed_headers(
    body: bytes, *, secrets: Sequence[str], at: int, livemode: bool
) -> dict[str, str]:
    """Return the headers of a delivery, signed with each of the secrets.

    The scheme is HMAC-SHA256 over `<t>.<body>` (docs.stripe.com/webhooks/signature). Test mode adds
    a `v0`, which nobody may trust; what it holds is ours.
    """
    content = b"%d.%b" % (at, body)
    signatures = [f"v1={_digest(secret, content)}" for secret in secrets]
    if not livemode:
        signatures.append(f"v0={_digest('v0', content)}")
    return {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        "Stripe-Signature": ",".join([f"t={at}", *signatures]),
    }


def _digest(secret: str, content: bytes) -> str:
    return hmac.new(secret.encode(), content, "sha256").hexdigest()


def snapshot_body(event: Object) -> bytes:
    """Write an event as the webhook carries it, indented like Stripe's."""
    return json.dumps(event, indent=2).encode()
