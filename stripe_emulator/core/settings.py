"""The knobs of the emulator.

Each default is the strictest behaviour Stripe is known or thought to have.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

HOUR_SECONDS = 3600
DAY_SECONDS = 24 * HOUR_SECONDS


@dataclass(slots=True)
class Settings:
    """Change them in process, or through `POST /_emulator/settings`."""

    identifier_window_seconds: int = DAY_SECONDS
    """How long a meter event identifier is remembered.

    Stripe promises at least this; we give exactly it.
    """

    idempotency_window_seconds: int = DAY_SECONDS
    """After this a v1 Idempotency-Key acts anew."""

    idempotency_window_v2_seconds: int = 30 * DAY_SECONDS
    """The same for v2, where only successes are replayed."""

    settle_lag_seconds: float = 0.0
    """Between accepting an event and counting it in summaries."""

    unknown_usage: Literal["refuse", "report"] = "refuse"
    """What v1 does with an unknown customer or meter: a 400, or a 200 and an error report."""

    report_window_seconds: float = 10.0
    """Asynchronous refusals of one window share one error report."""

    report_samples: int = 5
    """How many refused events an error report names, of each code."""

    rate_limits: Literal["off", "live", "sandbox"] = "off"
    """Which of Stripe's published rates to enforce."""

    one_call_per_pair: bool = False
    """Whether a second call in flight for one customer and meter is refused with a 429."""

    session_seconds: int = 15 * 60
    """How long a meter event session lasts."""

    test_clock_advance_seconds: float = 0.0
    """How long a test clock takes to arrive; also 0 is a moment after the answer."""

    adjustment_span_seconds: int = DAY_SECONDS
    """How long after receipt an event can be cancelled."""

    webhook_retry_seconds: tuple[int, ...] = (1, 2, 5, 10, 30, 60, 300, 900, 3600)
    """Waits before each repeat of a failed delivery. Stripe waits hours; a local stack cannot."""

    cycle_invoices: bool = False
    """Whether periods end with an invoice; off while its later life is not emulated."""

    first_payment_hours: int = 23
    """How long an incomplete subscription waits for its first payment."""

    def change(self, **values: Any) -> None:
        """Set the named knobs; an unknown name or a value of another type raises ValueError."""
        known = {f.name: f for f in dataclasses.fields(self)}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"There is no setting {name}. Known: {', '.join(sorted(known))}.")
            setattr(self, name, _fitting(name, getattr(self, name), value))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_WORDS = {"unknown_usage": ("refuse", "report"), "rate_limits": ("off", "live", "sandbox")}


def _fitting(name: str, current: Any, value: Any) -> Any:
    if name in _WORDS:
        if value not in _WORDS[name]:
            raise ValueError(f"{name} is one of {', '.join(_WORDS[name])}.")
        return value
    if isinstance(current, bool) or isinstance(value, bool):
        if type(value) is not type(current):
            raise ValueError(f"{name} takes {type(current).__name__}, not {value!r}.")
        return value
    if isinstance(current, tuple):
        return tuple(int(each) for each in value)
    if not isinstance(value, int | float) or value < 0:
        raise ValueError(f"{name} takes a number from 0, not {value!r}.")
    return type(current)(value)
