"""What goes wrong on purpose.

Rules strike matching requests or deliveries; they are seeded, so that a run can be had again.
"""

import random
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

KINDS = {
    "answer_lost": "the request is processed, then the connection closes without an answer",
    "drop_before": "the connection closes, nothing was processed",
    "500_before": "a 500 with nothing processed; v1 stores it under the idempotency key",
    "500_after": "processed, then a 500; v1 stores it under the idempotency key and replays it",
    "503": "a 503 before anything ran; nothing is stored",
    "429": "a 429 with Stripe-Rate-Limited-Reason: global-rate; nothing ran",
    "429_without_reason": "a bare 429; nothing ran",
    "lock_timeout": "a 429 with code lock_timeout and Stripe-Should-Retry: true; nothing ran",
    "409": "a 409 idempotency_key_in_use; nothing ran",
    "400": "a 400 with a code and a message nobody has seen before; nothing ran",
    "401": "a 401 as for a key that was revoked; nothing ran",
    "403": "a 403 as for a key without the permission; nothing ran",
    "slow": "the answer waits `delay_seconds`, and the call is in flight until then",
    "slow_body": "headers at once, then the body byte by byte over `delay_seconds`",
    "reset_mid_body": "processed, then the connection resets after half of the answer",
    "session_expired": "a stream request is told that its session is over",
    "reject_in_stream": "single events of stream requests are refused after the 200, with a report",
    "settle_late": "a single accepted event counts `delay_seconds` later than the setting says",
    "webhook_duplicate": "a delivery is made twice",
    "webhook_second_event": "a change is told in two events of different ids, both of them listed",
    "webhook_shuffle": "deliveries due together leave in another order",
    "webhook_late": "a delivery waits `delay_seconds` more",
    "webhook_drop": "a delivery is never made",
    "webhook_forge": "a copy with a wrong signature is sent as well",
    "webhook_replay": "a copy with a signature `delay_seconds` old (an hour if 0) is sent as well",
}
"""Every kind of fault and what it does, as the control API lists them."""
_OF_EVENTS = {"reject_in_stream", "settle_late"}


class FaultRule(msgspec.Struct, kw_only=True):
    """One rule. It strikes a matching request with its probability, until its count is used up."""

    kind: str
    path: str = "*"
    """Shell pattern on the path; for webhooks unused."""
    method: str = "*"
    probability: float = 1.0
    count: int | None = None
    """How often it may still strike; null is without end."""
    skip: int = 0
    """Matching requests to let pass first."""
    seed: int = 0
    delay_seconds: float = 0.0
    id: str = ""
    struck: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"There is no fault {self.kind!r}. Known: {', '.join(KINDS)}.")
        if not 0 <= self.probability <= 1:
            raise ValueError("probability lies between 0 and 1.")


class Faults:
    """The rules in force, in the order they were added; the first that strikes wins."""

    def __init__(self) -> None:
        self.rules: list[FaultRule] = []
        self._draws: dict[str, random.Random] = {}
        self._made = 0

    def add(self, rule: FaultRule) -> FaultRule:
        self._made += 1
        rule.id = f"fault_{self._made}"
        self._draws[rule.id] = random.Random(rule.seed)
        self.rules.append(rule)
        return rule

    def switch_on(self, kind: str, **options: Any) -> FaultRule:
        """Add a rule by its fields, as `emulator.faults.switch_on("answer_lost", count=1)`."""
        return self.add(FaultRule(kind=kind, **options))

    def remove(self, rule_id: str) -> bool:
        """Take one rule out of force; False when there is none of that id."""
        kept = [rule for rule in self.rules if rule.id != rule_id]
        removed = len(kept) < len(self.rules)
        self.rules = kept
        return removed

    def clear(self) -> None:
        self.rules.clear()

    def for_request(self, method: str, path: str) -> FaultRule | None:
        """Return the rule that strikes this request; rules on single events and webhooks do not."""
        if not self.rules:
            return None
        return self._first(
            lambda rule: (
                not rule.kind.startswith("webhook_")
                and rule.kind not in _OF_EVENTS
                and (rule.kind != "session_expired" or path.endswith("/meter_event_stream"))
                and rule.method in {"*", method}
                and fnmatchcase(path, rule.path)
            )
        )

    def strikes(self, kind: str) -> FaultRule | None:
        """Return the rule of this kind that strikes now, whatever the path."""
        return self._first(lambda rule: rule.kind == kind) if self.rules else None

    def shuffle(self, things: list[T]) -> None:
        """Reorder in place, by the seed of the rule for shuffling."""
        rule = next((rule for rule in self.rules if rule.kind == "webhook_shuffle"), None)
        draw = self._draws[rule.id] if rule else random.Random(0)
        draw.shuffle(things)

    def _first(self, matches: Callable[[FaultRule], bool]) -> FaultRule | None:
        for rule in self.rules:
            if rule.count == 0 or not matches(rule):
                continue
            if rule.skip > 0:
                rule.skip -= 1
                continue
            if self._draws[rule.id].random() >= rule.probability:
                continue
            rule.struck += 1
            if rule.count is not None:
                rule.count -= 1
            return rule
        return None
