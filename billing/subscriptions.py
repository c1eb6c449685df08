"""Subscriptions: putting a customer on a plan, and keeping up with what Stripe says of it.

As with customers the row comes first, Stripe second, its answer third. `mirror` is the one way
Stripe's answers get in, from here and from webhooks alike.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from billing import customers, item_prices
from billing.cases import close_case
from billing.customers import ASKING_SECONDS, SWEEP_SECONDS, SweepResult
from billing.enums import CaseKind, PriceKind
from billing.gateway import stamps
from billing.gateway import subscriptions as at_stripe
from billing.gateway.errors import GatewayError, Misconfigured, Rejected
from billing.gateway.values import SubscriptionState
from billing.models import (
    Customer,
    ForeignItem,
    MeterVersion,
    PeriodBoundary,
    Plan,
    Price,
    Subscription,
    SubscriptionItem,
)

log = structlog.get_logger()

ENDED = frozenset({"canceled", "incomplete_expired"})
"""Stripe's words for a subscription that never comes back."""
CREATING = "creating"


class SubscriptionRefused(Exception):
    """The customer cannot have this plan; the sentence says why."""


class SubscriptionPending(Exception):
    """Stripe has not answered yet. The subscription is kept and will be created; ask again."""

    def __init__(self, message: str) -> None:
        super().__init__(f"The subscription is being created at Stripe. {message}".strip())


class UnknownSubscription(Exception):
    """A subscription carries our stamp, but no row of ours stands for it."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A subscription, whether this call made it, and the secrets to collect a card with.

    `setup_secret` when nothing is due now, `payment_secret` when a first invoice is; else empty.
    """

    subscription: Subscription
    created: bool
    setup_secret: str
    payment_secret: str


def subscribe(*, customer: Customer, plan: Plan) -> Subscribed:
    """Put a customer on a plan; a customer has a plan at most once at a time.

    A repetition returns the subscription there is, with secrets as Stripe has them now. A plan
    with only metered prices is active at once; a base fee makes a first invoice to be paid.

    Raises:
        SubscriptionRefused: the plan is not offered, overlaps another one, or Stripe refuses it.
        SubscriptionPending: the outcome is not known yet; repeat.
    """
    existing = live(customer=customer, plan=plan)
    if existing is not None and existing.stripe_subscription_id is not None:
        state = _asked(existing.stripe_subscription_id)
        current = mirror(state) if state is not None else existing
        if state is not None and current.status not in ENDED:
            return _subscribed(current, state, created=False)
    subscription, created = _recorded(customer=customer, plan=plan)
    try:
        state = ensure_at_stripe(subscription, now=timezone.now())
    except Rejected as refusal:
        if created:
            subscription.delete()
        raise SubscriptionRefused(refusal.message) from refusal
    except GatewayError as error:
        raise SubscriptionPending(error.message) from error
    if state is None:
        raise SubscriptionPending("Another request is at it.")
    return _subscribed(mirror(state), state, created=created)


def live(*, customer: Customer, plan: Plan) -> Subscription | None:
    """Return the customer's subscription to the plan that has not ended, as we know it."""
    return (
        Subscription.objects.filter(customer=customer, plan=plan).exclude(status__in=ENDED).first()
    )


def ensure_at_stripe(subscription: Subscription, *, now: datetime) -> SubscriptionState | None:
    """Give the row its subscription at Stripe; return its state, or None while another asks.

    The row is not changed but for the claim: the answer goes through `mirror`. After an earlier
    try the customer's subscriptions are looked through first.

    Raises:
        GatewayError: of the four families.
    """
    if subscription.stripe_subscription_id is not None:
        return at_stripe.retrieve(subscription.stripe_subscription_id)
    customer = subscription.customer
    if not customers.ensure_at_stripe(customer, now=now) or customer.stripe_customer_id is None:
        return None
    asked_before = subscription.stripe_asked_at
    if asked_before is not None and asked_before > now - timedelta(seconds=ASKING_SECONDS):
        return None
    claimed = Subscription.objects.filter(
        pk=subscription.pk, stripe_subscription_id=None, stripe_asked_at=asked_before
    ).update(stripe_asked_at=now)
    if not claimed:
        return None
    key = str(subscription.pk)
    prices = list(subscription.plan.prices.filter(active=True))
    try:
        if asked_before is not None:
            found = at_stripe.find(key=key, customer_id=customer.stripe_customer_id)
            if found is not None:
                return found
        return at_stripe.create(
            key=key,
            customer_id=customer.stripe_customer_id,
            licensed_price_ids=_ids(prices, PriceKind.BASE),
            metered_price_ids=_ids(prices, PriceKind.METERED),
            idempotency_key=customers.idempotency_key("subscription", subscription.pk, now),
        )
    except customers.NOTHING_HAPPENED:
        Subscription.objects.filter(pk=subscription.pk, stripe_asked_at=now).update(
            stripe_asked_at=asked_before
        )
        raise


