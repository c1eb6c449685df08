"""Stripe's published rates, enforced when asked for. A bucket holds one second's worth of calls."""

from dataclasses import dataclass

from stripe_emulator.core.errors import ApiError

ACCOUNT = "account"
V1_EVENTS = "POST /v1/billing/meter_events"
V2_EVENTS = "POST /v2/billing/meter_events"
STREAM = "POST /v2/billing/meter_event_stream"

APART = {V1_EVENTS: 1_000, V2_EVENTS: 1_000, STREAM: 10_000}
"""Live limits of their own, outside of the account's; the stream's are events (docs, the guide)."""
LIVE_ACCOUNT = 100
SANDBOX_ACCOUNT = 25
ENDPOINT = 25
SEARCH = 20
_HARDLY = 1e-9


@dataclass(slots=True)
class _Bucket:
    rate: int
    tokens: float
    at: float

    def take(self, now: float, cost: int) -> bool:
        self.tokens = min(self.rate, self.tokens + (now - self.at) * self.rate)
        self.at = now
        # Decimal fractions of a second are not binary ones.
        if self.tokens + _HARDLY < min(cost, self.rate):
            return False
        self.tokens -= cost
        return True


class RateLimits:
    """Count calls by mode of key and endpoint."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[bool, str], _Bucket] = {}

    def check(  # noqa: PLR0913  what decides it
        self,
        regime: str,
        *,
        livemode: bool,
        endpoint: str,
        now: float,
        cost: int,
        connected: bool = False,
    ) -> None:
        """Let a call of `cost` events pass, or refuse it with a 429 that names the limit it hit.

        Under `sandbox` everything counts to one account limit; under `live` meter events are apart,
        except on v1 for a connected account. Source: docs.stripe.com/rate-limits.
        """
        apart = endpoint in APART and not (connected and endpoint == V1_EVENTS)
        if regime == "live" and apart:
            if not self._take(livemode, endpoint, APART[endpoint], now, cost):
                raise _refused("endpoint-rate")
            return
        account = LIVE_ACCOUNT if regime == "live" else SANDBOX_ACCOUNT
        if not self._take(livemode, ACCOUNT, account, now, 1):
            raise _refused("global-rate")
        rate = SEARCH if endpoint.endswith("/search") else ENDPOINT
        if not self._take(livemode, endpoint, rate, now, 1):
            raise _refused("endpoint-rate")

    def _take(self, livemode: bool, name: str, rate: int, now: float, cost: int) -> bool:
        bucket = self._buckets.get((livemode, name))
        if bucket is None:
            bucket = self._buckets[livemode, name] = _Bucket(rate, rate, now)
        return bucket.take(now, cost)


def _refused(reason: str) -> ApiError:
    return ApiError(
        429,
        "Request rate limit exceeded.",
        type="rate_limit",
        code="rate_limit",
        headers={"Stripe-Rate-Limited-Reason": reason},
        started=False,
    )
