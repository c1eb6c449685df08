"""Limits of API keys: how much one may report in a minute. A key without any costs nothing here.

Most clients never repeat what is refused with 429, so limits are off unless staff set them.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from django.db import connection

from billing import steps
from billing.authentication import Caller

MINUTE_SECONDS = 60


class OverLimit(Exception):
    """A request is more than its key may report now, or ever. Nothing of it was stored.

    `retry_after_seconds` is when the next minute begins; None when no minute is enough for it.
    """

    def __init__(self, reason: str, *, retry_after_seconds: int | None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


SPEND = """
INSERT INTO billing_keyspending AS spent (key_prefix, minute, event_count, units)
VALUES (%(key)s, %(minute)s, %(events)s, %(units)s)
ON CONFLICT (key_prefix) DO UPDATE SET
    minute = excluded.minute,
    event_count = excluded.event_count
        + CASE WHEN spent.minute = excluded.minute THEN spent.event_count ELSE 0 END,
    units = excluded.units
        + CASE WHEN spent.minute = excluded.minute THEN spent.units ELSE 0 END
RETURNING event_count, units
"""


def spend(caller: Caller, *, events: int, units: Decimal, now: datetime) -> None:
    """Count a request against its key's limits in the UTC minute of `now`.

    A repetition counts again. What is then not stored stays counted: the limits protect us, and
    are no books.

    Raises:
        OverLimit: it would go beyond a limit; it is not counted.
    """
    limits = caller.limits
    asked = (
        ("events", Decimal(events), limits.events_per_minute),
        ("units", units, limits.units_per_minute),
    )
    for name, wanted, limit in asked:
        if limit is not None and wanted > limit:
            raise OverLimit(
                f"This API key may report {limit:,} {name} a minute; these are {wanted:,f}.",
                retry_after_seconds=None,
            )
    if limits.events_per_minute is None and limits.units_per_minute is None:
        return
    minute = now.replace(second=0, microsecond=0)
    with steps.commit("billing.key_limits.spend"), connection.cursor() as cursor:
        cursor.execute(
            SPEND,
            {"key": caller.key_prefix, "minute": minute, "events": events, "units": units},
        )
        spent = dict(zip(("events", "units"), cursor.fetchone(), strict=True))
        for name, _, limit in asked:
            if limit is not None and spent[name] > limit:
                # Out of the block, so that what is refused is not counted.
                raise OverLimit(
                    f"This API key may report {limit:,} {name} a minute, and has.",
                    retry_after_seconds=max(1, MINUTE_SECONDS - now.second),
                )
