import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError
from django.db import connection, transaction
from django.utils import timezone

from billing import subscriptions
from billing.customers import ASKING_SECONDS, SweepResult, create_customer
from billing.gateway import subscriptions as gateway
from billing.models import (
    Case,
    Customer,
    PeriodBoundary,
    Plan,
    Price,
    Subscription,
    SubscriptionItem,
)
from billing.subscriptions import (
    SubscriptionPending,
    SubscriptionRefused,
    UnknownSubscription,
    subscribe,
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.django_db,
    pytest.mark.usefixtures("catalogue"),
]

LATER = timedelta(seconds=ASKING_SECONDS + 1)


@pytest.fixture
def customer(catalogue):
    return create_customer(external_id="acme")[0]


def plan(slug="tokens-payg"):
    return Plan.objects.get(slug=slug)


def at_stripe(emulator):
    return list(emulator.world.subscriptions)


def instant(second):
    return datetime.fromtimestamp(second, UTC)


def test_metered_plan_is_active_at_once_with_a_secret_to_collect_a_card(customer, emulator):
    result = subscribe(customer=customer, plan=plan())

    [theirs] = at_stripe(emulator)
    [intent] = emulator.world.setup_intents
    assert result.created
    assert result.subscription.status == "active"
    assert result.subscription.stripe_subscription_id == theirs["id"]
    assert (result.setup_secret, result.payment_secret) == (intent["client_secret"], "")
    assert theirs["billing_mode"]["type"] == "flexible"
    assert theirs["metadata"] == {
        "meterkeeper_deployment": "default",
        "meterkeeper_subscription": str(result.subscription.pk),
    }
    [item] = theirs["items"]["data"]
    assert "quantity" not in item


def test_periods_of_each_item_and_their_boundaries_are_written(customer, emulator):
    subscribe(customer=customer, plan=plan("tokens-split"))

    [theirs] = at_stripe(emulator)
    items = theirs["items"]["data"]
    assert list(
        SubscriptionItem.objects.values_list(
            "stripe_item_id", "price__stripe_price_id", "current_period_start", "current_period_end"
        )
    ) == [
        (
            item["id"],
            item["price"],
            instant(item["current_period_start"]),
            instant(item["current_period_end"]),
        )
        for item in items
    ]
    assert len(items) == 3
    assert list(PeriodBoundary.objects.values_list("at", flat=True)) == [
        instant(items[0]["current_period_start"]),
        instant(items[0]["current_period_end"]),
    ]


def test_base_fee_waits_for_its_first_payment(customer, emulator):
    result = subscribe(customer=customer, plan=plan("team"))

    [theirs] = at_stripe(emulator)
    assert result.subscription.status == theirs["status"] == "incomplete"
    assert result.payment_secret
    assert result.setup_secret == ""
    quantities = [item.get("quantity") for item in theirs["items"]["data"]]
    assert sorted(quantities, key=str) == [1, None]


def test_subscribing_twice_is_one_subscription_with_the_same_secrets(customer, emulator):
    first = subscribe(customer=customer, plan=plan())

    second = subscribe(customer=customer, plan=plan())

    assert second == replace(first, subscription=second.subscription, created=False)
    assert second.subscription.pk == first.subscription.pk
    assert len(at_stripe(emulator)) == 1


def test_subscribing_after_the_end_is_a_new_subscription(customer, emulator):
    first = subscribe(customer=customer, plan=plan())
    gateway.connection().v1.subscriptions.cancel(first.subscription.stripe_subscription_id)

    second = subscribe(customer=customer, plan=plan())

    assert second.created
    assert sorted(Subscription.objects.values_list("pk", "status")) == [
        (first.subscription.pk, "canceled"),
        (second.subscription.pk, "active"),
    ]


@pytest.mark.parametrize("fault", ["answer_lost", "500_after"])
def test_subscription_whose_answer_was_lost_is_found_and_not_made_twice(customer, emulator, fault):
    emulator.faults.switch_on(fault, path="/v1/subscriptions", method="POST", count=1)
    with pytest.raises(SubscriptionPending):
        subscribe(customer=customer, plan=plan())
    with pytest.raises(SubscriptionPending):
        subscribe(customer=customer, plan=plan())

    swept = subscriptions.ensure_subscriptions_at_stripe(now=timezone.now() + LATER, limit=10)

    [row] = Subscription.objects.all()
    [theirs] = at_stripe(emulator)
    assert swept == SweepResult(finished=1, failed=0)
    assert (row.stripe_subscription_id, row.status) == (theirs["id"], "active")
    assert row.items.count() == 1
    assert not subscribe(customer=customer, plan=plan()).created


@pytest.mark.parametrize("fault", ["drop_before", "500_before", "503", "429"])
def test_subscription_stripe_never_took_is_made_later(customer, emulator, fault):
    emulator.faults.switch_on(fault, path="/v1/subscriptions", method="POST", count=1)
    with pytest.raises(SubscriptionPending):
        subscribe(customer=customer, plan=plan())

    swept = subscriptions.ensure_subscriptions_at_stripe(now=timezone.now() + LATER, limit=10)

    assert swept == SweepResult(finished=1, failed=0)
    assert len(at_stripe(emulator)) == 1


