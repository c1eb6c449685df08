"""The emulator's own books: arrivals, truth, violations, and the control API."""

import json
from pathlib import Path

import pytest
import stripe

from stripe_emulator import Request, Settings
from stripe_emulator.control import Control
from stripe_emulator.core.faults import KINDS
from stripe_emulator.core.truth import Truth

from .conftest import NOW

pytestmark = pytest.mark.unit
HOUR = 3600


def test_every_request_is_logged_with_its_verdict(shop):
    shop.emulator.faults.switch_on("answer_lost", path="/v1/billing/meter_events", count=1)
    shop.emulator.faults.switch_on("drop_before", path="/v1/billing/meter_events", count=1)
    for _ in range(2):
        with pytest.raises(stripe.APIConnectionError):
            shop.send("one", options={"idempotency_key": "k"})
    for identifier, value in (("one", "1"), ("two", "x")):
        with pytest.raises(stripe.InvalidRequestError):
            shop.send(identifier, value)
    shop.send("one", options={"idempotency_key": "k"})

    log = [
        (a.status, a.verdict, a.fault, [e.verdict for e in a.events])
        for a in shop.emulator.arrivals
    ][2:]

    assert log == [
        (200, "accepted", "answer_lost", ["accepted"]),
        (0, "dropped", "drop_before", []),
        (400, "duplicate", None, ["duplicate"]),
        (400, "refused", None, ["refused:invalid_value"]),
        (200, "replayed", None, []),
    ]


def test_arrival_holds_what_a_judge_needs(shop):
    shop.send("one", "2.50", at=NOW - 5, options={"idempotency_key": "k"})

    arrival = shop.emulator.arrivals.read(after=2, limit=1)[0]

    assert (arrival.number, arrival.at, arrival.method, arrival.path) == (
        3,
        NOW,
        "POST",
        "/v1/billing/meter_events",
    )
    assert (arrival.idempotency_key, arrival.livemode, arrival.key) == ("k", False, "sk_test_…ator")
    assert arrival.params["payload"] == {"stripe_customer_id": shop.customer.id, "value": "2.50"}
    event = arrival.events[0]
    assert (event.identifier, event.timestamp, event.customer, event.value) == (
        "one",
        NOW - 5,
        shop.customer.id,
        "2.50",
    )


def test_truth_is_per_name_customer_and_hour(shop):
    other = shop.client.v1.customers.create({})
    shop.send("a", "1.5", at=NOW - HOUR)
    shop.send("b", "2", at=NOW - 1)
    shop.send("c", "3", at=NOW)
    shop.client.v1.billing.meter_events.create(
        {
            "event_name": "tokens",
            "payload": {"stripe_customer_id": other.id, "value": "-1"},
            "timestamp": NOW,
        }
    )

    mine, theirs = shop.customer.id, other.id
    truth = shop.emulator.truth.as_dict()

    assert truth == {
        "event_names": {"tokens": {"count": 4, "sum": "5.5"}},
        "customers": [
            {"customer": mine, "event_name": "tokens", "count": 3, "sum": "6.5"},
            {"customer": theirs, "event_name": "tokens", "count": 1, "sum": "-1"},
        ],
        "cells": [
            {
                "customer": mine,
                "event_name": "tokens",
                "hour": NOW - HOUR,
                "count": 2,
                "sum": "3.5",
            },
            {"customer": mine, "event_name": "tokens", "hour": NOW, "count": 1, "sum": "3"},
            {"customer": theirs, "event_name": "tokens", "hour": NOW, "count": 1, "sum": "-1"},
        ],
    }
    assert Truth.folded(shop.emulator.arrivals).as_dict() == truth


def test_identifier_with_two_payloads_is_a_violation(shop):
    shop.send("one", "1")
    with pytest.raises(stripe.InvalidRequestError):
        shop.send("one", "2")

    assert dict(shop.emulator.world.violations.counts) == {"identifier_with_two_payloads": 1}
    assert shop.emulator.world.violations.kept[0].detail == {"identifier": "one"}


def test_plain_repeat_is_no_violation(shop):
    shop.send("one")
    with pytest.raises(stripe.InvalidRequestError):
        shop.send("one")

    assert dict(shop.emulator.world.violations.counts) == {}


