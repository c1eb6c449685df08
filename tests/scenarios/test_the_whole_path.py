"""From a call to a settled unit, and what happens when something goes wrong on the way."""

from __future__ import annotations

import pytest
from django.utils import timezone

from billing.gateway.client import connection
from billing.models import Customer
from reconciliation.models import Discrepancy
from usage.models import HeldUsage, SubmissionState

pytestmark = pytest.mark.scenario

TODAY = timezone.now().strftime("%Y-%m-%d")


def deliver_and_reconcile(company) -> None:
    company.run("flush")
    company.run("deliver")
    company.run("reconcile", "--since", f"{TODAY}T00:00:00Z")


def test_calls_are_billed_once_and_proven(company):
    company.add_customer("acme")
    company.add_customer("bolt", plan="tokens-split")

    assert company.report(("1", "acme", 100, 20), ("2", "bolt", 7, 3), ("3", "acme", 1, 0)) == 204
    assert company.report(("3", "acme", 1, 0)) == 204
    deliver_and_reconcile(company)

    books = company.books()
    assert (books["balanced"], books["at_rest"], books["events"]) == (True, True, 3)
    expected = {"ai_tokens": 131, "input_tokens": 108, "output_tokens": 23, "llm_calls": 3}
    for meter, total in expected.items():
        shown = books[meter]
        assert (shown["recorded"], shown["states"]["settled"], shown["stripe"]) == (str(total),) * 3
        assert company.at_stripe(f"meterkeeper_{meter}") == total
    assert books["cached_input_tokens"]["recorded"] == "0"
    assert not Discrepancy.objects.exists()


def test_usage_reported_before_its_customer_is_billed_once_it_exists(company):
    assert company.report(("1", "late", 50, 5)) == 204
    deliver_and_reconcile(company)
    assert company.books()["ai_tokens"]["held"] == "55"
    assert HeldUsage.objects.filter(released_at=None).count() == 4

    company.add_customer("late")
    deliver_and_reconcile(company)

    assert company.books()["at_rest"] is True
    assert company.at_stripe("meterkeeper_ai_tokens") == 55


@pytest.mark.parametrize("kind", ["answer_lost", "500_after", "drop_before", "503", "429", "409"])
def test_every_kind_of_failed_call_ends_in_one_billed_unit(company, kind):
    company.add_customer("acme")
    company.report(("1", "acme", 100, 20))
    company.emulator.faults.switch_on(kind, path="/v1/billing/meter_events", count=3)
    company.run("flush")

    company.run("deliver")
    assert company.books()["balanced"] is True
    SubmissionState.objects.filter(state__in=["retry", "in_doubt"]).update(
        next_action_at=timezone.now()
    )
    deliver_and_reconcile(company)

    assert company.books()["at_rest"] is True
    assert company.at_stripe("meterkeeper_ai_tokens") == 120
    assert not company.emulator.world.violations.counts


def test_usage_somebody_else_sent_is_found_to_the_unit(company):
    company.add_customer("acme")
    company.report(("1", "acme", 100, 20))
    deliver_and_reconcile(company)
    connection().v1.billing.meter_events.create(
        {
            "event_name": "meterkeeper_ai_tokens",
            "payload": {
                "stripe_customer_id": Customer.objects.get().stripe_customer_id,
                "value": "1",
            },
        }
    )

    with pytest.raises(SystemExit):
        company.run("reconcile", "--since", f"{TODAY}T00:00:00Z")

    found = Discrepancy.objects.get(resolved_at=None)
    assert (found.meter.slug, found.ours, found.stripe) == ("ai_tokens", 120, 121)
    with pytest.raises(SystemExit):
        company.run("books")