def ensure_subscriptions_at_stripe(*, now: datetime, limit: int) -> SweepResult:
    """Finish subscriptions without a Stripe id, those asked for longest ago first.

    Does at most `limit` within a time budget. What Stripe refuses becomes a case.
    """
    give_up_at = time.monotonic() + SWEEP_SECONDS
    finished = failed = 0
    waiting = (
        Subscription.objects.select_related("customer", "plan")
        .filter(
            Q(stripe_asked_at=None)
            | Q(stripe_asked_at__lte=now - timedelta(seconds=ASKING_SECONDS)),
            stripe_subscription_id=None,
        )
        .order_by(F("stripe_asked_at").asc(nulls_first=True), "id")
    )
    for subscription in waiting[:limit]:
        if time.monotonic() > give_up_at:
            break
        reference = f"subscription of {subscription.customer} to {subscription.plan}"
        try:
            state = ensure_at_stripe(subscription, now=now)
            if state is not None:
                mirror(state)
                finished += 1
                close_case(CaseKind.MISCONFIGURED, reference, "Stripe has taken it.")
        except GatewayError as error:
            failed += 1
            log.warning(
                "billing.subscription.not_at_stripe",
                subscription=subscription.pk,
                error=error.message,
            )
            customers.report_refusal(error, reference=reference, now=now)
            if isinstance(error, Misconfigured):
                break
    return SweepResult(finished=finished, failed=failed)


@transaction.atomic
def mirror(state: SubscriptionState) -> Subscription:
    """Write down what Stripe said of a subscription: status, items, periods and boundaries.

    Of two answers the one asked for later stands, whichever arrives last. Every change at Stripe
    is followed by a webhook and so by a later question; the last one asked has seen them all.

    Raises:
        UnknownSubscription: no row of ours stands for it.
    """
    subscription = _locked(state)
    if subscription.mirrored_at is not None and subscription.mirrored_at > state.asked_at:
        return subscription
    subscription.stripe_subscription_id = state.id
    subscription.status = state.status
    subscription.billing_anchor = state.billing_anchor
    subscription.cancel_at = state.cancel_at
    subscription.ended_at = state.ended_at
    subscription.mirrored_at = state.asked_at
    subscription.save()
    _mirror_items(subscription, state)
    ends = [state.ended_at] if state.ended_at is not None else []
    instants = {*ends, *(item.start for item in state.items), *(item.end for item in state.items)}
    PeriodBoundary.objects.bulk_create(
        [PeriodBoundary(customer_id=subscription.customer_id, at=at) for at in sorted(instants)],
        ignore_conflicts=True,
    )
    return subscription


def _asked(subscription_id: str) -> SubscriptionState | None:
    try:
        return at_stripe.retrieve(subscription_id)
    except GatewayError as error:
        raise SubscriptionPending(error.message) from error


def _subscribed(
    subscription: Subscription, state: SubscriptionState, *, created: bool
) -> Subscribed:
    return Subscribed(
        subscription=subscription,
        created=created,
        setup_secret=state.setup_secret,
        payment_secret=state.payment_secret,
    )


