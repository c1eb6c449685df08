"""What the books of usage are made of."""

from decimal import Decimal
from typing import NamedTuple

MINUTE_SECONDS = 60


class Entry(NamedTuple):
    """One counted event; sequence is the order of receipt."""

    timestamp: int
    sequence: int
    value: Decimal
