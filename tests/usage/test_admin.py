"""Usage's admin pages: they render, search as promised, ask a fixed number of queries, and only show."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing.models import Customer
from tests.usage.conftest import report
from usage import flush
from usage.backfilling import backfill
from usage.models import Backfill, EventConflict, FlushRun, HeldUsage, Submission, UsageEvent, Void
from usage.voiding import EventKey, void

pytestmark = pytest.mark.integration

MODELS = [UsageEvent, EventConflict, FlushRun, Submission, HeldUsage, Void, Backfill]


@pytest.fixture
def filled(store, acme, now):
    """Rows in every table: two customers, one unknown, one conflict, two flush runs."""
    Customer.objects.create(external_id="other", stripe_customer_id="cus_other")
    for number in range(6):
        subject = ("acme", "other", "nobody")[number % 3]
        store(report(f"e-{number}", at=now, subject=subject, input_tokens=1_234_567))
        if number == 2:
            flush.flush_batches(now=now)
    store(report("e-0", at=now, input_tokens=2))
    source_id = UsageEvent.objects.get(event_id="e-1").source_id
    void([EventKey(source_id, "e-1")], author="ada", reason="reported twice", now=now)
    for number in range(2):
        backfill(
            source_id=source_id,
            reports=[report(f"late-{number}", at=now, subject="nobody")],
            author="ada",
            reason="the exporter was down",
            now=now,
            dry_run=False,
        )
    flush.flush_batches(now=now)


def address(model, page: str, *args: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


@pytest.mark.parametrize("model", MODELS)
def test_pages_render_and_offer_no_change(admin_client, filled, model):
    listed = admin_client.get(address(model, "changelist"))
    shown = admin_client.get(address(model, "change", model.objects.first().pk))

    assert (listed.status_code, shown.status_code) == (200, 200)
    assert b'name="_save"' not in shown.content
    assert admin_client.get(address(model, "add")).status_code == 403
    assert admin_client.post(address(model, "delete", model.objects.first().pk)).status_code == 403


@pytest.mark.parametrize("model", [UsageEvent, Submission, HeldUsage])
def test_a_list_asks_as_much_of_many_rows_as_of_few(
    admin_client, filled, store, now, model, django_assert_num_queries
):
    with CaptureQueriesContext(connection) as few:
        admin_client.get(address(model, "changelist"))
    for number in range(30):
        subject = ("acme", "other", f"nobody-{number}")[number % 3]
        store(report(f"more-{number}", at=now, subject=subject))
        flush.flush_batches(now=now)

    with django_assert_num_queries(len(few)):
        admin_client.get(address(model, "changelist"))


def found(admin_client, model, **query) -> list:
    answer = admin_client.get(address(model, "changelist"), query)
    assert answer.status_code == 200
    return list(answer.context["cl"].result_list)


def test_events_are_found_by_id_or_by_customer(admin_client, filled):
    assert [e.event_id for e in found(admin_client, UsageEvent, q="e-3")] == ["e-3"]
    assert {e.event_id for e in found(admin_client, UsageEvent, q="acme")} == {"e-0", "e-3"}
    assert found(admin_client, UsageEvent, q="e-") == []


def test_submissions_are_found_by_identifier_customer_and_state(admin_client, filled):
    one = Submission.objects.first()

    assert found(admin_client, Submission, q=one.identifier) == [one]
    of_acme = found(admin_client, Submission, q="acme")
    assert {s.customer.external_id for s in of_acme} == {"acme"}
    assert len(found(admin_client, Submission, state="ready")) == Submission.objects.count()
    assert found(admin_client, Submission, state="settled") == []


def test_an_event_leads_to_what_became_of_it(admin_client, filled):
    event = UsageEvent.objects.get(event_id="e-0")

    page = admin_client.get(address(UsageEvent, "change", event.pk)).content.decode()

    assert f"run__id__exact={event.batch.run_id}" in page
    assert {
        s.customer.external_id
        for s in found(
            admin_client,
            Submission,
            run__id__exact=event.batch.run_id,
            customer__external_id="acme",
        )
    } == {"acme"}
    held = UsageEvent.objects.get(event_id="e-2")
    assert (
        "no such customer"
        in admin_client.get(address(UsageEvent, "change", held.pk)).content.decode()
    )