@transaction.atomic
def _recorded(*, customer: Customer, plan: Plan) -> tuple[Subscription, bool]:
    """Return the live row for this pair and whether it is new, having checked that it may be."""
    # Two requests for plans that overlap would not see each other's rows without this lock.
    Customer.objects.select_for_update().get(pk=customer.pk)
    existing = live(customer=customer, plan=plan)
    if existing is not None:
        return existing, False
    if not plan.active:
        raise SubscriptionRefused(f"Plan {plan.slug} is no longer offered.")
    if not plan.prices.filter(active=True).exists():
        raise SubscriptionRefused(f"Plan {plan.slug} has no prices: run sync_catalogue.")
    _refuse_overlap(customer=customer, plan=plan)
    return Subscription.objects.create(customer=customer, plan=plan, status=CREATING), True


def _refuse_overlap(*, customer: Customer, plan: Plan) -> None:
    """Refuse a plan that would bill what another plan of this customer bills already."""
    offered = Price.objects.filter(active=True)
    wanted = _measured(offered.filter(plan=plan))
    others = Subscription.objects.filter(customer=customer).exclude(status__in=ENDED)
    for other in others.select_related("plan"):
        # What it will get while Stripe has not answered, and what it has: a plan or price that is
        # no longer offered goes on billing those who are on it.
        billed = offered.filter(plan=other.plan) | Price.objects.filter(
            pk__in=other.items.values("price")
        )
        twice = wanted & _measured(billed)
        if twice:
            measures = ", ".join(sorted({measure for _, measure in twice}))
            raise SubscriptionRefused(
                f"{customer.external_id} is on plan {other.plan.slug}, which bills {measures}"
                " already."
            )


def _measured(prices: QuerySet[Price]) -> set[tuple[str, str]]:
    """Return what these prices bill: event types with the kinds of usage counted."""
    versions = MeterVersion.objects.filter(
        effective_until=None, meter__in=prices.order_by().values("meter")
    )
    return {
        (event_type, measure)
        for event_type, measures in versions.values_list("event_type", "measures")
        for measure in measures
    }


def _ids(prices: list[Price], kind: PriceKind) -> list[str]:
    return [price.stripe_price_id for price in prices if price.kind == kind]


def _locked(state: SubscriptionState) -> Subscription:
    rows = Subscription.objects.select_for_update()
    known = rows.filter(stripe_subscription_id=state.id).first()
    if known is not None:
        return known
    key = state.metadata.get(stamps.SUBSCRIPTION, "")
    # Created, but its id never got stored: the stamp says which row it was made for.
    if stamps.is_ours(state.metadata) and key.isdecimal():
        # Or somebody stores it between the two looks.
        waiting = rows.filter(
            Q(stripe_subscription_id=None) | Q(stripe_subscription_id=state.id),
            pk=int(key),
            customer__stripe_customer_id=state.customer_id,
        ).first()
        if waiting is not None:
            return waiting
    raise UnknownSubscription(f"No row stands for {state.id}, which carries our stamp.")


def _mirror_items(subscription: Subscription, state: SubscriptionState) -> None:
    prices = {
        price.stripe_price_id: price
        for price in Price.objects.filter(
            stripe_price_id__in=[item.price_id for item in state.items]
        )
    }
    item_prices.note(subscription, state, prices)
    for item in state.items:
        price = prices.get(item.price_id)
        if price is None:
            # Somebody added it in Stripe's dashboard. Its periods still cut our cells.
            log.warning("billing.subscription.foreign_item", subscription=state.id, item=item.id)
            ForeignItem.objects.update_or_create(
                stripe_item_id=item.id,
                defaults={
                    "subscription": subscription,
                    "stripe_price_id": item.price_id,
                    "stripe_meter_id": item.meter_id,
                    "current_period_start": item.start,
                    "current_period_end": item.end,
                },
            )
            continue
        SubscriptionItem.objects.update_or_create(
            stripe_item_id=item.id,
            defaults={
                "subscription": subscription,
                "price": price,
                "quantity": item.quantity,
                "current_period_start": item.start,
                "current_period_end": item.end,
            },
        )
    subscription.items.exclude(stripe_item_id__in=[item.id for item in state.items]).delete()
    foreign = [item.id for item in state.items if item.price_id not in prices]
    subscription.foreign_items.exclude(stripe_item_id__in=foreign).delete()
