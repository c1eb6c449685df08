"""Where billing periods end, counted from an anchor."""

from datetime import UTC, datetime

import pytest

from billing.billing_periods import next_end

pytestmark = pytest.mark.unit


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("anchor", "interval", "after", "end"),
    [
        ("2026-11-20T12:07:13", "day", "2026-11-20T12:07:13", "2026-11-21T12:07:13"),
        ("2026-11-20T12:07:13", "week", "2026-11-27T12:07:12", "2026-11-27T12:07:13"),
        ("2026-11-20T12:07:13", "month", "2026-11-20T12:07:13", "2026-12-20T12:07:13"),
        # Short months end it on their last day, and the day comes back.
        ("2026-01-31T10:00:00", "month", "2026-01-31T10:00:00", "2026-02-28T10:00:00"),
        ("2026-01-31T10:00:00", "month", "2026-02-28T10:00:00", "2026-03-31T10:00:00"),
        ("2026-01-31T10:00:00", "month", "2028-01-31T10:00:00", "2028-02-29T10:00:00"),
        ("2026-01-31T10:00:00", "month", "2026-02-28T09:59:59", "2026-02-28T10:00:00"),
        ("2028-02-29T00:00:00", "year", "2028-02-29T00:00:00", "2029-02-28T00:00:00"),
        ("2028-02-29T00:00:00", "year", "2031-02-28T00:00:00", "2032-02-29T00:00:00"),
        # An anchor may lie ahead.
        ("2026-12-15T00:00:00", "month", "2026-11-20T12:00:00", "2026-12-15T00:00:00"),
        ("2026-12-15T00:00:00", "month", "2026-10-20T12:00:00", "2026-11-15T00:00:00"),
        ("2026-12-15T00:00:00", "week", "2026-11-20T12:00:00", "2026-11-24T00:00:00"),
        ("2026-12-15T00:00:00", "year", "2026-11-20T12:00:00", "2026-12-15T00:00:00"),
    ],
)
def test_a_period_ends_at_the_anchor_and_every_interval_from_it(anchor, interval, after, end):
    assert next_end(at(anchor), interval, after=at(after)) == at(end)
