"""Which price a customer had when: as found at Stripe, and kept when it is gone."""

from dataclasses import replace
from datetime import timedelta

import pytest

from billing.customers import create_customer
from billing.gateway import subscriptions as gateway
from billing.item_prices import prices_at, prices_between
from billing.models import ItemPrice, Meter, Plan, Price
from billing.subscriptions import mirror, subscribe

pytestmark = [
    pytest.mark.integration,
    pytest.mark.django_db,
    pytest.mark.usefixtures("catalogue"),
]

DAY = timedelta(days=1)


@pytest.fixture
def customer(catalogue):
    return create_customer(external_id="acme")[0]


@pytest.fixture
def state(customer):
    """What Stripe said of a subscription with one price, half a second into a second."""
    subscribed = subscribe(customer=customer, plan=Plan.objects.get(slug="tokens-payg"))
    state = gateway.retrieve(subscribed.subscription.stripe_subscription_id)
    return replace(state, asked_at=state.asked_at.replace(microsecond=500_000) + 2 * DAY)


@pytest.fixture
def dearer():
    """The price that follows, as a changed catalogue makes it: a row of its own."""
    return Price.objects.create(
        **{
            **Price.objects.values(
                *(
                    "plan_id",
                    "name",
                    "kind",
                    "meter_id",
                    "currency",
                    "interval",
                    "stripe_product_id",
                )
            ).get(plan__slug="tokens-payg"),
            "lookup_key": "dearer",
            "rule": {"unit_amount_decimal": "1"},
            "stripe_price_id": "price_dearer",
        }
    )


def with_price(state, price_id, **changes):
    [item] = state.items
    return replace(state, items=(replace(item, price_id=price_id, **changes),))


def spells(**asked):
    return [(each.price.lookup_key, each.since, each.until) for each in prices_between(**asked)]


FIRST = "default:tokens-payg:ai_tokens"


def test_a_new_item_has_its_price_from_its_period_on(customer, state):
    [item] = state.items

    assert spells(customer=customer, since=item.start, until=item.end) == [
        (FIRST, item.start, None)
    ]


def test_a_changed_price_counts_from_the_second_it_was_found_in(customer, state, dearer):
    [item] = state.items
    changed_at = state.asked_at.replace(microsecond=0)

    mirror(with_price(state, dearer.stripe_price_id))
    # Once more, as each webhook does.
    mirror(with_price(replace(state, asked_at=state.asked_at + DAY), dearer.stripe_price_id))

    assert spells(customer=customer, since=item.start, until=item.end) == [
        (FIRST, item.start, changed_at),
        ("dearer", changed_at, None),
    ]


def test_a_price_that_came_with_a_new_period_counts_from_its_start(customer, state, dearer):
    [item] = state.items

    mirror(
        with_price(
            replace(state, asked_at=item.end + timedelta(hours=3)),
            dearer.stripe_price_id,
            start=item.end,
            end=item.end + 30 * DAY,
        )
    )

    assert spells(customer=customer, since=item.start, until=item.end + DAY) == [
        (FIRST, item.start, item.end),
        ("dearer", item.end, None),
    ]


def test_what_an_older_answer_says_changes_nothing(customer, state, dearer):
    mirror(with_price(state, dearer.stripe_price_id))
    known = list(ItemPrice.objects.values())

    mirror(replace(state, asked_at=state.asked_at - DAY))

    assert list(ItemPrice.objects.values()) == known


def test_an_item_that_is_gone_leaves_what_it_cost(customer, state, dearer):
    [item] = state.items
    other = replace(item, id="si_other", price_id=dearer.stripe_price_id, start=item.start + DAY)
    changed_at = state.asked_at.replace(microsecond=0)

    mirror(replace(state, items=(other,)))

    assert spells(customer=customer, since=item.start, until=item.end) == [
        (FIRST, item.start, changed_at),
        ("dearer", item.start + DAY, None),
    ]


def test_a_price_that_is_none_of_ours_ends_the_one_before_it(customer, state):
    [item] = state.items
    changed_at = state.asked_at.replace(microsecond=0)

    mirror(with_price(state, "price_of_the_dashboard"))

    assert spells(customer=customer, since=item.start, until=item.end) == [
        (FIRST, item.start, changed_at)
    ]


def test_an_ended_subscription_costs_nothing_from_its_end_on(customer, state):
    [item] = state.items
    ended_at = item.start + DAY
    ended = replace(state, status="canceled", ended_at=ended_at)

    mirror(ended)
    mirror(replace(ended, asked_at=ended.asked_at + DAY))

    assert spells(customer=customer, since=item.start, until=item.end) == [
        (FIRST, item.start, ended_at)
    ]


def test_prices_are_told_of_an_instant_and_of_a_meter(customer, state, dearer):
    [item] = state.items
    changed_at = state.asked_at.replace(microsecond=0)
    mirror(with_price(state, dearer.stripe_price_id))
    meter, other = Meter.objects.get(slug="ai_tokens"), Meter.objects.get(slug="llm_calls")

    def at(instant, meter=meter):
        found = prices_at(customer=customer, at=instant, meter=meter)
        return [(each.price.lookup_key, each.since) for each in found]

    assert at(item.start - timedelta(microseconds=1)) == []
    assert at(item.start) == [(FIRST, item.start)]
    assert at(changed_at - timedelta(microseconds=1)) == [(FIRST, item.start)]
    assert at(changed_at) == [("dearer", changed_at)]
    assert at(changed_at, None) == [("dearer", changed_at)]
    assert at(changed_at, other) == []
    stranger, _ = create_customer(external_id="globex")
    assert prices_at(customer=stranger, at=changed_at) == ()
