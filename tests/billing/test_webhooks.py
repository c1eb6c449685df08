import json
import random
import threading
from datetime import timedelta

import pytest
import stripe
import time_machine
from celery import current_app
from django.db import connection, transaction
from django.utils import timezone

from billing import subscriptions
from billing.customers import create_customer
from billing.enums import CaseKind, WebhookState
from billing.gateway import notifications
from billing.gateway.errors import Unavailable
from billing.models import Case, Invoice, Plan, Subscription, WebhookEvent
from billing.subscriptions import subscribe
from billing.webhooks import inbox
from billing.webhooks.inbox import PassResult, handler_for
from billing_project.webhook_routes import ROUTES
from stripe_emulator.core import events
from tests.factories.billing import make_webhook_event

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

SNAPSHOT, THIN = "/webhooks/stripe", "/webhooks/stripe/thin"


@pytest.fixture
def forwarding(emulator, settings):
    """An emulator that delivers to us."""
    emulator.forward(f"http://us.invalid{SNAPSHOT}", settings.STRIPE_WEBHOOK_SECRETS[0])
    return emulator


@pytest.fixture
def subscription(forwarding, run):
    run("sync_catalogue")
    customer, _ = create_customer(external_id="acme")
    return subscribe(customer=customer, plan=Plan.objects.get(slug="tokens-payg")).subscription


def post(client, body, secret, *, path=SNAPSHOT, seconds=0):
    stamp = int(timezone.now().timestamp()) + seconds
    header = stripe.WebhookSignature.generate_signature_header(body, secret, stamp)
    return client.post(path, body, content_type="application/json", HTTP_STRIPE_SIGNATURE=header)


def event(event_id="evt_1", type_="invoice.paid", object_id="in_1", **more):
    return json.dumps(
        {
            "id": event_id,
            "object": "event",
            "type": type_,
            "livemode": False,
            "data": {"object": {"id": object_id}},
        }
        | more
    )


def delivered(client, emulator):
    """Deliver what the emulator owes; return the deliveries."""
    deliveries = emulator.pop_deliveries()
    for delivery in deliveries:
        answer = deliver(client, delivery)
        emulator.report_delivery(delivery, answer.status_code)
    return deliveries


def deliver(client, delivery):
    return client.generic(
        "POST",
        SNAPSHOT,
        delivery.body,
        content_type="application/json",
        HTTP_STRIPE_SIGNATURE=delivery.headers["Stripe-Signature"],
    )


def process(routes=ROUTES, limit=1_000):
    return inbox.process_due(routes=routes, limit=limit, seconds=30)


# --- taking ---------------------------------------------------------------------------------------


def test_genuine_event_is_stored_raw_once(client, settings):
    body = event()

    answers = [post(client, body, settings.STRIPE_WEBHOOK_SECRETS[0]) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200] * 5
    [row] = WebhookEvent.objects.all()
    assert (row.stripe_event_id, row.kind, row.type) == ("evt_1", "snapshot", "invoice.paid")
    assert (row.object_id, row.body, row.state) == ("in_1", body, WebhookState.PENDING)


def test_thin_event_is_stored_under_its_own_secret(client, settings):
    body = json.dumps(
        {
            "id": "evt_thin",
            "object": "v2.core.event",
            "type": "v1.billing.meter.error_report_triggered",
            "livemode": False,
            "related_object": {"id": "mtr_1"},
        }
    )

    refused = post(client, body, settings.STRIPE_WEBHOOK_SECRETS[0], path=THIN)
    assert (refused.status_code, WebhookEvent.objects.count()) == (400, 0)
    taken = post(client, body, settings.STRIPE_THIN_WEBHOOK_SECRETS[0], path=THIN)

    assert taken.status_code == 200
    assert list(WebhookEvent.objects.values_list("kind", "object_id")) == [("thin", "mtr_1")]


