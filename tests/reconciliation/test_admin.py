"""The pages staff look at: both figures, readable, and nothing to change."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse

from billing.models import Customer
from reconciliation.models import Discrepancy, ReconciliationRun
from tests.factories.usage import make_meter, make_submission

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

RUNS = "admin:reconciliation_reconciliationrun"
DISCREPANCIES = "admin:reconciliation_discrepancy"


@pytest.fixture
def run(now) -> ReconciliationRun:
    return ReconciliationRun.objects.create(
        window_start=now.replace(hour=0, minute=0, second=0),
        window_end=now.replace(hour=13, minute=0, second=0),
        started_at=now,
        finished_at=now + timedelta(seconds=2.5),
        pair_count=3,
        cell_count=12_345,
        equal_count=12_343,
        discrepancy_count=2,
    )


@pytest.fixture
def discrepancy(run, now):
    customer = Customer.objects.create(external_id="acme", stripe_customer_id="cus_acme")
    meter = make_meter()

    def discrepancy(hours, **fields) -> Discrepancy:
        at = now.replace(minute=0, second=0) - timedelta(hours=hours)
        make_submission(customer=customer, meter=meter, at=at, value=1_234_567)
        return Discrepancy.objects.create(
            run=run,
            customer=customer,
            meter=meter,
            window_start=at,
            ours=1_234_567,
            stripe=1_234_560,
            reason="missing",
            found_at=now,
            **fields,
        )

    return discrepancy


def text(client, name, *arguments, **query) -> str:
    response = client.get(reverse(name, args=arguments), query)
    assert response.status_code == 200
    return response.content.decode()


def test_discrepancies_show_both_figures_and_what_we_sent(admin_client, discrepancy):
    found = discrepancy(0)

    page = text(admin_client, f"{DISCREPANCIES}_changelist")

    for shown in (
        "acme",
        "input_tokens",
        "2026-11-20 12:00",
        "1,234,567",
        "1,234,560",
        "-7",
        "Stripe has less than it accepted",
    ):
        assert shown in page
    assert "acme" in text(admin_client, f"{DISCREPANCIES}_change", found.pk)


def test_the_link_to_the_submissions_of_the_hour_finds_them(admin_client, discrepancy):
    discrepancy(0)
    discrepancy(1)
    site = admin_client.get(reverse(f"{DISCREPANCIES}_changelist")).context["cl"]

    [row, _] = site.result_list
    link = site.model_admin.submissions(row).split('"')[1].replace("&amp;", "&")
    response = admin_client.get(link)

    [submission] = response.context["cl"].result_list
    assert submission.window_start == row.window_start


def test_discrepancies_are_filtered_by_state(admin_client, discrepancy, now):
    discrepancy(0)
    resolved = discrepancy(1, resolved_at=now + timedelta(days=1))

    def shown(**query):
        response = admin_client.get(reverse(f"{DISCREPANCIES}_changelist"), query)
        return [row.pk for row in response.context["cl"].result_list]

    assert shown(state="resolved") == [resolved.pk]
    assert len(shown(state="open")) == 1
    assert len(shown()) == 2
    assert shown(q="nobody") == []
    assert len(shown(q="acme", meter__id__exact=resolved.meter_id)) == 2


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, "differs"),
        ({"discrepancy_count": 0}, "equal"),
        ({"discrepancy_count": 0, "error_count": 1}, "incomplete"),
        ({"finished_at": None}, "interrupted"),
    ],
)
def test_runs_say_what_came_of_them(admin_client, run, fields, outcome):
    ReconciliationRun.objects.update(**fields)

    page = text(admin_client, f"{RUNS}_changelist")

    assert outcome in page
    assert "12,345" in page
    assert "2026-11-20 00:00 to 2026-11-20 13:00" in page
    assert outcome in text(admin_client, f"{RUNS}_change", run.pk)


def test_the_list_costs_the_same_for_one_row_and_for_many(
    admin_client, discrepancy, django_assert_max_num_queries
):
    for hours in range(20):
        discrepancy(hours)

    with django_assert_max_num_queries(14):
        text(admin_client, f"{DISCREPANCIES}_changelist")


def test_nothing_can_be_changed(admin_client, discrepancy, run):
    found = discrepancy(0)

    assert admin_client.get(reverse(f"{DISCREPANCIES}_add")).status_code == 403
    for name, row in ((DISCREPANCIES, found), (RUNS, run)):
        assert admin_client.post(reverse(f"{name}_change", args=[row.pk]), {}).status_code == 403
        assert admin_client.post(reverse(f"{name}_delete", args=[row.pk]), {}).status_code == 403
    assert Discrepancy.objects.count() == ReconciliationRun.objects.count() == 1
