"""The knobs of the emulator, each with the sentence that explains it.

Each default is the strictest behaviour Stripe is known or thought to have; limits and lags that
would slow a test down are off.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

HOUR_SECONDS = 3600
DAY_SECONDS = 24 * HOUR_SECONDS
LONGEST_GRACE_SECONDS = 3 * DAY_SECONDS
"""How far an account can put finalization off, and how long one waits for webhooks at most.

Source: docs.stripe.com, usage-based billing, on the grace period; invoicing, workflow transitions.
"""


def _setting(default: Any, what: str) -> Any:
    """Return a field with the sentence `--help` shows of it."""
    return dataclasses.field(default=default, metadata={"what": what})


@dataclass(slots=True)
class Settings:
    """Change them in process, or through `POST /_emulator/settings`."""

    identifier_window_seconds: int = _setting(
        DAY_SECONDS,
        "how long a meter event identifier is remembered; Stripe promises at least a day",
    )
    idempotency_window_seconds: int = _setting(
        DAY_SECONDS, "after this a v1 Idempotency-Key acts anew"
    )
    idempotency_window_v2_seconds: int = _setting(
        30 * DAY_SECONDS, "the same for v2, where only successes are replayed"
    )
    settle_lag_seconds: float = _setting(
        0.0, "between accepting an event and counting it in summaries"
    )
    unknown_usage: Literal["refuse", "report"] = _setting(
        "refuse",
        "what v1 does with an unknown customer or meter: refuse with a 400, or report it later",
    )
    report_window_seconds: float = _setting(
        10.0, "asynchronous refusals of one window share one error report"
    )
    report_samples: int = _setting(5, "how many refused events of each code an error report names")
    rate_limits: Literal["off", "live", "sandbox"] = _setting(
        "off", "which of Stripe's published rates to enforce: off, live, sandbox"
    )
    one_call_per_pair: bool = _setting(
        False, "whether a second call in flight for a customer and meter is refused with a 429"
    )
    session_seconds: int = _setting(15 * 60, "how long a meter event session lasts")
    test_clock_advance_seconds: float = _setting(
        0.0, "how long a test clock takes to arrive; also 0 is a moment after the answer"
    )
    adjustment_span_seconds: int = _setting(
        DAY_SECONDS, "how long after its receipt an event can be cancelled"
    )
    webhook_retry_seconds: tuple[int, ...] = _setting(
        (1, 2, 5, 10, 30, 60, 300, 900, 3600),
        "waits before each repeat of a failed delivery; Stripe's are hours",
    )
    rolled_secret_seconds: int = _setting(
        0, "how long a receiver's former secret signs beside its new one; Stripe allows a day"
    )
    finalization_delay_seconds: int = _setting(
        HOUR_SECONDS,
        "how long a draft waits once invoice.created is answered: grace, up to 72 hours",
    )
    upcoming_invoice_days: int = _setting(
        7, "how many days before a period ends invoice.upcoming is sent; 0 is never"
    )
    payment_retry_days: tuple[int, ...] = _setting(
        (1, 3, 5, 7), "days after the first failed payment of an invoice at which it is repeated"
    )
    after_last_retry: Literal["cancel", "unpaid", "past_due"] = _setting(
        "cancel",
        "what becomes of a subscription whose last repeat failed: cancel, unpaid, past_due",
    )
    first_payment_hours: int = _setting(
        23, "how long an incomplete subscription waits for its first payment"
    )
    pages_base_url: str = _setting(
        "",
        "where a browser reaches the hosted pages; empty takes the address a request came to",
    )

    def change(self, **values: Any) -> None:
        """Set the named knobs; an unknown name or a value of another type raises ValueError."""
        known = {f.name: f for f in dataclasses.fields(self)}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"There is no setting {name}. Known: {', '.join(sorted(known))}.")
            setattr(self, name, _fitting(name, getattr(self, name), value))

    @classmethod
    def explained(cls) -> dict[str, str]:
        """Return what each setting does."""
        return {each.name: each.metadata["what"] for each in dataclasses.fields(cls)}

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_WORDS = {
    "after_last_retry": ("cancel", "unpaid", "past_due"),
    "rate_limits": ("off", "live", "sandbox"),
    "unknown_usage": ("refuse", "report"),
}
_MOST = {"finalization_delay_seconds": LONGEST_GRACE_SECONDS}


def _fitting(name: str, current: Any, value: Any) -> Any:
    if name in _WORDS:
        if value not in _WORDS[name]:
            raise ValueError(f"{name} is one of {', '.join(_WORDS[name])}.")
        return value
    if isinstance(current, bool | str) or isinstance(value, bool | str):
        if type(value) is not type(current):
            raise ValueError(f"{name} takes {type(current).__name__}, not {value!r}.")
        return value
    if isinstance(current, tuple):
        return tuple(int(each) for each in value)
    if not isinstance(value, int | float) or value < 0:
        raise ValueError(f"{name} takes a number from 0, not {value!r}.")
    if value > _MOST.get(name, value):
        raise ValueError(f"{name} is at most {_MOST[name]}, not {value!r}.")
    return type(current)(value)