@pytest.mark.parametrize(
    ("secret", "seconds"), [("whsec_forged", 0), (None, -301 - 5), (None, 301 + 5)]
)
def test_forged_old_or_future_event_is_refused_and_not_stored(client, settings, secret, seconds):
    secret = secret or settings.STRIPE_WEBHOOK_SECRETS[0]

    answer = post(client, event(), secret, seconds=seconds)

    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    assert WebhookEvent.objects.count() == 0


def test_unsigned_event_is_refused(client):
    answer = client.post(SNAPSHOT, event(), content_type="application/json")

    assert (answer.status_code, WebhookEvent.objects.count()) == (400, 0)


def test_without_configured_secrets_everything_is_refused(client, settings):
    secret, settings.STRIPE_WEBHOOK_SECRETS = settings.STRIPE_WEBHOOK_SECRETS[0], []

    assert post(client, event(), secret).status_code == 400
    assert WebhookEvent.objects.count() == 0


def test_only_post_is_served(client):
    assert client.get(SNAPSHOT).status_code == 405


def test_no_csrf_token_is_asked_for(settings):
    from django.test import Client  # noqa: PLC0415 - the fixture's client skips the check

    answer = post(Client(enforce_csrf_checks=True), event(), settings.STRIPE_WEBHOOK_SECRETS[0])

    assert answer.status_code == 200


def test_a_stored_event_wakes_a_worker(client, settings, django_capture_on_commit_callbacks):
    with current_app.connection_for_read() as broker:
        # As the settings declare it: a broker refuses to know one queue by two descriptions.
        waiting = broker.SimpleQueue(current_app.amqp.queues["webhooks"])
        waiting.clear()
        with django_capture_on_commit_callbacks(execute=True):
            post(client, event(), settings.STRIPE_WEBHOOK_SECRETS[0])
        message = waiting.get(timeout=5)
        message.ack()
        waiting.close()
    assert message.headers["task"] == "billing.process_webhooks"
    assert message.payload[:2] == [[], {}]


# --- handling -------------------------------------------------------------------------------------


def test_handler_runs_once_however_often_the_event_came(client, settings):
    seen = []
    for _ in range(5):
        post(client, event(), settings.STRIPE_WEBHOOK_SECRETS[0])

    first = process({"invoice.paid": lambda received: seen.append(received.event_id) or True})
    second = process({"invoice.paid": lambda received: seen.append(received.event_id) or True})

    assert seen == ["evt_1"]
    assert first == PassResult(processed=1, ignored=0, failed=0)
    assert second == PassResult(processed=0, ignored=0, failed=0)
    [row] = WebhookEvent.objects.all()
    assert (row.state, row.attempt_count, row.next_attempt_at) == (WebhookState.PROCESSED, 1, None)


@pytest.mark.parametrize(
    ("event_type", "route"),
    [
        ("invoice.paid", "invoice.paid"),
        ("invoice.voided", "invoice.*"),
        ("customer.subscription.deleted", "customer.subscription.*"),
        ("customer.deleted", "customer.*"),
        ("invoices", None),
        ("charge.succeeded", None),
    ],
)
def test_longest_route_wins(event_type, route):
    keys = ("invoice.paid", "invoice.*", "customer.*", "customer.subscription.*")
    routes = {key: (lambda _, key=key: key) for key in keys}

    handler = handler_for(routes, event_type)

    assert (handler and handler(None)) == route


def test_event_nobody_handles_or_of_the_other_mode_is_ignored():
    make_webhook_event("evt_1", type="charge.succeeded")
    make_webhook_event("evt_2", live_mode=True)

    assert process() == PassResult(processed=0, ignored=2, failed=0)
    assert set(WebhookEvent.objects.values_list("state", flat=True)) == {WebhookState.IGNORED}