def test_identifier_after_its_window_is_a_violation(shop):
    shop.send("one")
    shop.emulator.clock.advance(86_400)
    shop.send("one")

    assert dict(shop.emulator.world.violations.counts) == {"identifier_after_window": 1}


@pytest.mark.parametrize("at", [NOW - 36 * 86_400, NOW + 600])
def test_timestamp_out_of_range_is_a_violation(shop, at):
    with pytest.raises(stripe.InvalidRequestError):
        shop.send("one", at=at)

    assert dict(shop.emulator.world.violations.counts) == {"timestamp_out_of_range": 1}


def control(emulator, method, path, body=None):
    name, _, query = path.partition("?")
    raw = b"" if body is None else json.dumps(body).encode()
    reply = Control(emulator).handle(Request(method, f"/_emulator/{name}", query, {}, raw))
    return reply.status, json.loads(reply.body)


def test_control_reads_arrivals_in_pages(shop):
    for index in range(5):
        shop.send(str(index))

    status, first = control(shop.emulator, "GET", "arrivals?after=2&limit=3")
    _, rest = control(shop.emulator, "GET", f"arrivals?after={first['next_after']}&limit=3")

    assert status == 200
    assert [each["number"] for each in first["arrivals"]] == [3, 4, 5]
    assert ([each["number"] for each in rest["arrivals"]], rest["total"]) == ([6, 7], 7)


def test_control_truth_can_be_recounted_and_narrowed(shop):
    shop.send("one", "3")

    _, truth = control(shop.emulator, "GET", "truth?recount=1")
    _, nothing = control(shop.emulator, "GET", "truth?customer=cus_nobody")

    assert truth == shop.emulator.truth.as_dict()
    assert (nothing["cells"], nothing["customers"]) == ([], [])


def test_control_moves_the_clock(emulator):
    assert control(emulator, "POST", "clock", {"now": NOW + 5, "frozen": True})[1] == {
        "now": NOW + 5,
        "frozen": True,
    }
    assert control(emulator, "POST", "clock", {"advance_seconds": 10})[1] == {
        "now": NOW + 15,
        "frozen": True,
    }
    assert control(emulator, "POST", "clock", {"real": True})[1] == {"now": NOW, "frozen": False}
    assert control(emulator, "POST", "clock", {"sideways": 1})[0] == 400
    assert control(emulator, "GET", "clock")[1]["now"] == NOW


def test_control_switches_faults(emulator):
    status, rule = control(emulator, "POST", "faults", {"kind": "503", "count": 2})
    _, listed = control(emulator, "GET", "faults")
    _, after = control(emulator, "DELETE", f"faults?id={rule['id']}")

    assert status == 200
    assert [each["kind"] for each in listed["faults"]] == ["503"]
    assert after == {"faults": []}
    for wrong in (
        {"kind": "nothing"},
        {"kind": "503", "probability": 2},
        {"kind": "503", "count": "x"},
        {},
    ):
        assert control(emulator, "POST", "faults", wrong)[0] == 400


def test_control_changes_settings(emulator):
    assert (
        control(emulator, "POST", "settings", {"settle_lag_seconds": 5})[1]["settle_lag_seconds"]
        == 5
    )
    assert control(emulator, "POST", "settings", {"nothing": 5})[0] == 400


def test_control_resets_everything_but_the_forwards(shop):
    shop.emulator.forward("http://app/hook", "whsec_x")
    shop.send("one")
    shop.emulator.faults.switch_on("503")
    control(shop.emulator, "POST", "reset")

    assert len(shop.emulator.arrivals) == 0
    assert shop.client.v1.customers.list().data == []
    assert shop.emulator.truth.as_dict()["cells"] == []
    assert [endpoint["url"] for endpoint in shop.emulator.world.webhook_endpoints] == [
        "http://app/hook"
    ] * 2


def test_control_says_what_it_has(emulator):
    status, answer = control(emulator, "GET", "nothing")

    assert status == 404
    assert "GET /_emulator/truth" in answer["known"]
    assert control(emulator, "GET", "health")[1]["status"] == "ok"


