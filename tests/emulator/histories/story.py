"""What a story is made of: meters, prices, and steps that happen at moments of the virtual clock.

Amounts and quantities are whole numbers of 10^-12, moments are unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ONE = 10**12


def spoken(value: int) -> str:
    """Write a number of 10^-12 as a decimal without exponent."""
    sign, value = ("-", -value) if value < 0 else ("", value)
    whole, part = divmod(value, ONE)
    return f"{sign}{whole}.{part:012d}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Meter:
    name: str
    formula: str


@dataclass(frozen=True, slots=True)
class Tier:
    up_to: int | None
    unit: int | None
    flat: int | None


@dataclass(frozen=True, slots=True)
class Price:
    """`meter` is None for a licensed price. One of unit (with or without divide_by) and tiers is given."""

    name: str
    meter: Meter | None
    interval: str
    count: int
    unit: int | None = None
    divide_by: int | None = None
    round_up: bool = False
    tiers: tuple[Tier, ...] = ()
    volume: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    at: int
    who: int


@dataclass(frozen=True, slots=True)
class Subscribe(Step):
    prices: tuple[Price, ...]
    quantities: tuple[int | None, ...]
    start: int
    """Before `at` when it is backdated."""
    anchor: int | None = None
    trial_end: int | None = None
    classic: bool = False
    """Whether the billing mode is the old one, in which a change of price leaves usage from before it unbilled."""


@dataclass(frozen=True, slots=True)
class Send(Step):
    name: str
    meter: Meter
    value: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Void(Step):
    """Cancel an event by its identifier."""

    name: str
    meter: Meter


@dataclass(frozen=True, slots=True)
class Reprice(Step):
    item: int
    price: Price


@dataclass(frozen=True, slots=True)
class Requantify(Step):
    item: int
    quantity: int


@dataclass(frozen=True, slots=True)
class Plan(Step):
    """Plan the end: at a moment, or at the period's end."""

    cancel_at: int | None


@dataclass(frozen=True, slots=True)
class Unplan(Step):
    by_moment: bool


@dataclass(frozen=True, slots=True)
class CancelNow(Step):
    invoice_now: bool


@dataclass(frozen=True, slots=True)
class EndTrial(Step):
    pass


@dataclass(frozen=True, slots=True)
class Preview(Step):
    pass


@dataclass(frozen=True, slots=True)
class Look(Step):
    """Compare all invoices there are by now."""


@dataclass(frozen=True, slots=True)
class Restart(Step):
    """The emulator is saved and goes on from what was saved."""


@dataclass(frozen=True, slots=True)
class Story:
    """The steps of all subscribers, in order; at `end` everything is compared."""

    seed: int
    begin: int
    end: int
    lag: int
    """Seconds between an event's receipt and its counting."""
    grace: int
    """Seconds between a period's end and the finalization of its invoice."""
    by_test_clock: bool
    """Whether the customers are on a test clock; else the emulator's own clock is moved."""
    meters: tuple[Meter, ...]
    prices: tuple[Price, ...]
    steps: tuple[Step, ...] = field(default=())

    def of(self, who: int) -> list[tuple[int, Step]]:
        """Return one subscriber's steps with their place in the story."""
        return [(place, step) for place, step in enumerate(self.steps) if step.who == who]
