"""The clock the money path goes by: the database's, one for all workers."""

from __future__ import annotations

from billing.clock import Clock, database_clock

__all__ = ["Clock", "database_clock"]
