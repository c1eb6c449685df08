"""What crosses the seam: frozen, exact, in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Receipt:
    """Stripe's answer to a meter event. `is_duplicate`: an earlier attempt had been taken."""

    is_duplicate: bool
    request_id: str


@dataclass(frozen=True, slots=True)
class Summary:
    """Stripe's total for [`window_start`, `window_end`), as the exact decimal its text shows."""

    window_start: datetime
    window_end: datetime
    value: Decimal
