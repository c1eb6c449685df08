"""What a request is told when a fault rule strikes it: before, at the start or at the end of it."""

from stripe_emulator.core.errors import ApiError
from stripe_emulator.core.faults import FaultRule
from stripe_emulator.core.sessions import expired
from stripe_emulator.core.wire import Fate


class DroppedError(Exception):
    """The connection is to close before anything ran."""


def before(rule: FaultRule | None) -> None:
    """Refuse ahead of everything, so that nothing is stored under the idempotency key."""
    if rule is None:
        return
    if rule.kind == "drop_before":
        raise DroppedError
    answer = _BEFORE.get(rule.kind)
    if answer is not None:
        raise answer()


def at_start(rule: FaultRule | None) -> None:
    """Fail once the endpoint has begun: the 500 is stored, the work is not done."""
    if rule is not None and rule.kind == "500_before":
        raise _internal()


def at_end(rule: FaultRule | None) -> None:
    """Fail with the work done: the 500 is stored in place of the real answer."""
    if rule is not None and rule.kind == "500_after":
        raise _internal()


def fate(rule: FaultRule | None) -> Fate:
    """Return how the answer travels."""
    if rule is None:
        return Fate.DELIVERED
    return {
        "answer_lost": Fate.DROPPED,
        "reset_mid_body": Fate.TRUNCATED,
        "slow_body": Fate.TRICKLED,
    }.get(rule.kind, Fate.DELIVERED)


def _internal() -> ApiError:
    return ApiError(
        500, "An unknown error occurred. (Made by the emulator on request.)", type="api_error"
    )


def _unavailable() -> ApiError:
    return ApiError(
        503,
        "Service unavailable. (Made by the emulator on request.)",
        type="api_error",
        started=False,
    )


def _limited() -> ApiError:
    error = _limited_without_reason()
    error.headers["Stripe-Rate-Limited-Reason"] = "global-rate"
    return error


def _limited_without_reason() -> ApiError:
    return ApiError(
        429,
        "Request rate limit exceeded. (Made by the emulator on request.)",
        code="rate_limit",
        started=False,
    )


def _locked() -> ApiError:
    return ApiError(
        429,
        "Another request or process holds this object. (Made by the emulator on request.)",
        code="lock_timeout",
        headers={"Stripe-Should-Retry": "true"},
        started=False,
    )


def _in_use() -> ApiError:
    return ApiError(
        409,
        "An earlier request with this Idempotency-Key is still under way. (Made by the emulator on "
        "request.)",
        type="idempotency_error",
        code="idempotency_key_in_use",
        started=False,
    )


def _never_seen() -> ApiError:
    return ApiError(
        400,
        "The moon is in the wrong house. (Made by the emulator on request.)",
        code="moon_in_wrong_house",
        started=False,
    )


def _revoked() -> ApiError:
    return ApiError(
        401, "Invalid API Key provided. (Made by the emulator on request.)", started=False
    )


def _forbidden() -> ApiError:
    return ApiError(
        403,
        "The provided key does not have the required permissions for this endpoint. (Made by the "
        "emulator on request.)",
        started=False,
    )


_BEFORE = {
    "400": _never_seen,
    "401": _revoked,
    "403": _forbidden,
    "503": _unavailable,
    "429": _limited,
    "429_without_reason": _limited_without_reason,
    "lock_timeout": _locked,
    "409": _in_use,
    "session_expired": expired,
}