def test_browsers_icon_is_no_arrival(emulator):
    reply = Control(emulator).handle(Request("GET", "/favicon.ico"))

    assert (Control.owns("/favicon.ico"), reply.status, len(emulator.arrivals)) == (True, 204, 0)


def test_page_escapes_and_shows_state(shop):
    shop.client.v1.customers.create({"name": "<script>alert(1)</script>"})
    shop.send("one")

    html = Control(shop.emulator).handle(Request("GET", "/")).body.decode()

    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html
    assert "tokens" in html
    assert "billing.meter.created" in html


def test_page_shows_every_kind_of_violation_although_few_are_kept(shop, monkeypatch):
    monkeypatch.setattr("stripe_emulator.core.violations.KEPT", 1)
    shop.send("one", "1")
    with pytest.raises(stripe.InvalidRequestError):
        shop.send("one", "2")
    with pytest.raises(stripe.InvalidRequestError):
        shop.send("two", at=NOW + 600)

    html = Control(shop.emulator).handle(Request("GET", "/")).body.decode()

    assert len(shop.emulator.world.violations.kept) == 1
    assert "identifier_with_two_payloads" in html
    assert "timestamp_out_of_range" in html


def test_every_kind_of_fault_has_a_test():
    sources = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]

    assert [kind for kind in KINDS if not any(f'"{kind}"' in source for source in sources)] == []


def test_every_setting_is_changed_by_a_test():
    sources = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    settings = Settings().as_dict()

    assert [name for name in settings if not any(f"{name}=" in source for source in sources)] == []


def test_identifier_window_can_be_longer(shop):
    shop.emulator.settings.change(identifier_window_seconds=3 * 86_400)
    shop.send("one")
    shop.emulator.clock.advance(3 * 86_400 - 1)
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        shop.send("one")
    shop.emulator.clock.advance(1)
    shop.send("one")

    assert shop.total() == 2


def test_other_windows_can_be_shorter(shop):
    shop.emulator.settings.change(
        idempotency_window_seconds=10,
        idempotency_window_v2_seconds=10,
        session_seconds=5,
        adjustment_span_seconds=5,
        report_window_seconds=1,
    )
    first = shop.client.v1.customers.create({}, {"idempotency_key": "k"}).id
    session = shop.client.v2.billing.meter_event_session.create({}, {"idempotency_key": "k"})
    shop.send("one")
    shop.emulator.clock.advance(5)
    with pytest.raises(stripe.TemporarySessionExpiredError):
        shop.client.v2.billing.meter_event_stream.create(
            {"events": []}, {"api_key": session.authentication_token}
        )
    with pytest.raises(stripe.InvalidRequestError, match="more than"):
        shop.client.v1.billing.meter_event_adjustments.create(
            {"event_name": "tokens", "type": "cancel", "cancel": {"identifier": "one"}}
        )
    shop.emulator.clock.advance(5)

    assert shop.client.v1.customers.create({}, {"idempotency_key": "k"}).id != first
    assert (
        shop.client.v2.billing.meter_event_session.create({}, {"idempotency_key": "k"}).id
        != session.id
    )


def test_first_payment_can_be_waited_for_longer(shop, base_price):
    shop.emulator.settings.change(first_payment_hours=48)
    made = shop.client.v1.subscriptions.create(
        {
            "customer": shop.customer.id,
            "items": [{"price": base_price.id}],
            "payment_behavior": "default_incomplete",
        }
    )
    shop.emulator.clock.advance(47 * HOUR)

    assert shop.client.v1.subscriptions.retrieve(made.id).status == "incomplete"


def test_a_mistake_of_the_emulators_own_is_loud_and_leaves_nothing_in_flight(shop, monkeypatch):
    def broken(*_, **__):
        raise LookupError("a mistake")

    monkeypatch.setattr("stripe_emulator.core.intake.ruling", broken)
    with pytest.raises(LookupError, match="a mistake"):
        shop.send("one", options={"idempotency_key": "k"})
    monkeypatch.undo()

    assert shop.send("one", options={"idempotency_key": "k"}).identifier == "one"
    assert dict(shop.emulator.world.violations.counts) == {}
