from datetime import timedelta

import pytest
import time_machine
from django.core.management import CommandError
from django.utils import timezone

from billing import customers
from billing.customers import CustomerConflict, CustomerRefused, SweepResult, create_customer
from billing.enums import CaseKind
from billing.models import Case, Customer
from tests.factories.billing import make_customer

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

LATER = timedelta(seconds=customers.ASKING_SECONDS + 1)


def at_stripe(emulator):
    return list(emulator.world.customers)


def sweep(now=None):
    return customers.ensure_customers_at_stripe(now=now or timezone.now(), limit=100)


def test_customer_is_created_here_and_at_stripe(emulator):
    customer, created = create_customer(external_id="acme", email="a@acme.test", name="Acme")

    [theirs] = at_stripe(emulator)
    assert created
    assert customer.stripe_customer_id == theirs["id"]
    assert (theirs["email"], theirs["name"]) == ("a@acme.test", "Acme")
    assert theirs["metadata"] == {
        "meterkeeper_deployment": "default",
        "meterkeeper_customer": "acme",
    }


def test_customer_repeated_with_the_same_data_is_the_one_there_is(emulator):
    first, _ = create_customer(external_id="acme", email="a@acme.test")

    second, created = create_customer(external_id="acme", email="a@acme.test")

    assert (second.pk, created) == (first.pk, False)
    assert len(at_stripe(emulator)) == 1


def test_customer_repeated_with_other_data_is_a_conflict(emulator):
    create_customer(external_id="acme", email="a@acme.test")

    with pytest.raises(CustomerConflict):
        create_customer(external_id="acme", email="b@acme.test")

    assert list(Customer.objects.values_list("email", flat=True)) == ["a@acme.test"]
    assert len(at_stripe(emulator)) == 1


@pytest.mark.parametrize("fault", ["answer_lost", "500_after", "reset_mid_body"])
def test_customer_whose_answer_was_lost_is_found_and_not_made_twice(emulator, fault):
    emulator.faults.switch_on(fault, path="/v1/customers", method="POST", count=1)
    customer, created = create_customer(external_id="acme")
    assert (created, customer.stripe_customer_id) == (True, None)

    swept = sweep(timezone.now() + LATER)

    customer.refresh_from_db()
    [theirs] = at_stripe(emulator)
    assert swept == SweepResult(finished=1, failed=0)
    assert customer.stripe_customer_id == theirs["id"]


@pytest.mark.parametrize("fault", ["drop_before", "500_before", "503", "429", "409"])
def test_customer_stripe_never_took_is_made_later(emulator, fault):
    emulator.faults.switch_on(fault, path="/v1/customers", method="POST", count=1)
    customer, _ = create_customer(external_id="acme")

    swept = sweep(timezone.now() + LATER)

    customer.refresh_from_db()
    assert swept == SweepResult(finished=1, failed=0)
    assert [each["id"] for each in at_stripe(emulator)] == [customer.stripe_customer_id]


def test_customer_stripe_surely_did_not_take_is_asked_for_again_at_once(emulator):
    emulator.faults.switch_on("429", path="/v1/customers", count=1)
    create_customer(external_id="acme")

    customer, _ = create_customer(external_id="acme")

    assert customer.stripe_customer_id is not None
    assert len(at_stripe(emulator)) == 1


def test_customer_whose_fate_is_unknown_is_left_alone_until_it_must_be_known(emulator):
    """A call given up on may still be processed for 15 minutes."""
    emulator.faults.switch_on("drop_before", path="/v1/customers", count=1)
    create_customer(external_id="acme")

    sweep(timezone.now() + timedelta(minutes=15))
    assert at_stripe(emulator) == []

    sweep(timezone.now() + LATER)
    assert len(at_stripe(emulator)) == 1


def test_customer_of_a_crash_before_the_call_is_made_by_the_sweep(emulator):
    make_customer("acme")

    assert sweep() == SweepResult(finished=1, failed=0)
    assert sweep() == SweepResult(finished=0, failed=0)

    assert len(at_stripe(emulator)) == 1