def test_failing_event_waits_longer_each_time_and_the_others_go_on(now):
    make_webhook_event("evt_bad", type="bad", next_attempt_at=now)
    make_webhook_event("evt_good", type="good", next_attempt_at=now)

    def bad(_):
        raise Unavailable("no answer")

    routes = {"bad": bad, "good": lambda _: True}
    waits = []
    for _ in range(4):
        row = WebhookEvent.objects.get(stripe_event_id="evt_bad")
        with time_machine.travel(row.next_attempt_at, tick=False):
            result = process(routes)
            assert result.failed == 1
            assert process(routes) == PassResult(processed=0, ignored=0, failed=0)
        row.refresh_from_db()
        waits.append((row.next_attempt_at - now).total_seconds())
        now = row.next_attempt_at

    assert waits == [15, 30, 60, 120]
    assert (row.state, row.last_error) == (WebhookState.PENDING, "Unavailable: no answer")
    assert WebhookEvent.objects.get(stripe_event_id="evt_good").state == WebhookState.PROCESSED


def test_event_that_fails_for_a_day_becomes_a_case_and_can_be_handled_again(run, caplog):
    make_webhook_event("evt_1", attempt_count=inbox.ATTEMPTS_MOST - 1)

    def broken(_):
        raise KeyError("parent")

    process({"invoice.*": broken})

    [row] = WebhookEvent.objects.all()
    [case] = Case.objects.all()
    assert (row.state, row.next_attempt_at) == (WebhookState.FAILED, None)
    assert (case.kind, case.reference, case.closed_at) == (CaseKind.WEBHOOK, "evt_1", None)
    assert "KeyError" in case.reason
    assert process({"invoice.*": broken}) == PassResult(processed=0, ignored=0, failed=0)

    inbox.handle_again(row, now=timezone.now())
    assert process({"invoice.*": lambda _: True}).processed == 1
    case.refresh_from_db()
    assert case.closed_at is not None


def test_event_whose_worker_died_is_handled_when_its_lease_is_over(now):
    make_webhook_event("evt_1", next_attempt_at=now)

    class Killed(BaseException):
        pass

    def killed(_):
        raise Killed

    with time_machine.travel(now, tick=False):
        with pytest.raises(Killed):
            process({"invoice.*": killed})
        assert process({"invoice.*": lambda _: True}).processed == 0
    with time_machine.travel(now + timedelta(seconds=inbox.LEASE_SECONDS), tick=False):
        assert process({"invoice.*": lambda _: True}).processed == 1


def test_late_finish_of_an_overrun_claim_changes_nothing(now):
    make_webhook_event("evt_1", next_attempt_at=now)

    def overrun(_):
        with time_machine.travel(now + timedelta(seconds=inbox.LEASE_SECONDS), tick=False):

            def fails(_):
                raise Unavailable("no answer")

            process({"invoice.*": fails})
        return True

    with time_machine.travel(now, tick=False):
        process({"invoice.*": overrun})

    [row] = WebhookEvent.objects.all()
    assert (row.state, row.attempt_count) == (WebhookState.PENDING, 2)


def test_late_failure_of_an_overrun_claim_changes_nothing(now):
    make_webhook_event("evt_1", next_attempt_at=now)
    lease = timedelta(seconds=inbox.LEASE_SECONDS)

    def overrun(_):
        assert inbox._claim(now=now + lease) is not None
        raise Unavailable("no answer")

    with time_machine.travel(now, tick=False):
        process({"invoice.*": overrun})

    [row] = WebhookEvent.objects.all()
    assert (row.attempt_count, row.last_error) == (2, "")
    assert row.next_attempt_at == now + 2 * lease


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_an_event_another_worker_is_at_is_skipped_and_not_waited_for(now):
    make_webhook_event("evt_held", next_attempt_at=now)
    holds, done = threading.Event(), threading.Event()

    def slow_worker():
        with transaction.atomic():
            list(WebhookEvent.objects.select_for_update())
            holds.set()
            assert done.wait(timeout=10)
        connection.close()

    thread = threading.Thread(target=slow_worker)
    thread.start()
    assert holds.wait(timeout=10)
    make_webhook_event("evt_free", next_attempt_at=now)
    try:
        claim = inbox._claim(now=now)
    finally:
        done.set()
        thread.join()

    assert claim is not None
    assert claim.received.event_id == "evt_free"


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_two_workers_never_hold_the_same_event():
    for number in range(6):
        make_webhook_event(f"evt_{number}")
    seen, meeting = [], threading.Barrier(2, timeout=10)

    def handler(received):
        if len(seen) < 2:
            meeting.wait()
        seen.append(received.event_id)
        return True

    def work():
        try:
            process({"invoice.*": handler})
        finally:
            connection.close()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert sorted(seen) == [f"evt_{number}" for number in range(6)]


