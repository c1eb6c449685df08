"""Events and their deliveries: signed, filtered, repeated, and disturbed on request."""

import json

import pytest
import stripe

from .conftest import NOW

pytestmark = pytest.mark.unit
SECRET = "whsec_of_the_test"


@pytest.fixture
def listening(emulator):
    emulator.forward("http://app/hook", SECRET)
    return emulator


def test_delivery_verifies_with_the_sdk(client, listening):
    client.v1.customers.create({"email": "a@example.com"})

    [delivery] = listening.pop_deliveries()
    event = client.construct_event(
        delivery.body, delivery.headers["Stripe-Signature"], SECRET, tolerance=10**9
    )

    assert delivery.url == "http://app/hook"
    assert (event.type, event.data.object.email) == ("customer.created", "a@example.com")
    assert delivery.headers["Stripe-Signature"].startswith(f"t={NOW},v1=")


def test_update_carries_former_values(client, listening):
    customer = client.v1.customers.create({"name": "Ada"})
    client.v1.customers.update(customer.id, {"name": "Eva"})

    bodies = [json.loads(delivery.body) for delivery in listening.pop_deliveries()]

    assert bodies[1]["data"]["previous_attributes"] == {"name": "Ada"}
    assert "previous_attributes" not in bodies[0]["data"]


def test_update_without_a_change_tells_nobody(client, listening):
    customer = client.v1.customers.create({"name": "Ada"})
    listening.pop_deliveries()
    client.v1.customers.update(customer.id, {"name": "Ada"})

    assert listening.pop_deliveries() == []


def test_event_names_the_request_that_caused_it(client, listening):
    answer = client.v1.customers.create({}, {"idempotency_key": "k"}).last_response

    [delivery] = listening.pop_deliveries()

    assert json.loads(delivery.body)["request"] == {"id": answer.request_id, "idempotency_key": "k"}


def test_endpoint_made_through_the_api_shows_its_secret_once(client, emulator):
    made = client.v1.webhook_endpoints.create(
        {
            "url": "https://app.example/hook",
            "enabled_events": ["customer.deleted"],
            "api_version": "2025-09-30.clover",
        }
    )
    customer = client.v1.customers.create({})
    client.v1.customers.delete(customer.id)

    [delivery] = emulator.pop_deliveries()
    event = client.construct_event(
        delivery.body, delivery.headers["Stripe-Signature"], made.secret, tolerance=10**9
    )

    assert (event.type, event.api_version) == ("customer.deleted", "2025-09-30.clover")
    assert "secret" not in client.v1.webhook_endpoints.retrieve(made.id).to_dict()


def test_disabled_or_deleted_endpoint_hears_nothing(client, emulator):
    one, two = (
        client.v1.webhook_endpoints.create(
            {"url": "https://app.example/hook", "enabled_events": ["*"]}
        )
        for _ in range(2)
    )
    client.v1.customers.create({})
    client.v1.webhook_endpoints.update(one.id, {"disabled": True})
    client.v1.webhook_endpoints.delete(two.id)
    owed = [entry[2].endpoint_id for entry in emulator.world.outbox.waiting]

    assert owed == [one.id]
    assert emulator.pop_deliveries() == []


def test_modes_have_their_own_endpoints(client, transport, emulator):
    client.v1.webhook_endpoints.create({"url": "https://app.example/hook", "enabled_events": ["*"]})
    stripe.StripeClient("sk_live_x", http_client=transport).v1.customers.create({})

    assert emulator.pop_deliveries() == []


def test_account_has_sixteen_endpoints_at_most(client, listening):
    """A receiver from outside the API takes none of their places."""
    for _ in range(16):
        client.v1.webhook_endpoints.create(
            {"url": "https://app.example/hook", "enabled_events": ["*"]}
        )

    with pytest.raises(stripe.InvalidRequestError, match="maximum of 16"):
        client.v1.webhook_endpoints.create(
            {"url": "https://app.example/hook", "enabled_events": ["*"]}
        )


@pytest.mark.parametrize("status", [0, 301, 400, 500])
def test_failed_delivery_is_repeated_with_growing_waits(client, listening, status):
    listening.settings.change(webhook_retry_seconds=[1, 10])
    client.v1.customers.create({})
    moments = []
    for _ in range(60):
        for delivery in listening.pop_deliveries():
            moments.append(int(listening.clock.now()) - NOW)
            listening.report_delivery(delivery, status)
        listening.clock.advance(1)

    assert moments == [0, 1, 11]


