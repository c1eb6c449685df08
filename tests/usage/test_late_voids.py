"""Usage of a period whose invoice is final is not taken back in silence: it is held (F111, I4)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from billing.models import Case, Customer, PeriodBoundary
from tests.usage.conftest import report
from usage import flush, holding, invariants, lateness
from usage.cancelling import CannotCancel, cancel_submission
from usage.models import HeldUsage, Submission, UsageEvent, Void
from usage.queries import books
from usage.voiding import EventKey, void

pytestmark = pytest.mark.integration


@pytest.fixture
def billed(world, store, meters) -> Submission:
    """Ten tokens that Stripe has, in a period whose invoice became final an hour after its end."""
    end = world.now + timedelta(minutes=5)
    store(report("a", at=world.now, input_tokens=10))
    flush.flush_batches(now=world.now)
    world.deliver()
    world.advance(hours=2)
    PeriodBoundary.objects.create(
        customer=Customer.objects.get(), at=end, closed_at=end + timedelta(hours=1)
    )
    return Submission.objects.get(meter=meters.input)


def test_a_void_after_the_final_invoice_is_held_with_its_amount_and_never_sent(
    world, billed, source, meters
):
    void([EventKey(source.pk, "a")], author="ada", reason="reported twice", now=world.now)

    flush.flush_batches(now=world.now)
    while holding.release(now=world.now):
        pass
    lateness.report()

    assert sorted(HeldUsage.objects.values_list("meter__slug", "reason", "quantity")) == [
        ("input_tokens", "late", -10),
        ("llm_calls", "late", -1),
    ]
    assert HeldUsage.objects.filter(released_at=None).count() == 2
    assert world.deliver(hours=1) == {}
    assert world.counted() == 10
    assert sorted(Case.objects.filter(kind="late").values_list("quantity", flat=True)) == [-10, -1]
    assert books().is_conserved
    assert invariants.violations() == ()


def test_a_submission_of_a_final_invoice_is_not_cancelled(world, billed):
    with pytest.raises(CannotCancel, match="do not fold into it any more"):
        cancel_submission(billed, author="ada", reason="wrong", now=world.now)

    assert not Void.objects.exists()
    assert UsageEvent.objects.count() == 1
