"""Fixtures every test may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stripe_emulator import Emulator


@pytest.fixture
def now() -> datetime:
    """A fixed instant of an ordinary day, inside an hour."""
    return datetime(2026, 11, 20, 12, 30, 15, tzinfo=UTC)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """A Stripe of this test's own, behind the real SDK."""
    # The emulator's own tests run without Django, so this is imported where it is needed.
    from stripe_emulator import Emulator  # noqa: PLC0415
    from tests.support.stripe import switchboard  # noqa: PLC0415

    emulator = Emulator()
    switchboard.connect(emulator)
    yield emulator
    switchboard.disconnect()