# --- what Stripe tells us -------------------------------------------------------------------------


def test_subscription_created_elsewhere_in_time_is_linked_by_its_stamp(
    client, forwarding, subscription
):
    """F73: our process died after Stripe answered, before the answer was stored."""
    stripe_id = subscription.stripe_subscription_id
    subscription.items.all().delete()
    Subscription.objects.update(stripe_subscription_id=None, status="creating", mirrored_at=None)

    delivered(client, forwarding)
    process()

    subscription.refresh_from_db()
    assert (subscription.stripe_subscription_id, subscription.status) == (stripe_id, "active")
    assert subscription.items.count() == 1


def test_status_and_end_follow_stripe(client, forwarding, subscription):
    subscriptions.at_stripe.connection().v1.subscriptions.cancel(
        subscription.stripe_subscription_id
    )

    delivered(client, forwarding)
    result = process()

    subscription.refresh_from_db()
    assert subscription.status == "canceled"
    assert subscription.ended_at is not None
    assert result.failed == 0


def test_events_in_any_order_and_number_lead_to_the_same_state(client, forwarding, subscription):
    calls = subscriptions.at_stripe.connection().v1.subscriptions
    calls.update(subscription.stripe_subscription_id, {"cancel_at_period_end": True})
    calls.update(subscription.stripe_subscription_id, {"cancel_at_period_end": False})
    calls.cancel(subscription.stripe_subscription_id)
    deliveries = [each for each in forwarding.pop_deliveries() if b"subscription" in each.body]
    assert len(deliveries) >= 4
    draw = random.Random(3)  # noqa: S311 - a repeatable shuffle
    ends = set()

    for _ in range(25):
        WebhookEvent.objects.all().delete()
        shuffled = deliveries * 2
        draw.shuffle(shuffled)
        for delivery in shuffled:
            assert deliver(client, delivery).status_code == 200
            if draw.random() < 0.3:
                process()
        process()
        subscription.refresh_from_db()
        ends.add((subscription.status, subscription.cancel_at, subscription.ended_at is None))

    assert ends == {("canceled", None, False)}
    assert subscription.items.count() == 1


def test_invoice_of_our_customer_is_mirrored_until_it_is_paid(client, forwarding, run):
    run("sync_catalogue")
    customer, _ = create_customer(external_id="acme")
    subscription = subscribe(customer=customer, plan=Plan.objects.get(slug="team")).subscription

    delivered(client, forwarding)
    process()

    [theirs] = forwarding.world.invoices
    [invoice] = Invoice.objects.all()
    assert (invoice.customer, invoice.subscription) == (customer, subscription)
    assert (invoice.stripe_invoice_id, invoice.status) == (theirs["id"], theirs["status"])
    assert (invoice.total, invoice.currency) == (2000, "usd")


def test_strangers_on_the_same_account_are_ignored(client, forwarding, subscription):
    calls = subscriptions.at_stripe.connection().v1
    theirs = calls.customers.create({"email": "someone@else.test"})
    price = subscription.plan.prices.get().stripe_price_id
    calls.subscriptions.create({"customer": theirs.id, "items": [{"price": price}]})
    delivered(client, forwarding)

    result = process()

    assert result.failed == 0
    assert Subscription.objects.count() == 1
    assert Invoice.objects.count() == 0
    assert WebhookEvent.objects.filter(state=WebhookState.PENDING).count() == 0


