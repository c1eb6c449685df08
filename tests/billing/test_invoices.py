from dataclasses import replace
from datetime import timedelta

import pytest

from billing import invoices
from billing.gateway.values import InvoiceState
from billing.invoices import UnknownCustomer
from billing.models import Invoice
from tests.factories.billing import make_customer

pytestmark = [pytest.mark.integration, pytest.mark.django_db]


@pytest.fixture
def state(now):
    return InvoiceState(
        id="in_1",
        customer_id="cus_1",
        subscription_id="",
        subscription_metadata={},
        status="draft",
        currency="usd",
        total=400,
        period_start=now - timedelta(days=30),
        period_end=now,
        ended_periods=(now,),
        automatically_finalizes_at=now + timedelta(hours=1),
        finalized_at=None,
        created_at=now,
        asked_at=now,
    )


def test_invoice_is_written_and_followed(state):
    customer = make_customer(stripe_customer_id="cus_1")

    assert invoices.mirror(state)
    later = state.asked_at + timedelta(seconds=1)
    assert invoices.mirror(replace(state, status="paid", total=800, asked_at=later))

    [invoice] = Invoice.objects.all()
    assert (invoice.customer, invoice.status, invoice.total) == (customer, "paid", 800)
    assert invoice.subscription is None


def test_answer_asked_for_earlier_changes_nothing(state):
    make_customer(stripe_customer_id="cus_1")
    later = state.asked_at + timedelta(seconds=1)

    invoices.mirror(replace(state, status="paid", asked_at=later))
    invoices.mirror(replace(state, status="open"))

    assert Invoice.objects.get().status == "paid"


def test_deleted_draft_is_noted_and_not_brought_back_by_an_old_answer(state):
    make_customer(stripe_customer_id="cus_1")
    invoices.mirror(state)

    assert invoices.mark_deleted("in_1", now=state.asked_at + timedelta(seconds=1))
    invoices.mirror(state)

    assert Invoice.objects.get().status == "deleted"
    assert not invoices.mark_deleted("in_2", now=state.asked_at)


def test_strangers_invoice_is_left_alone(state):
    assert not invoices.mirror(state)
    assert not invoices.mirror(
        replace(state, subscription_metadata={"meterkeeper_deployment": "another"})
    )

    assert Invoice.objects.count() == 0


def test_invoice_that_overtook_its_customers_id_is_asked_about_again(state):
    ours = replace(state, subscription_metadata={"meterkeeper_deployment": "default"})

    with pytest.raises(UnknownCustomer):
        invoices.mirror(ours)

    make_customer(stripe_customer_id="cus_1")
    assert invoices.mirror(ours)