def test_customer_of_a_crash_after_the_call_is_linked_days_later(emulator):
    customer, _ = create_customer(external_id="acme")
    Customer.objects.update(stripe_customer_id=None)
    for number in range(130):
        create_customer(external_id=f"other-{number}")
    three_days = timezone.now() + timedelta(days=3)

    with time_machine.travel(three_days, tick=False):
        again, created = create_customer(external_id="acme")

    assert (again.stripe_customer_id, created) == (customer.stripe_customer_id, False)
    assert len(at_stripe(emulator)) == 131


def test_customer_another_process_asks_for_is_left_to_it(emulator):
    make_customer("acme", stripe_asked_at=timezone.now())

    customer, created = create_customer(external_id="acme")

    assert (created, customer.stripe_customer_id) == (False, None)
    assert sweep() == SweepResult(finished=0, failed=0)
    assert at_stripe(emulator) == []


def test_customer_two_processes_find_without_a_twin_gets_one(emulator):
    first = make_customer("acme")
    second = Customer.objects.get()
    now = timezone.now()

    assert customers.ensure_at_stripe(first, now=now)
    assert customers.ensure_at_stripe(second, now=now + timedelta(seconds=1))

    assert len(at_stripe(emulator)) == 1
    assert first.stripe_customer_id == second.stripe_customer_id


def test_customer_linked_by_somebody_faster_keeps_that_id(emulator, monkeypatch):
    """A search that outlasts its claim lets two ask; usage may be on its way to the first twin."""
    customer = make_customer("acme")
    create = customers.at_stripe.create

    def overtaken(**fields):
        Customer.objects.update(stripe_customer_id="cus_faster")
        return create(**fields)

    monkeypatch.setattr(customers.at_stripe, "create", overtaken)

    assert customers.ensure_at_stripe(customer, now=timezone.now())
    assert Customer.objects.get().stripe_customer_id == "cus_faster"
    assert customer.stripe_customer_id == "cus_faster"


def test_customer_of_another_deployment_is_not_taken_for_ours(emulator, settings):
    create_customer(external_id="acme")
    Customer.objects.update(stripe_customer_id=None)
    settings.DEPLOYMENT = "second"

    sweep(timezone.now() + LATER)

    assert [each["metadata"]["meterkeeper_deployment"] for each in at_stripe(emulator)] == [
        "default",
        "second",
    ]


def test_customer_stripe_refuses_is_not_kept(emulator, settings):
    settings.DEPLOYMENT = "longer than metadata may be" * 20

    with pytest.raises(CustomerRefused):
        create_customer(external_id="acme")

    assert Customer.objects.count() == 0
    assert at_stripe(emulator) == []


def test_sweep_opens_a_case_for_what_stripe_refuses_until_it_is_taken(emulator, settings):
    make_customer("acme")
    now = timezone.now()

    settings.DEPLOYMENT = "longer than metadata may be" * 20
    assert sweep(now) == SweepResult(finished=0, failed=1)
    assert sweep(now + LATER) == SweepResult(finished=0, failed=1)
    [case] = Case.objects.all()
    assert (case.kind, case.reference) == (CaseKind.MISCONFIGURED, "customer acme")
    assert case.closed_at is None

    settings.DEPLOYMENT = "default"
    assert sweep(now + 2 * LATER) == SweepResult(finished=1, failed=0)
    case.refresh_from_db()
    assert case.closed_at is not None


def test_command_creates_a_customer_and_tells_of_a_conflict(run, emulator):
    out = run("create_customer", "acme", "--email", "a@acme.test").stdout

    [theirs] = at_stripe(emulator)
    assert out == f"Created: acme ({theirs['id']})\n"
    assert run("create_customer", "acme", "--email", "a@acme.test").stdout.startswith("Exists")
    with pytest.raises(CommandError, match="another email"):
        run("create_customer", "acme")