def test_what_another_deployment_made_on_the_same_account_is_ignored(
    client, forwarding, subscription
):
    calls = subscriptions.at_stripe.connection().v1
    metadata = {"meterkeeper_deployment": "staging", "meterkeeper_subscription": "1"}
    theirs = calls.customers.create({"metadata": {"meterkeeper_deployment": "staging"}})
    price = subscription.plan.prices.get().stripe_price_id
    calls.subscriptions.create(
        {"customer": theirs.id, "items": [{"price": price}], "metadata": metadata}
    )
    delivered(client, forwarding)

    assert process().failed == 0
    assert [row.stripe_subscription_id for row in Subscription.objects.all()] == [
        subscription.stripe_subscription_id
    ]
    of_subscriptions = WebhookEvent.objects.filter(type__startswith="customer.subscription.")
    assert of_subscriptions.filter(state=WebhookState.IGNORED).count() == 1


def test_no_delivery_is_refused_while_a_secret_is_rolled(client, forwarding, settings):
    """F76: Stripe signs with both for a while, and with the new one alone afterwards."""
    [old], new = settings.STRIPE_WEBHOOK_SECRETS, "whsec_new"
    hook, answers = f"http://us.invalid{SNAPSHOT}", []
    calls = subscriptions.at_stripe.connection().v1
    forwarding.settings.change(rolled_secret_seconds=3_600)

    def another():
        calls.customers.create({})
        answers.extend(
            deliver(client, delivery).status_code for delivery in forwarding.pop_deliveries()
        )

    another()
    forwarding.forward(hook, new)
    another()
    settings.STRIPE_WEBHOOK_SECRETS = [new, old]
    another()
    forwarding.settings.change(rolled_secret_seconds=0)
    with time_machine.travel(timezone.now() + timedelta(hours=2), tick=False):
        another()
        settings.STRIPE_WEBHOOK_SECRETS = [new]
        another()

    assert answers == [200] * 5


def test_unreachable_stripe_delays_and_loses_nothing(client, forwarding, subscription):
    """F75: fetching what changed fails for a while."""
    delivered(client, forwarding)
    forwarding.faults.switch_on("503", method="GET")
    failed = process().failed
    assert failed >= 1
    forwarding.faults.clear()

    with time_machine.travel(timezone.now() + timedelta(minutes=2), tick=False):
        result = process()

    assert (result.processed, result.failed) == (failed, 0)


def test_object_stripe_no_longer_has_is_no_trouble(forwarding):
    make_webhook_event("evt_1", type="customer.subscription.updated", object_id="sub_gone")
    make_webhook_event("evt_2", type="invoice.deleted", object_id="in_gone")
    make_webhook_event("evt_3", type="invoice.upcoming", object_id="")

    assert process() == PassResult(processed=0, ignored=3, failed=0)


def test_thin_event_is_fetched_and_its_delivery_is_never_data(emulator):
    mirrored = events.emit_thin(
        emulator.world,
        "v1.billing.meter.error_report_triggered",
        livemode=False,
        data={"reason": {"error_count": 3}},
        related_object={"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
    )

    fetched = notifications.fetch_thin_event(mirrored["id"])

    assert (fetched.id, fetched.object_id) == (mirrored["id"], "mtr_1")
    assert fetched.type == "v1.billing.meter.error_report_triggered"
    assert fetched.data == {"reason": {"error_count": 3}}
    assert fetched.created_at.tzinfo is not None


def test_command_handles_what_is_due(run, forwarding):
    make_webhook_event("evt_1", type="charge.succeeded")

    out = run("process_webhooks").stdout

    assert out == "Webhooks: 0 handled, 1 not ours, 0 to be tried again.\n"