def test_subscription_two_processes_find_missing_is_made_once(customer, emulator):
    """F33: a second one would bill each unit twice."""
    first = Subscription.objects.create(customer=customer, plan=plan())
    second = Subscription.objects.get()
    now = timezone.now()

    made = subscriptions.ensure_at_stripe(first, now=now)

    assert made is not None
    assert subscriptions.ensure_at_stripe(second, now=now) is None
    assert len(at_stripe(emulator)) == 1


def test_customer_without_a_twin_gets_one_on_the_way(emulator):
    customer = Customer.objects.create(external_id="acme")

    result = subscribe(customer=customer, plan=plan())

    customer.refresh_from_db()
    [theirs] = at_stripe(emulator)
    assert result.subscription.status == "active"
    assert theirs["customer"] == customer.stripe_customer_id


def test_plan_that_is_not_offered_is_refused(customer, emulator):
    Plan.objects.filter(slug="tokens-payg").update(active=False)
    empty = Plan.objects.create(slug="empty", name="Empty")

    with pytest.raises(SubscriptionRefused, match="no longer offered"):
        subscribe(customer=customer, plan=plan())
    with pytest.raises(SubscriptionRefused, match="has no prices"):
        subscribe(customer=customer, plan=empty)

    assert Subscription.objects.count() == 0
    assert at_stripe(emulator) == []


def test_plan_that_would_bill_the_same_use_again_is_refused(customer, emulator):
    subscribe(customer=customer, plan=plan("tokens-payg"))

    with pytest.raises(SubscriptionRefused, match="tokens-payg, which bills cached_input, input"):
        subscribe(customer=customer, plan=plan("tokens-split"))

    assert len(at_stripe(emulator)) == 1


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_plans_that_overlap_are_refused_to_two_requests_at_once(customer):
    """Neither would see the other's row without a lock on the customer."""
    outcomes = []

    def request():
        try:
            subscriptions._recorded(customer=customer, plan=plan("tokens-split"))
            outcomes.append("recorded")
        except SubscriptionRefused:
            outcomes.append("refused")
        finally:
            connection.close()

    with transaction.atomic():
        subscriptions._recorded(customer=customer, plan=plan("tokens-payg"))
        other = threading.Thread(target=request)
        other.start()
        other.join(timeout=0.5)
        assert outcomes == []
    other.join(timeout=10)

    assert outcomes == ["refused"]


@pytest.mark.parametrize("retired", ["price", "plan"])
def test_what_is_no_longer_offered_still_bills_those_who_have_it(customer, emulator, retired):
    """F33: two items on one meter would bill each unit twice."""
    subscribe(customer=customer, plan=plan("tokens-payg"))
    Price.objects.filter(plan__slug="tokens-payg").update(active=False)
    if retired == "plan":
        Plan.objects.filter(slug="tokens-payg").update(active=False)

    with pytest.raises(SubscriptionRefused, match="tokens-payg, which bills cached_input, input"):
        subscribe(customer=customer, plan=plan("tokens-split"))

    assert len(at_stripe(emulator)) == 1


def test_refusal_by_stripe_leaves_no_row(customer, emulator):
    price = Price.objects.get(plan__slug="tokens-payg")
    Price.objects.filter(pk=price.pk).update(stripe_price_id="price_of_another_account")

    with pytest.raises(SubscriptionRefused, match="No such price"):
        subscribe(customer=customer, plan=plan())

    assert Subscription.objects.count() == 0


def test_sweep_opens_a_case_for_what_stripe_refuses_until_it_is_taken(customer, emulator):
    price = Price.objects.get(plan__slug="tokens-payg")
    Price.objects.filter(pk=price.pk).update(stripe_price_id="price_of_another_account")
    row = Subscription.objects.create(customer=customer, plan=plan())
    now = timezone.now()

    refused = subscriptions.ensure_subscriptions_at_stripe(now=now, limit=10)

    [case] = Case.objects.all()
    assert refused == SweepResult(finished=0, failed=1)
    assert (case.reference, case.closed_at) == (
        f"subscription of {row.customer} to {row.plan}",
        None,
    )
    Price.objects.filter(pk=price.pk).update(stripe_price_id=price.stripe_price_id)
    taken = subscriptions.ensure_subscriptions_at_stripe(now=now + LATER, limit=10)
    case.refresh_from_db()
    assert taken == SweepResult(finished=1, failed=0)
    assert case.closed_at is not None


def test_stripe_away_while_repeating_asks_to_repeat_later(customer, emulator):
    subscribe(customer=customer, plan=plan())
    emulator.faults.switch_on("503")

    with pytest.raises(SubscriptionPending):
        subscribe(customer=customer, plan=plan())

    assert Subscription.objects.get().status == "active"


