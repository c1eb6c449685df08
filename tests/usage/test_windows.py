"""Windows of a time zone: days of 23 and 25 hours, half hours that clocks leap, weeks, months."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from usage.windows import Window, hours_of, quarters_within, starts

pytestmark = pytest.mark.unit


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def told(window: Window, zone: str, since: str, until: str) -> list[str]:
    """Where windows start, by the zone's clocks."""
    found = starts(window, since=at(since), until=at(until), zone=ZoneInfo(zone))
    assert list(found) == sorted(set(found))
    return [start.astimezone(ZoneInfo(zone)).isoformat(timespec="minutes") for start in found]


@pytest.mark.parametrize(
    ("zone", "since", "until", "expected"),
    [
        # Ahead: a day of 23 hours.
        (
            "America/New_York",
            "2026-03-07T12:00-05:00",
            "2026-03-09T00:00-04:00",
            ["2026-03-07T12:00-05:00", "2026-03-08T00:00-05:00"],
        ),
        # Back: one of 25.
        (
            "America/New_York",
            "2026-11-01T00:00-04:00",
            "2026-11-02T00:01-05:00",
            ["2026-11-01T00:00-04:00", "2026-11-02T00:00-05:00"],
        ),
        # Midnight does not exist: the day begins where the clocks land.
        (
            "Africa/Cairo",
            "2026-04-23T12:00+02:00",
            "2026-04-24T12:00+03:00",
            ["2026-04-23T12:00+02:00", "2026-04-24T01:00+03:00"],
        ),
        # Midnight comes twice: the day begins with the first.
        (
            "America/Havana",
            "2026-10-31T12:00-04:00",
            "2026-11-01T12:00-05:00",
            ["2026-10-31T12:00-04:00", "2026-11-01T00:00-04:00"],
        ),
        (
            "Asia/Kathmandu",
            "2026-01-31T23:50+05:45",
            "2026-02-01T00:01+05:45",
            ["2026-01-31T23:50+05:45", "2026-02-01T00:00+05:45"],
        ),
    ],
)
def test_a_day_begins_at_the_zones_midnight(zone, since, until, expected):
    assert told(Window.DAY, zone, since, until) == expected


@pytest.mark.parametrize(
    ("zone", "since", "until", "expected"),
    [
        # The half hour before two comes again.
        (
            "Australia/Lord_Howe",
            "2026-04-05T00:30+11:00",
            "2026-04-05T02:10+10:30",
            [
                "2026-04-05T00:30+11:00",
                "2026-04-05T01:00+11:00",
                "2026-04-05T01:30+10:30",
                "2026-04-05T02:00+10:30",
            ],
        ),
        # The half hour after two is left out.
        (
            "Australia/Lord_Howe",
            "2026-10-04T01:00+10:30",
            "2026-10-04T03:00+11:00",
            ["2026-10-04T01:00+10:30", "2026-10-04T02:30+11:00"],
        ),
        (
            "America/New_York",
            "2026-11-01T00:59-04:00",
            "2026-11-01T02:00-05:00",
            [
                "2026-11-01T00:59-04:00",
                "2026-11-01T01:00-04:00",
                "2026-11-01T01:00-05:00",
            ],
        ),
        (
            "America/New_York",
            "2026-03-08T01:00-05:00",
            "2026-03-08T03:01-04:00",
            ["2026-03-08T01:00-05:00", "2026-03-08T03:00-04:00"],
        ),
    ],
)
def test_an_hour_is_never_longer_than_one(zone, since, until, expected):
    assert told(Window.HOUR, zone, since, until) == expected


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-08", 23), ("2026-11-01", 25), ("2028-02-29", 24)]
)
def test_a_day_has_the_hours_its_clocks_show(day, hours):
    zone = ZoneInfo("America/New_York")
    midnight = datetime.fromisoformat(day).replace(tzinfo=zone)
    next_midnight = midnight + timedelta(days=1)

    found = starts(
        Window.HOUR, since=midnight.astimezone(UTC), until=next_midnight.astimezone(UTC), zone=zone
    )

    assert len(found) == hours


def test_weeks_begin_on_monday_and_months_on_the_first():
    assert told(Window.WEEK, "Asia/Kathmandu", "2026-11-18T10:00+05:45", "2026-12-01T00:00Z") == [
        "2026-11-18T10:00+05:45",
        "2026-11-23T00:00+05:45",
        "2026-11-30T00:00+05:45",
    ]
    assert told(Window.MONTH, "UTC", "2027-12-31T23:59Z", "2028-03-01T00:00Z") == [
        "2027-12-31T23:59+00:00",
        "2028-01-01T00:00+00:00",
        "2028-02-01T00:00+00:00",
    ]


def test_minutes_are_cut_at_the_start_of_the_range():
    found = starts(
        Window.MINUTE,
        since=at("2026-11-18T10:00:59Z"),
        until=at("2026-11-18T10:02:00Z"),
        zone=ZoneInfo("UTC"),
    )

    assert found == (at("2026-11-18T10:00:59Z"), at("2026-11-18T10:01:00Z"))


@pytest.mark.parametrize(
    ("since", "until", "inner"),
    [
        ("10:00", "11:00", ("10:00", "11:00")),
        ("10:01", "11:14", ("10:15", "11:00")),
        ("10:01", "10:29", ("10:29", "10:29")),
        ("10:15", "10:29", ("10:29", "10:29")),
        ("10:15", "10:30", ("10:15", "10:30")),
    ],
)
def test_whole_quarters_lie_within(since, until, inner):
    def instant(text: str) -> datetime:
        return at(f"2026-11-18T{text}:00Z")

    assert quarters_within(instant(since), instant(until)) == tuple(map(instant, inner))


def test_hours_of_a_range_are_those_it_meets():
    assert hours_of(at("2026-11-18T10:59:59Z"), at("2026-11-18T12:00:00Z")) == [
        at("2026-11-18T10:00Z"),
        at("2026-11-18T11:00Z"),
    ]
    assert hours_of(at("2026-11-18T10:00Z"), at("2026-11-18T10:00Z")) == []
