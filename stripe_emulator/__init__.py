"""A Stripe of our own to test against: stateful, separate, and the judge of what we sent.

`Emulator` is the state core. Tests reach it through
`stripe_emulator.transport.InProcessTransport`, everything else over HTTP through `python -m
stripe_emulator`.
"""

from stripe_emulator.core.deliveries import Delivery
from stripe_emulator.core.emulator import Emulator
from stripe_emulator.core.faults import FaultRule
from stripe_emulator.core.settings import Settings
from stripe_emulator.core.wire import Fate, Reply, Request
from stripe_emulator.version import API_VERSION

__all__ = [
    "API_VERSION",
    "Delivery",
    "Emulator",
    "Fate",
    "FaultRule",
    "Reply",
    "Request",
    "Settings",
]
