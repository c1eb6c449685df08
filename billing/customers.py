"""Customers: creating one here and its twin at Stripe.

The row is committed first, so that usage can name the customer at once and a crash loses nothing.
Stripe is called outside any transaction and its id stored afterwards. What a crash, or an outage,
leaves in between is a row without a Stripe id; `ensure_customers_at_stripe` finds and finishes it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db.models import F, Q
from django.utils import timezone

from billing import steps
from billing.cases import close_case, open_case
from billing.enums import CaseKind
from billing.gateway import customers as at_stripe
from billing.gateway.errors import GatewayError, Misconfigured, NotAccepted, Rejected
from billing.models import Customer

log = structlog.get_logger()

ASKING_SECONDS = 16 * 60
"""How long one asker has Stripe to itself when it never learns how its call ended.

A call given up on may still be processed for 15 minutes (A3 in docs/reliability.md). After that
Stripe's list says for certain whether one succeeded. A call known to have failed gives its claim
back at once.
"""
NOTHING_HAPPENED = (NotAccepted, Misconfigured)
"""Outcomes after which Stripe is known to have made nothing, and asking again may help at once."""
SWEEP_SECONDS = 15
"""Time budget of a sweep; with one call's deadline added it fits a task's soft limit."""
CASE_DEADLINE = timedelta(days=1)


class CustomerConflict(Exception):
    """The external id is taken by a customer with another email or name."""

    def __init__(self, external_id: str) -> None:
        super().__init__(f"Customer {external_id!r} exists with another email or name.")
        self.external_id = external_id


class CustomerRefused(Exception):
    """Stripe will not have this customer, so there is none here either."""


@dataclass(frozen=True, slots=True)
class SweepResult:
    """How a pass over rows without a Stripe id went."""

    finished: int
    failed: int


def create_customer(*, external_id: str, email: str = "", name: str = "") -> tuple[Customer, bool]:
    """Create a customer here and at Stripe; return it and whether this call made it.

    A repetition with the same data returns the customer there is and finishes what an earlier call
    left undone. While Stripe cannot be reached the customer stands without a Stripe id: its usage
    is taken and held, and the sweep goes on asking.

    Raises:
        CustomerConflict: the external id belongs to a customer with other data.
        CustomerRefused: Stripe refuses the data for good.
    """
    customer, created = Customer.objects.get_or_create(
        external_id=external_id, defaults={"email": email, "name": name}
    )
    if (customer.email, customer.name) != (email, name):
        raise CustomerConflict(external_id)
    if customer.stripe_customer_id is None:
        try:
            ensure_at_stripe(customer, now=timezone.now())
        except Rejected as refusal:
            if created:
                customer.delete()
            raise CustomerRefused(refusal.message) from refusal
        except GatewayError as error:
            log.warning(
                "billing.customer.left_to_the_sweep", customer=external_id, error=error.message
            )
    return customer, created


def ensure_at_stripe(customer: Customer, *, now: datetime) -> bool:
    """Give the customer its twin at Stripe if it has none; return whether it has one now.

    Somebody else asking at this moment is left to it. After an earlier try Stripe's list is looked
    through before anything is created: that try may have succeeded unheard.

    Raises:
        GatewayError: of the four families.
    """
    if customer.stripe_customer_id is not None:
        return True
    asked_before = customer.stripe_asked_at
    if asked_before is not None and asked_before > now - timedelta(seconds=ASKING_SECONDS):
        return False
    claimed = Customer.objects.filter(
        pk=customer.pk, stripe_customer_id=None, stripe_asked_at=asked_before
    ).update(stripe_asked_at=now)
    if not claimed:
        customer.refresh_from_db()
        return customer.stripe_customer_id is not None
    stripe_id = None
    try:
        if asked_before is not None:
            stripe_id = at_stripe.find(key=customer.external_id, created_since=customer.created_at)
        if stripe_id is None:
            stripe_id = at_stripe.create(
                key=customer.external_id,
                email=customer.email,
                name=customer.name,
                idempotency_key=idempotency_key("customer", customer.pk, now),
            )
    except NOTHING_HAPPENED:
        Customer.objects.filter(pk=customer.pk, stripe_asked_at=now).update(
            stripe_asked_at=asked_before
        )
        raise
    # A search through a long list may outlast the claim. The id stored first stays, because usage
    # may have been sent for it; a twin made by the slower one has none and bills nothing.
    Customer.objects.filter(pk=customer.pk, stripe_customer_id=None).update(
        stripe_customer_id=stripe_id
    )
    customer.refresh_from_db()
    return True


def ensure_customers_at_stripe(*, now: datetime, limit: int) -> SweepResult:
    """Finish customers without a Stripe id, those asked for longest ago first.

    Does at most `limit` within a time budget. What Stripe refuses becomes a case.
    """
    give_up_at = time.monotonic() + SWEEP_SECONDS
    finished = failed = 0
    waiting = Customer.objects.filter(
        Q(stripe_asked_at=None) | Q(stripe_asked_at__lte=now - timedelta(seconds=ASKING_SECONDS)),
        stripe_customer_id=None,
    ).order_by(F("stripe_asked_at").asc(nulls_first=True), "id")
    for customer in waiting[:limit]:
        if time.monotonic() > give_up_at:
            break
        reference = f"customer {customer.external_id}"
        try:
            finished += ensure_at_stripe(customer, now=now)
            close_case(CaseKind.MISCONFIGURED, reference, "Stripe has taken it.")
        except GatewayError as error:
            failed += 1
            log.warning(
                "billing.customer.not_at_stripe", customer=customer.external_id, error=error.message
            )
            report_refusal(error, reference=reference, now=now)
            if isinstance(error, Misconfigured):
                break
    return SweepResult(finished=finished, failed=failed)


def note_deleted(stripe_customer_id: str) -> None:
    """Write down that a customer was deleted at Stripe; one since tied to another id is not."""
    with steps.commit("billing.customers.note_deleted"):
        Customer.objects.filter(stripe_customer_id=stripe_customer_id).update(
            deleted_stripe_id=stripe_customer_id
        )


def report_refusal(error: GatewayError, *, reference: str, now: datetime) -> None:
    """Open a case when Stripe will not have what `reference` names; other errors pass with time."""
    if isinstance(error, Rejected | Misconfigured):
        open_case(
            kind=CaseKind.MISCONFIGURED,
            reference=reference,
            reason=f"Stripe refuses to create it: {error.message}",
            deadline_at=now + CASE_DEADLINE,
        )


def idempotency_key(kind: str, row_id: int, asked_at: datetime) -> str:
    """Return the key of one try to create the object of our row.

    It names the try: Stripe would replay a stored 500 under the row's own key for a day, and what
    keeps a second object from being made is the look at Stripe's list before a second try.
    """
    return f"{settings.DEPLOYMENT}:{kind}:{row_id}:{int(asked_at.timestamp())}"