def test_repeat_is_signed_at_the_time_it_leaves(client, listening):
    client.v1.customers.create({})
    [first] = listening.pop_deliveries()
    listening.report_delivery(first, 500)
    listening.clock.advance(1)

    [second] = listening.pop_deliveries()

    assert second.headers["Stripe-Signature"].startswith(f"t={NOW + 1},")
    assert (second.body, second.event_id, second.attempt) == (first.body, first.event_id, 2)


def test_pending_webhooks_count_down(client, listening):
    client.v1.customers.create({})
    [delivery] = listening.pop_deliveries()
    before = client.v1.events.retrieve(delivery.event_id).pending_webhooks
    undelivered = client.v1.events.list({"delivery_success": False}).data
    listening.report_delivery(delivery, 204)

    assert (before, len(undelivered)) == (1, 1)
    assert client.v1.events.retrieve(delivery.event_id).pending_webhooks == 0
    assert client.v1.events.list({"delivery_success": False}).data == []


def test_events_are_listed_for_thirty_days(client, emulator):
    client.v1.customers.create({})
    emulator.clock.advance(10)
    client.v1.products.create({"name": "x"})

    def types(**params):
        return [event.type for event in client.v1.events.list(params).data]

    assert types() == ["product.created", "customer.created"]
    assert types(type="customer.created") == ["customer.created"]
    assert types(types=["customer.*", "price.created"]) == ["customer.created"]
    assert types(created={"gt": NOW}) == ["product.created"]
    first = client.v1.events.list({"type": "customer.created"}).data[0].id
    emulator.clock.advance(30 * 86_400)
    assert types() == ["product.created"]
    with pytest.raises(stripe.InvalidRequestError, match="No such event"):
        client.v1.events.retrieve(first)


def test_events_are_asked_for_by_type_or_by_types(client):
    with pytest.raises(stripe.InvalidRequestError, match="both type and types"):
        client.v1.events.list({"type": "price.created", "types": ["price.created"]})


def test_duplicated_delivery(client, listening):
    listening.faults.switch_on("webhook_duplicate", count=1)
    client.v1.customers.create({})

    first, second = listening.pop_deliveries()

    assert (first.body, first.event_id) == (second.body, second.event_id)


def test_dropped_delivery_never_comes(client, listening):
    listening.faults.switch_on("webhook_drop", count=1)
    client.v1.customers.create({})
    client.v1.products.create({"name": "x"})

    told = [json.loads(delivery.body)["type"] for delivery in listening.pop_deliveries()]
    listening.clock.advance(10 * 86_400)

    assert told == ["product.created"]
    assert listening.pop_deliveries() == []


def test_late_delivery(client, listening):
    listening.faults.switch_on("webhook_late", count=1, delay_seconds=600)
    client.v1.customers.create({})
    early = listening.pop_deliveries()
    listening.clock.advance(600)

    assert early == []
    assert len(listening.pop_deliveries()) == 1


def test_shuffled_deliveries(client, listening):
    made = [client.v1.customers.create({}).id for _ in range(20)]
    listening.faults.switch_on("webhook_shuffle", seed=3)

    told = [
        json.loads(delivery.body)["data"]["object"]["id"] for delivery in listening.pop_deliveries()
    ]

    assert told != made
    assert sorted(told) == sorted(made)


def test_forged_copy_fails_verification_and_the_real_one_passes(client, listening):
    listening.faults.switch_on("webhook_forge", count=1)
    client.v1.customers.create({})

    real, forged = listening.pop_deliveries()

    assert client.construct_event(
        real.body, real.headers["Stripe-Signature"], SECRET, tolerance=10**9
    )
    with pytest.raises(stripe.SignatureVerificationError):
        client.construct_event(
            forged.body, forged.headers["Stripe-Signature"], SECRET, tolerance=10**9
        )


def test_replayed_copy_has_an_old_signature(client, listening):
    listening.faults.switch_on("webhook_replay", count=1, delay_seconds=301)
    client.v1.customers.create({})

    real, old = listening.pop_deliveries()

    assert real.headers["Stripe-Signature"].startswith(f"t={NOW},")
    assert old.headers["Stripe-Signature"].startswith(f"t={NOW - 301},")
    assert real.body == old.body


