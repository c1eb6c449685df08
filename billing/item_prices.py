"""Which price a subscription's item had, from when until when.

`subscriptions.mirror` notes each price it finds on an item; what one costs is `charges`'.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from django.db.models import Q
from django.db.models.functions import Greatest

from billing.gateway.values import ItemPeriod, SubscriptionState
from billing.models import Customer, ItemPrice, Meter, Price, Subscription

AN_INSTANT = timedelta(microseconds=1)


def prices_between(
    *, customer: Customer, since: datetime, until: datetime, meter: Meter | None = None
) -> tuple[ItemPrice, ...]:
    """Return the prices a customer had at any moment of [since, until), with since when and until.

    Of a meter, or all, base fees too; by item and time. The dates are the price's own: it may have
    begun before `since`, and end after `until` or not yet.
    """
    found = ItemPrice.objects.filter(
        Q(until=None) | Q(until__gt=since), subscription__customer=customer, since__lt=until
    )
    if meter is not None:
        found = found.filter(price__meter=meter)
    return tuple(found.select_related("price__meter", "subscription__plan"))


def prices_at(
    *, customer: Customer, at: datetime, meter: Meter | None = None
) -> tuple[ItemPrice, ...]:
    """Return the prices a customer has at an instant, each with since when."""
    return prices_between(customer=customer, since=at, until=at + AN_INSTANT, meter=meter)


def note(subscription: Subscription, state: SubscriptionState, prices: Mapping[str, Price]) -> None:
    """Write down which of `prices`, by Stripe's id, each item has now.

    Called before the items themselves are written: where an item's period has moved on since, a new
    price counts from the start of it, and else from the second Stripe was asked in. Takes part in
    the caller's transaction; the same answer again changes nothing.
    """
    asked_at = state.asked_at.replace(microsecond=0)
    ours = [item for item in state.items if item.price_id in prices]
    known_starts = dict(subscription.items.values_list("stripe_item_id", "current_period_start"))
    for item in ours:
        known_start = known_starts.get(item.id)
        has_moved_on = known_start is not None and item.start > known_start
        _note_item(
            subscription,
            item,
            prices[item.price_id],
            changed_at=item.start if has_moved_on else asked_at,
            is_over=state.ended_at is not None,
        )
    in_force = subscription.item_prices.filter(until=None)
    if state.ended_at is None:
        gone = in_force.exclude(stripe_item_id__in=[item.id for item in ours])
        gone.update(until=Greatest("since", asked_at))
    else:
        in_force.update(until=Greatest("since", state.ended_at))


def _note_item(
    subscription: Subscription,
    item: ItemPeriod,
    price: Price,
    *,
    changed_at: datetime,
    is_over: bool,
) -> None:
    latest = ItemPrice.objects.filter(stripe_item_id=item.id).order_by("since", "id").last()
    if latest is None:
        since = item.start
    elif is_over or (latest.until is None and latest.price_id == price.pk):
        return
    else:
        since = max(changed_at, latest.until or latest.since)
        if latest.until is None:
            latest.until = since
            latest.save(update_fields=["until"])
    ItemPrice.objects.create(
        subscription=subscription, stripe_item_id=item.id, price=price, since=since
    )
