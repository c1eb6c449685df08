"""The clock all workers go by: the database's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from django.db import connection

Clock = Callable[[], datetime]


def database_clock() -> datetime:
    """Return the database's present instant, in UTC.

    Leases, shared limits and the age of a doubt are judged by it, because the clocks of workers
    may disagree.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        instant: datetime = cursor.fetchone()[0]
        return instant
