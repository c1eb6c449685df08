"""What an emulator is made of, apart from what it can do."""

from dataclasses import dataclass, field

from stripe_emulator.core.arrivals import ArrivalLog
from stripe_emulator.core.clock import Clock
from stripe_emulator.core.faults import Faults
from stripe_emulator.core.idempotency import Idempotency
from stripe_emulator.core.in_flight import InFlight
from stripe_emulator.core.rate_limits import RateLimits
from stripe_emulator.core.records import IdentifierRecord, Records
from stripe_emulator.core.truth import Truth
from stripe_emulator.core.world import World


@dataclass(slots=True)
class Parts:
    """The account, what happens to requests on their way to it, and what is written down."""

    clock: Clock
    world: World
    arrivals: ArrivalLog
    identifiers: Records[IdentifierRecord]
    idempotency: Idempotency
    faults: Faults = field(default_factory=Faults)
    truth: Truth = field(default_factory=Truth)
    in_flight: InFlight = field(default_factory=InFlight)
    rate_limits: RateLimits = field(default_factory=RateLimits)

    def leave(self, ticket: int) -> None:
        """Take a call out of flight, with the idempotency keys it held."""
        for key in self.in_flight.end(ticket):
            self.idempotency.end(key)
