"""The memory of Idempotency-Keys, for v1 and v2, which differ.

v1 stores the first answer of an endpoint that began to run, 500s included, and gives it again; v2
stores successes only, so a failed call runs again. Source: docs.stripe.com/api/idempotent_requests
and /api-v2-overview.
"""

import hashlib

from stripe_emulator.core.errors import ApiError
from stripe_emulator.core.records import IdempotencyRecord, Records

MAX_KEY = 255


def fingerprint(method: str, path: str, canonical: str) -> str:
    """Return a digest of what was asked, to notice the same key with other parameters."""
    return hashlib.blake2b(
        f"{method}\x00{path}\x00{canonical}".encode(), digest_size=16
    ).hexdigest()


class Idempotency:
    """First answers by mode, API generation and key."""

    def __init__(self, records: Records[IdempotencyRecord]) -> None:
        self.records = records
        self._running: set[str] = set()

    def begin(  # noqa: PLR0913  what decides it
        self, key: str, *, path: str, asked: str, now: float, window_seconds: int, v2: bool
    ) -> IdempotencyRecord | None:
        """Return the stored answer, or None after noting that this call runs.

        Raise when neither may be.
        """
        name = key.partition(":")[2]
        if len(name) > MAX_KEY:
            raise ApiError(
                400, f"Idempotency keys can be at most {MAX_KEY} characters long.", started=False
            )
        if key in self._running:
            raise ApiError(
                409,
                "An earlier request with this Idempotency-Key is still under way.",
                type="idempotency_error",
                code="idempotency_key_in_use",
                started=False,
            )
        known = self.records.get(key)
        if known is None or now - known.at >= window_seconds:
            self._running.add(key)
            return None
        if known.path != path:
            raise _mismatch(
                f"The Idempotency-Key '{name}' belongs to '{known.path}': a key stays with the "
                f"same endpoint, so a request to '{path}' needs another.",
                v2=v2,
            )
        if known.fingerprint != asked:
            raise _mismatch(
                f"The Idempotency-Key '{name}' was first used with other parameters: a different "
                "request needs another key.",
                v2=v2,
            )
        return known

    def store(self, key: str, record: IdempotencyRecord) -> None:
        self.records.put(key, record)

    def end(self, key: str) -> None:
        """Note that the call's answer has left."""
        self._running.discard(key)

    def forget_running(self) -> None:
        """Drop what is noted of calls in flight."""
        self._running.clear()

    def clear(self) -> None:
        self.records.clear()
        self.forget_running()


def _mismatch(message: str, *, v2: bool) -> ApiError:
    code = "idempotency_error" if v2 else None
    return ApiError(400, message, type="idempotency_error", code=code, started=False)
