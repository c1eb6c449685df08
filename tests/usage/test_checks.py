"""Settings that contradict each other are refused before anything starts."""

from __future__ import annotations

import pytest

from usage.checks import check_relations

pytestmark = pytest.mark.unit


def test_the_settings_as_shipped_agree():
    assert check_relations() == []


@pytest.mark.parametrize(
    ("name", "value", "number"),
    [
        ("USAGE_LEASE_SECONDS", 28, 1),
        ("USAGE_DOUBT_HOURS", 24, 2),
        ("USAGE_DELIVERY_PASS_SECONDS", 20, 3),
        ("USAGE_LATE_DAYS", 35, 4),
        ("USAGE_AHEAD_SECONDS", 300, 5),
        ("CELERY_BROKER_TRANSPORT_OPTIONS", {"visibility_timeout": 60}, 6),
    ],
)
def test_each_relation_is_checked(settings, name, value, number):
    setattr(settings, name, value)

    [error] = check_relations()

    assert error.id == f"usage.E{number:03}"