def test_mirror_follows_status_end_and_next_period(customer, emulator):
    subscription = subscribe(customer=customer, plan=plan()).subscription
    state = gateway.retrieve(subscription.stripe_subscription_id)
    end = state.items[0].end
    following = replace(state.items[0], start=end, end=end + timedelta(days=30))
    ended_at = end + timedelta(days=3)

    subscriptions.mirror(replace(state, items=(following,), cancel_at=ended_at))
    mirrored = subscriptions.mirror(
        replace(state, items=(following,), status="canceled", ended_at=ended_at)
    )

    assert (mirrored.status, mirrored.ended_at, mirrored.cancel_at) == ("canceled", ended_at, None)
    assert list(PeriodBoundary.objects.values_list("at", flat=True)) == [
        state.items[0].start,
        end,
        ended_at,
        end + timedelta(days=30),
    ]
    [item] = mirrored.items.all()
    assert (item.current_period_start, item.current_period_end) == (following.start, following.end)


def test_mirror_keeps_the_answer_that_was_asked_for_last(customer):
    subscription = subscribe(customer=customer, plan=plan()).subscription
    state = gateway.retrieve(subscription.stripe_subscription_id)
    newer = replace(state, status="past_due", asked_at=state.asked_at + timedelta(seconds=2))
    older = replace(state, status="unpaid", asked_at=state.asked_at + timedelta(seconds=1))

    subscriptions.mirror(newer)
    subscriptions.mirror(older)

    subscription.refresh_from_db()
    assert subscription.status == "past_due"


def test_mirror_finds_a_row_that_somebody_links_between_its_two_looks(customer):
    """The request that subscribes and the webhook of it mirror at the same moment."""
    subscription = subscribe(customer=customer, plan=plan()).subscription
    state = gateway.retrieve(subscription.stripe_subscription_id)
    Subscription.objects.update(stripe_subscription_id=None)
    looks = []

    def link_after_the_first_look(execute, sql, *rest):
        found = execute(sql, *rest)
        if "FOR UPDATE" in sql:
            looks.append(sql)
            if len(looks) == 1:
                Subscription.objects.update(stripe_subscription_id=state.id)
        return found

    with connection.execute_wrapper(link_after_the_first_look):
        mirrored = subscriptions.mirror(state)

    assert mirrored == subscription
    assert len(looks) >= 2


def test_mirror_of_an_item_somebody_added_keeps_its_boundaries(customer):
    subscription = subscribe(customer=customer, plan=plan()).subscription
    state = gateway.retrieve(subscription.stripe_subscription_id)
    foreign = replace(
        state.items[0], id="si_foreign", price_id="price_foreign", end=state.items[0].end + LATER
    )

    subscriptions.mirror(replace(state, items=(*state.items, foreign)))

    assert subscription.items.count() == 1
    assert PeriodBoundary.objects.filter(at=foreign.end).exists()


def test_mirror_drops_an_item_that_is_gone(customer):
    subscription = subscribe(customer=customer, plan=plan("tokens-split")).subscription
    state = gateway.retrieve(subscription.stripe_subscription_id)

    subscriptions.mirror(replace(state, items=state.items[:1]))

    assert list(subscription.items.values_list("stripe_item_id", flat=True)) == [state.items[0].id]


def test_mirror_of_a_stranger_is_an_error_and_writes_nothing(customer):
    subscription = subscribe(customer=customer, plan=plan()).subscription
    state = gateway.retrieve(subscription.stripe_subscription_id)

    with pytest.raises(UnknownSubscription):
        subscriptions.mirror(replace(state, id="sub_stranger"))

    subscription.refresh_from_db()
    assert subscription.stripe_subscription_id == state.id


def test_cancellation_at_the_periods_end_is_read_either_way(customer, emulator):
    subscription = subscribe(customer=customer, plan=plan()).subscription
    gateway.connection().v1.subscriptions.update(
        subscription.stripe_subscription_id, {"cancel_at_period_end": True}
    )
    state = gateway.retrieve(subscription.stripe_subscription_id)
    [theirs] = at_stripe(emulator)
    theirs["cancel_at"] = None

    assert state.cancel_at == state.items[0].end
    assert gateway.retrieve(subscription.stripe_subscription_id).cancel_at == state.items[0].end


def test_command_subscribes_and_tells_what_is_wrong(run, customer):
    out = run("subscribe", "acme", "tokens-payg").stdout

    assert out.startswith("Subscribed: acme on tokens-payg, active (sub_")
    assert "Collect a card with setup intent secret seti_" in out
    assert run("subscribe", "acme", "tokens-payg").stdout.startswith("Is subscribed")
    for arguments, told in (
        (["nobody", "tokens-payg"], "No customer"),
        (["acme", "nothing"], "No plan"),
        (["acme", "tokens-split"], "bills"),
    ):
        with pytest.raises(CommandError, match=told):
            run("subscribe", *arguments)
