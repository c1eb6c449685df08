"""Event summaries: half-open, aligned, newest first, paged."""

import pytest
import stripe

from .conftest import NOW, make_meter

pytestmark = pytest.mark.unit
HOUR, DAY = 3600, 86_400
MIDNIGHT = NOW - NOW % DAY


def summaries(shop, **params):
    return shop.client.v1.billing.meters.event_summaries.list(
        shop.meter.id, {"customer": shop.customer.id, **params}
    )


def test_start_is_included_and_end_is_not(shop):
    for identifier, at in (("a", NOW - 60), ("b", NOW), ("c", NOW - 61), ("d", NOW - 1)):
        shop.send(identifier, "1", at=at)

    page = summaries(shop, start_time=NOW - 60, end_time=NOW)

    assert [item.aggregated_value for item in page.data] == [2]


def test_hours_come_newest_first_with_empty_ones_as_zero(shop):
    shop.send("a", "2", at=NOW - 1)
    shop.send("b", "3", at=NOW - 2 * HOUR - 1)

    page = summaries(shop, start_time=NOW - 3 * HOUR, end_time=NOW, value_grouping_window="hour")

    assert [(i.start_time, i.end_time, i.aggregated_value) for i in page.data] == [
        (NOW - HOUR, NOW, 2),
        (NOW - 2 * HOUR, NOW - HOUR, 0),
        (NOW - 3 * HOUR, NOW - 2 * HOUR, 3),
    ]


def test_a_day_of_hours_needs_three_pages_of_ten(shop):
    for hour in range(24):
        shop.send(f"h{hour}", str(hour + 1), at=MIDNIGHT - DAY + hour * HOUR)

    first = summaries(
        shop, start_time=MIDNIGHT - DAY, end_time=MIDNIGHT, value_grouping_window="hour"
    )
    every = list(first.auto_paging_iter())

    assert len(first.data) == 10
    assert first.has_more is True
    assert [item.aggregated_value for item in every] == list(range(24, 0, -1))


def test_ending_before_pages_back(shop):
    asked = {
        "start_time": MIDNIGHT - DAY,
        "end_time": MIDNIGHT,
        "value_grouping_window": "hour",
        "limit": 3,
    }
    first = summaries(shop, **asked)
    second = summaries(shop, **asked, starting_after=first.data[-1].id)

    back = summaries(shop, **asked, ending_before=second.data[0].id)

    assert [item.id for item in back.data] == [item.id for item in first.data]
    assert back.has_more is False


@pytest.mark.parametrize(
    ("start", "end", "window", "param"),
    [
        (NOW - 59, NOW, None, "start_time"),
        (NOW - 60, NOW - 1, None, "end_time"),
        (MIDNIGHT, MIDNIGHT + DAY - 1, None, "end_time"),
        (NOW - 1800, NOW, "hour", "start_time"),
        (NOW - HOUR, NOW, "day", "start_time"),
        (NOW, NOW, None, "end_time"),
        (NOW, NOW - 60, None, "end_time"),
    ],
)
def test_unaligned_ranges_are_refused(shop, start, end, window, param):
    grouping = {"value_grouping_window": window} if window else {}

    with pytest.raises(stripe.InvalidRequestError) as caught:
        summaries(shop, start_time=start, end_time=end, **grouping)

    assert caught.value.http_status == 400
    assert caught.value.param == param


def test_days_are_utc(shop):
    shop.send("a", "1", at=MIDNIGHT - 1)
    shop.send("b", "2", at=MIDNIGHT)

    page = summaries(
        shop, start_time=MIDNIGHT - DAY, end_time=MIDNIGHT + DAY, value_grouping_window="day"
    )

    assert [item.aggregated_value for item in page.data] == [2, 1]


def test_long_range_without_grouping_mixes_minutes_and_hours(shop):
    moments = [NOW - 5 * HOUR - 120, NOW - 5 * HOUR, NOW - 3 * HOUR - 7, NOW - 90, NOW - 30]
    for index, at in enumerate(moments):
        shop.send(str(index), str(10**index), at=at)

    page = summaries(shop, start_time=NOW - 5 * HOUR - 120, end_time=NOW - 60)

    assert page.data[0].aggregated_value == 1111


def test_summary_is_a_double_and_loses_what_a_double_loses(shop):
    for index in range(10):
        shop.send(str(index), "999999999999999", at=NOW - 60)
    shop.send("one", "1", at=NOW - 60)

    assert (
        summaries(shop, start_time=NOW - HOUR, end_time=NOW).data[0].aggregated_value
        == 9_999_999_999_999_992
    )
    assert shop.emulator.truth.as_dict()["event_names"]["tokens"]["sum"] == "9999999999999991"


def test_fractions_are_summed_exactly(shop):
    for index in range(10):
        shop.send(str(index), "0.1", at=NOW - 60)

    assert summaries(shop, start_time=NOW - HOUR, end_time=NOW).data[0].aggregated_value == 1


@pytest.mark.parametrize(
    ("formula", "window", "expected"),
    [
        ("sum", None, 9),
        ("count", None, 4),
        ("last", None, 3),
        ("sum", "hour", 4),
        ("count", "hour", 2),
        ("last", "day", 1),
    ],
)
def test_formulas_and_windows(client, shop, formula, window, expected):
    extra = {"event_time_window": window} if window else {}
    meter = make_meter(client, "other", formula, **extra)
    # Received in this order; the third is the latest by time, the last the latest by receipt.
    for identifier, value, at in (
        ("a", "2", NOW - 2 * HOUR),
        ("b", "3", NOW - 2 * HOUR + 60),
        ("c", "3", NOW - HOUR + 60),
        ("d", "1", NOW - HOUR - 30),
    ):
        client.v1.billing.meter_events.create(
            {
                "event_name": "other",
                "identifier": identifier,
                "timestamp": at,
                "payload": {"stripe_customer_id": shop.customer.id, "value": value},
            }
        )

    page = client.v1.billing.meters.event_summaries.list(
        meter.id, {"customer": shop.customer.id, "start_time": NOW - 2 * HOUR, "end_time": NOW}
    )

    # Hour windows: the first keeps 1 (received last), the second keeps 3. The day keeps 1.
    assert page.data[0].aggregated_value == expected


def test_unknown_customer_is_refused(shop):
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        shop.client.v1.billing.meters.event_summaries.list(
            shop.meter.id, {"customer": "cus_nobody", "start_time": NOW - 60, "end_time": NOW}
        )


def test_range_of_more_windows_than_two_years_of_hours_is_refused(shop):
    start = MIDNIGHT - 20_000 * HOUR
    asked = {"start_time": start, "value_grouping_window": "hour", "limit": 1}

    assert summaries(shop, **asked, end_time=MIDNIGHT).has_more is True
    with pytest.raises(stripe.InvalidRequestError, match="too many windows"):
        summaries(shop, **asked, end_time=MIDNIGHT + HOUR)
