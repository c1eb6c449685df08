"""One request on its way through an endpoint: parsed, authenticated, attributed."""

from dataclasses import dataclass, field
from typing import Any

from stripe_emulator.core.arrivals import EventVerdict
from stripe_emulator.core.collection import Object, Page
from stripe_emulator.core.faults import Faults
from stripe_emulator.core.world import World


@dataclass(slots=True)
class Call:
    """What an endpoint's function is given."""

    world: World
    params: dict[str, Any]
    path: dict[str, str]
    livemode: bool
    url: str
    faults: Faults
    events: list[EventVerdict] = field(default_factory=list)
    """The rulings on meter events in this request, for the arrival log."""
    cancelled: EventVerdict | None = None
    base_url: str = ""
    """Where the caller reaches us, without a path: what the address of a page begins with."""

    def given(self, name: str, default: Any = None) -> Any:
        """Return a parameter, or `default` when it was not sent."""
        return self.params.get(name, default)


Answer = Object | Page
