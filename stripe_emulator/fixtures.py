"""pytest fixtures for other projects: `pytest_plugins = ["stripe_emulator.fixtures"]`.

The only module here that needs pytest.
"""

from collections.abc import Iterator

import pytest
import stripe

from stripe_emulator.core.emulator import Emulator
from stripe_emulator.transport import InProcessTransport


@pytest.fixture
def stripe_emulator() -> Emulator:
    """Return an empty account of this test's own.

    Ask it for faults, clock, truth and violations.
    """
    return Emulator()


@pytest.fixture
def stripe_client(stripe_emulator: Emulator) -> stripe.StripeClient:
    """Return the official client, in test mode, in front of the emulator."""
    transport = InProcessTransport(stripe_emulator)
    return stripe.StripeClient("sk_test_emulator", http_client=transport)


@pytest.fixture
def well_behaved_client(
    stripe_emulator: Emulator, stripe_client: stripe.StripeClient
) -> Iterator[stripe.StripeClient]:
    """Yield the client, and fail the test when the emulator saw a violation."""
    yield stripe_client
    violations = stripe_emulator.world.violations
    if violations.counts:
        pytest.fail(
            f"the emulator saw violations: {dict(violations.counts)}, {violations.kept[:3]}"
        )
