"""The process ends at every named step in turn, and Stripe's own books decide."""

import pytest

pytest.register_assert_rewrite("tests.crashes.shop")