def test_one_change_is_told_in_two_events(client, listening):
    listening.forward("http://other/hook", SECRET)
    listening.faults.switch_on("webhook_second_event", count=1)
    customer = client.v1.customers.create({"email": "a@example.com"})
    client.v1.products.create({"name": "x"})

    told = [(each.url, json.loads(each.body)) for each in listening.pop_deliveries()]
    twins = [(url, body) for url, body in told if body["type"] == "customer.created"]
    ids = list(dict.fromkeys(body["id"] for _, body in twins))

    assert len(told) == 6
    assert [(url, body["id"]) for url, body in twins] == [
        (url, event_id) for event_id in ids for url in ("http://app/hook", "http://other/hook")
    ]
    assert len(ids) == 2
    first, second = (client.v1.events.retrieve(each).to_dict() for each in ids)
    assert {key for key in first if first[key] != second[key]} == {"id"}
    assert first["data"]["object"]["id"] == customer.id
    assert len(client.v1.events.list({"type": "customer.created"}).data) == 2


def test_second_events_are_not_told_twice_themselves(client, listening):
    listening.faults.switch_on("webhook_second_event")
    client.v1.customers.create({})

    first = listening.pop_deliveries()
    for delivery in first:
        listening.report_delivery(delivery, 500)
    listening.clock.advance(60)
    again = listening.pop_deliveries()

    assert len({delivery.event_id for delivery in first}) == len(first) == 2
    assert [each.event_id for each in again] == [each.event_id for each in first]


def test_thin_events_can_be_told_twice(shop, emulator):
    emulator.forward("http://app/thin", SECRET, thin=True)
    emulator.faults.switch_on("webhook_second_event")
    emulator.settings.change(unknown_usage="report")
    shop.client.v1.billing.meters.deactivate(shop.meter.id)
    shop.send("one")
    emulator.clock.advance(10)

    notices = [json.loads(delivery.body) for delivery in emulator.pop_deliveries()]
    fetched = [shop.client.v2.core.events.retrieve(notice["id"]) for notice in notices]

    assert len({notice["id"] for notice in notices}) == len(notices) == 2
    assert ["data" in notice for notice in notices] == [False, False]
    assert [event.data.reason.error_count for event in fetched] == [1, 1]


@pytest.mark.parametrize(("key", "schemes"), [("sk_test_x", "v1 v0"), ("sk_live_x", "v1")])
def test_test_mode_adds_a_signature_of_another_scheme(transport, listening, key, schemes):
    stripe.StripeClient(key, http_client=transport).v1.customers.create({})

    [delivery] = listening.pop_deliveries()
    parts = delivery.headers["Stripe-Signature"].split(",")

    assert [part.partition("=")[0] for part in parts] == ["t", *schemes.split()]


@pytest.mark.parametrize(("after", "former_signs"), [(3599, True), (3600, False)])
def test_former_secret_signs_for_a_while(client, listening, after, former_signs):
    listening.settings.change(rolled_secret_seconds=3600)
    listening.forward("http://app/hook", "whsec_new")
    listening.clock.advance(after)
    client.v1.customers.create({})

    [delivery] = listening.pop_deliveries()
    header = delivery.headers["Stripe-Signature"]

    assert client.construct_event(delivery.body, header, "whsec_new", tolerance=10**9)
    if former_signs:
        assert client.construct_event(delivery.body, header, SECRET, tolerance=10**9)
    else:
        with pytest.raises(stripe.SignatureVerificationError):
            client.construct_event(delivery.body, header, SECRET, tolerance=10**9)


def test_change_has_two_events_at_most_however_many_hear_of_it(client, listening):
    listening.forward("http://other/hook", SECRET)
    listening.faults.switch_on("webhook_second_event")
    client.v1.customers.create({})

    told = listening.pop_deliveries()

    assert len(told) == 4
    assert len({delivery.event_id for delivery in told}) == 2


def test_repeat_of_a_delivery_makes_no_second_event(client, listening):
    client.v1.customers.create({})
    [first] = listening.pop_deliveries()
    listening.report_delivery(first, 500)
    listening.faults.switch_on("webhook_second_event")
    listening.clock.advance(60)

    assert [each.event_id for each in listening.pop_deliveries()] == [first.event_id]
