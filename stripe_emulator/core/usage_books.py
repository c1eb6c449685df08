"""Counted usage, kept so that a summary costs its windows and not its events.

A raw sum or count meter has an additive book, a `last` meter and a pre-aggregated one have an
ordered book. What counts and when is decided in `intake` and `settling`.
"""

from decimal import Decimal

from stripe_emulator.core.additive_book import AdditiveBook
from stripe_emulator.core.ordered_book import OrderedBook


class UsageBooks:
    """One book for each meter and customer that has usage."""

    def __init__(self) -> None:
        self._books: dict[tuple[str, str], AdditiveBook | OrderedBook] = {}

    def book(
        self, meter_id: str, customer: str, *, formula: str, window: str | None
    ) -> AdditiveBook | OrderedBook:
        """Return the pair's book, opened on first use."""
        key = (meter_id, customer)
        found = self._books.get(key)
        if found is None:
            additive = formula != "last" and window is None
            found = AdditiveBook(formula) if additive else OrderedBook(formula, window)
            self._books[key] = found
        return found

    def aggregate(self, meter_id: str, customer: str, start: int, end: int) -> Decimal:
        """Return the pair's usage over [start, end); nothing is zero."""
        found = self._books.get((meter_id, customer))
        return Decimal(0) if found is None else found.aggregate(start, end)

    def lifetime(self, meter_id: str, customer: str) -> Decimal:
        """Return all usage the pair ever had."""
        found = self._books.get((meter_id, customer))
        return Decimal(0) if found is None else found.lifetime()

    def customers(self, meter_id: str) -> list[str]:
        """Return the customers with a book on this meter."""
        return [customer for meter, customer in self._books if meter == meter_id]
