"""v2: single events, sessions, the stream, adjustments, and its rules of idempotency."""

import json
from datetime import UTC, datetime

import pytest
import stripe

from stripe_emulator import Request

from .conftest import NOW, make_meter

pytestmark = pytest.mark.unit


def iso(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def event(shop, identifier, value="1", *, at=NOW, name="tokens", customer=None):
    return {
        "event_name": name,
        "payload": {"stripe_customer_id": customer or shop.customer.id, "value": value},
        "identifier": identifier,
        "timestamp": iso(at),
    }


@pytest.fixture
def session(client):
    return client.v2.billing.meter_event_session.create()


@pytest.fixture
def stream(client, session):
    def send(*events, token=session.authentication_token):
        return client.v2.billing.meter_event_stream.create(
            {"events": list(events)}, {"api_key": token}
        )

    return send


def verdicts(emulator):
    return [each.verdict for each in list(emulator.arrivals)[-1].events]


def reports(client, emulator):
    emulator.clock.advance(10)
    return [client.v2.core.events.retrieve(each.id) for each in client.v2.core.events.list({}).data]


def test_single_event_counts(shop):
    made = shop.client.v2.billing.meter_events.create(event(shop, "one", "2.5", at=NOW - 5))

    assert made.to_dict()["timestamp"] == "2026-11-23T11:59:55.000Z"
    assert (made.identifier, made.object) == ("one", "v2.billing.meter_event")
    assert shop.total() == 2.5


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"event_name": "nothing"}, "no_meter"),
        ({"payload": {"value": "1"}}, "payload_no_customer_defined"),
        ({"payload": {"stripe_customer_id": "CUSTOMER"}}, "payload_no_value_defined"),
        ({"payload": {"stripe_customer_id": "CUSTOMER", "value": "x"}}, "payload_invalid_value"),
        (
            {"payload": {"stripe_customer_id": "CUSTOMER", "value": "1" * 16}},
            "payload_invalid_value",
        ),
    ],
)
def test_single_event_is_refused_at_once(shop, change, code):
    params = event(shop, "one") | change
    params["payload"] = {
        k: shop.customer.id if v == "CUSTOMER" else v for k, v in params["payload"].items()
    }

    with pytest.raises(stripe.StripeError) as caught:
        shop.client.v2.billing.meter_events.create(params)

    assert (caught.value.http_status, caught.value.code) == (400, code)
    assert shop.total() == 0


def test_single_event_of_an_inactive_meter_is_refused(shop):
    shop.client.v1.billing.meters.deactivate(shop.meter.id)

    with pytest.raises(stripe.StripeError) as caught:
        shop.client.v2.billing.meter_events.create(event(shop, "one"))

    assert caught.value.code == "archived_meter"


def test_v1_and_v2_share_identifiers(shop):
    shop.send("one")

    with pytest.raises(stripe.StripeError) as caught:
        shop.client.v2.billing.meter_events.create(event(shop, "one"))

    assert caught.value.code == "duplicate_meter_event"
    assert shop.total() == 1


def test_single_event_with_an_unknown_customer_is_reported_later(shop, emulator):
    shop.client.v2.billing.meter_events.create(event(shop, "one", customer="cus_nobody"))

    [report] = reports(shop.client, emulator)

    assert report.data.reason.error_types[0].code == "meter_event_customer_not_found"


def test_two_calls_at_once_for_a_pair_have_their_code(shop, emulator):
    emulator.settings.change(one_call_per_pair=True)
    request = Request(
        "POST",
        "/v2/billing/meter_events",
        headers={"authorization": "Bearer sk_test_x", "stripe-version": "2026-10-28.endive"},
        body=json.dumps(event(shop, "one")).encode(),
    )
    first = emulator.begin(request)
    second = emulator.begin(request)
    emulator.finish(second)
    emulator.finish(first)

    assert (first.status, second.status) == (200, 429)
    assert json.loads(second.body)["error"]["code"] == "too_many_concurrent_requests"


def test_session_lasts_fifteen_minutes(session):
    assert (str(session.created), str(session.expires_at)) == (
        "2026-11-23T12:00:00.000Z",
        "2026-11-23T12:15:00.000Z",
    )


@pytest.mark.parametrize(("after", "open_"), [(899, True), (900, False)])
def test_expired_session_says_so(shop, stream, emulator, after, open_):
    emulator.clock.advance(after)

    if open_:
        stream(event(shop, "one"))
    else:
        with pytest.raises(stripe.TemporarySessionExpiredError) as caught:
            stream(event(shop, "one"))
        assert caught.value.code == "billing_meter_event_session_expired"

    assert shop.total() == int(open_)


def test_session_expires_early_on_request(shop, stream, emulator):
    emulator.faults.switch_on("session_expired", count=1)
    shop.client.v1.customers.list()

    with pytest.raises(stripe.TemporarySessionExpiredError):
        stream(event(shop, "one"))
    stream(event(shop, "one"))

    assert shop.total() == 1


def test_secret_key_does_not_open_the_stream(shop, stream):
    with pytest.raises(stripe.StripeError) as caught:
        stream(event(shop, "one"), token="sk_test_emulator")

    assert caught.value.http_status == 401
    assert shop.total() == 0


def test_token_opens_nothing_but_the_stream(session, transport):
    with pytest.raises(stripe.AuthenticationError):
        stripe.StripeClient(session.authentication_token, http_client=transport).v1.customers.list()


@pytest.mark.parametrize(
    ("base", "served"),
    [
        ("https://meter-events.stripe.com", True),
        ("https://api.stripe.com", False),
        ("http://127.0.0.1:12111", True),
    ],
)
def test_stream_is_served_on_its_own_host(shop, session, transport, base, served):
    client = stripe.StripeClient(
        session.authentication_token, http_client=transport, base_addresses={"meter_events": base}
    )
    send = client.v2.billing.meter_event_stream.create

    if served:
        send({"events": [event(shop, "one")]})
    else:
        with pytest.raises(stripe.StripeError):
            send({"events": [event(shop, "one")]})

    assert shop.total() == int(served)


def test_stream_says_nothing_about_any_event(shop, stream, emulator):
    answer = stream(
        event(shop, "good", "2"),
        event(shop, "bad", "x"),
        event(shop, "good", "2"),
        event(shop, "nobody", customer="cus_nobody"),
        event(shop, "lost", name="nothing"),
        event(shop, "old", at=NOW - 36 * 86_400),
        event(shop, "new", at=NOW + 301),
        event(shop, "digits", "1" * 16),
    )

    assert answer is None
    assert verdicts(emulator) == [
        "accepted",
        "refused:invalid_value",
        "duplicate",
        "refused:customer_not_found",
        "refused:no_meter",
        "refused:timestamp_too_far_in_past",
        "refused:timestamp_in_future",
        "refused:value_too_many_digits",
    ]
    assert shop.total() == 2


def test_report_counts_all_and_names_samples(shop, stream, emulator):
    emulator.settings.change(report_samples=2)
    stream(
        *(event(shop, f"bad{i}", "x") for i in range(5)), event(shop, "n", customer="cus_nobody")
    )

    [report] = reports(shop.client, emulator)

    reason = report.data.reason
    assert report.type == "v1.billing.meter.error_report_triggered"
    assert report.related_object.id == shop.meter.id
    assert reason.error_count == 6
    assert [
        (t.code, t.error_count, [s.request.identifier for s in t.sample_errors])
        for t in reason.error_types
    ] == [
        ("meter_event_invalid_value", 5, ["bad0", "bad1"]),
        ("meter_event_customer_not_found", 1, ["n"]),
    ]
    assert str(report.data.validation_start) == "2026-11-23T12:00:00.000Z"
    assert str(report.data.validation_end) == "2026-11-23T12:00:10.000Z"


def test_report_of_live_mode_is_live(transport, emulator):
    live = stripe.StripeClient("sk_live_x", http_client=transport)
    make_meter(live)
    token = live.v2.billing.meter_event_session.create().authentication_token
    bad = {"event_name": "tokens", "payload": {"value": "1"}}
    live.v2.billing.meter_event_stream.create({"events": [bad]}, {"api_key": token})

    [report] = reports(live, emulator)

    assert report.livemode is True
    assert report.data.reason.error_types[0].code == "meter_event_no_customer_defined"
    test = stripe.StripeClient("sk_test_x", http_client=transport)
    assert test.v2.core.events.list({}).data == []
    with pytest.raises(stripe.StripeError) as caught:
        test.v2.core.events.retrieve(report.id)
    assert caught.value.http_status == 404


def test_unknown_meter_has_a_report_of_its_own(shop, stream, emulator):
    stream(event(shop, "lost", name="nothing"))

    [report] = reports(shop.client, emulator)

    assert report.type == "v1.billing.meter.no_meter_found"
    assert report.data.reason.error_types[0].code == "no_meter"


def test_report_comes_when_its_window_is_over(shop, stream, emulator):
    stream(event(shop, "bad", "x"))
    emulator.clock.advance(9)
    early = shop.client.v2.core.events.list({}).data
    emulator.clock.advance(1)

    assert early == []
    assert len(shop.client.v2.core.events.list({}).data) == 1


def test_duplicates_in_the_stream_are_dropped_in_silence(shop, stream, emulator):
    stream(event(shop, "one"), event(shop, "one"))

    assert reports(shop.client, emulator) == []


def test_partial_rejection_on_request(shop, stream, emulator):
    emulator.faults.switch_on("reject_in_stream", count=3, skip=1)
    stream(*(event(shop, f"e{i}") for i in range(10)))

    assert verdicts(emulator) == ["accepted"] + ["refused:on_request"] * 3 + ["accepted"] * 6
    assert shop.total() == 7
    assert reports(shop.client, emulator)[0].data.reason.error_count == 3


@pytest.mark.parametrize("count", [0, 101])
def test_stream_takes_one_to_a_hundred(shop, stream, count):
    events = [event(shop, f"e{i}") for i in range(count)]

    if count > 100:
        with pytest.raises(stripe.StripeError):
            stream(*events)
        assert shop.total() == 0
    else:
        assert stream(*events) is None


def test_stream_takes_a_hundred(shop, stream):
    stream(*(event(shop, f"e{i}") for i in range(100)))

    assert shop.total() == 100


@pytest.mark.parametrize("moment", [NOW, "yesterday", "2026-11-23", "2026-11-23T12:00:00"])
def test_timestamps_must_be_rfc_3339(shop, moment):
    with pytest.raises(stripe.StripeError) as caught:
        shop.client.v2.billing.meter_events.create(event(shop, "one") | {"timestamp": moment})

    assert caught.value.http_status == 400
    assert shop.total() == 0


def test_timestamp_with_an_offset_is_the_same_instant(shop):
    shop.client.v2.billing.meter_events.create(
        event(shop, "one") | {"timestamp": "2026-11-23T13:59:59.9+02:00"}
    )

    assert shop.total(NOW - 60, NOW) == 1


def test_version_header_is_needed(emulator):
    reply = emulator.handle(
        Request(
            "POST",
            "/v2/billing/meter_event_session",
            headers={"authorization": "Bearer sk_test_x"},
            body=b"{}",
        )
    )

    assert reply.status == 400
    assert json.loads(reply.body)["error"]["code"] == "missing_version"


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"a=b"])
def test_bad_json_is_refused(emulator, body):
    headers = {"authorization": "Bearer sk_test_x", "stripe-version": "2026-10-28.endive"}
    reply = emulator.handle(Request("POST", "/v2/billing/meter_events", headers=headers, body=body))

    assert reply.status == 400


def test_v2_replays_successes_and_runs_failures_again(shop):
    options = {"idempotency_key": "k"}
    missing = event(shop, "one", name="later")
    with pytest.raises(stripe.StripeError):
        shop.client.v2.billing.meter_events.create(missing, options)
    make_meter(shop.client, "later")

    first = shop.client.v2.billing.meter_events.create(missing, options)
    again = shop.client.v2.billing.meter_events.create(missing, options)

    assert first.identifier == again.identifier == "one"
    assert again.last_response.headers["Idempotent-Replayed"] == "true"


def test_v2_key_lives_thirty_days(shop, emulator):
    options = {"idempotency_key": "k"}
    first = shop.client.v2.billing.meter_event_session.create({}, options)
    emulator.clock.advance(30 * 86_400 - 1)
    same = shop.client.v2.billing.meter_event_session.create({}, options)
    emulator.clock.advance(1)
    other = shop.client.v2.billing.meter_event_session.create({}, options)

    assert same.id == first.id
    assert other.id != first.id


def test_v2_key_with_other_parameters_is_a_mismatch(shop):
    options = {"idempotency_key": "k"}
    shop.client.v2.billing.meter_events.create(event(shop, "one"), options)

    with pytest.raises(stripe.IdempotencyError):
        shop.client.v2.billing.meter_events.create(event(shop, "two"), options)


def test_v2_500_after_the_work_runs_again_and_meets_its_own_identifier(shop):
    shop.emulator.faults.switch_on("500_after", count=1)
    options = {"idempotency_key": "k"}
    codes = []
    for _ in range(2):
        with pytest.raises(stripe.StripeError) as caught:
            shop.client.v2.billing.meter_events.create(event(shop, "one"), options)
        codes.append((caught.value.http_status, caught.value.code))

    assert codes == [(500, None), (400, "duplicate_meter_event")]
    assert shop.total() == 1


def test_thin_events_page_by_url_and_keep_their_filter(shop, stream, emulator):
    for index in range(5):
        stream(event(shop, f"bad{index}", "x"), event(shop, f"lost{index}", name="nothing"))
        emulator.clock.advance(10)

    page = shop.client.v2.core.events.list(
        {"limit": 2, "types": ["v1.billing.meter.no_meter_found"]}
    )
    found = list(page.auto_paging_iter())

    assert len(found) == 5
    assert {each.type for each in found} == {"v1.billing.meter.no_meter_found"}
    assert [str(each.created) for each in found] == sorted(
        (str(each.created) for each in found), reverse=True
    )


def test_thin_events_filter_by_object_and_time(shop, stream, emulator):
    stream(event(shop, "bad", "x"), event(shop, "lost", name="nothing"))
    emulator.clock.advance(10)
    listed = shop.client.v2.core.events.list

    assert [each.type for each in listed({"object_id": shop.meter.id}).data] == [
        "v1.billing.meter.error_report_triggered"
    ]
    assert len(listed({"created": {"gte": iso(NOW + 10)}}).data) == 2
    assert listed({"created": {"gt": iso(NOW + 10)}}).data == []
    assert listed({"created": {"lt": iso(NOW + 10)}}).data == []


def test_thin_delivery_is_a_notice_the_sdk_can_follow(shop, stream, emulator):
    emulator.forward("http://app/thin", "whsec_thin", thin=True)
    emulator.forward("http://app/snapshot", "whsec_snapshot")
    stream(event(shop, "bad", "x"))
    emulator.clock.advance(10)

    [delivery] = [each for each in emulator.pop_deliveries() if each.url.endswith("thin")]
    notice = shop.client.parse_event_notification(
        delivery.body, delivery.headers["Stripe-Signature"], "whsec_thin", tolerance=10**9
    )

    assert "data" not in json.loads(delivery.body)
    assert notice.fetch_event().data.reason.error_count == 1
    assert notice.fetch_related_object().id == shop.meter.id


class TestAdjustments:
    def cancel(self, shop, identifier, name="tokens"):
        return shop.client.v1.billing.meter_event_adjustments.create(
            {"event_name": name, "type": "cancel", "cancel": {"identifier": identifier}}
        )

    def test_cancelled_event_no_longer_counts(self, shop):
        shop.send("one", "5")
        shop.send("two", "2")

        made = self.cancel(shop, "one")

        assert made.to_dict() == {
            "object": "billing.meter_event_adjustment",
            "cancel": {"identifier": "one"},
            "event_name": "tokens",
            "livemode": False,
            "status": "pending",
            "type": "cancel",
        }
        assert shop.total() == 2
        assert shop.emulator.truth.as_dict()["event_names"] == {"tokens": {"count": 1, "sum": "2"}}

    @pytest.mark.parametrize(("after", "possible"), [(86_399, True), (86_400, False)])
    def test_a_day_from_receipt_and_not_from_the_timestamp(self, shop, after, possible):
        shop.send("one", "5", at=NOW - 10 * 86_400)
        shop.emulator.clock.advance(after)

        if possible:
            self.cancel(shop, "one")
        else:
            with pytest.raises(stripe.InvalidRequestError, match="24 hours"):
                self.cancel(shop, "one")

        assert shop.total(NOW - 11 * 86_400, NOW) == (0 if possible else 5)

    @pytest.mark.parametrize(("identifier", "name"), [("nothing", "tokens"), ("one", "other")])
    def test_what_is_not_there_cannot_be_cancelled(self, shop, identifier, name):
        make_meter(shop.client, "other")
        shop.send("one", "5")

        with pytest.raises(stripe.InvalidRequestError):
            self.cancel(shop, identifier, name)

        assert shop.total() == 5

    def test_once_only(self, shop):
        shop.send("one", "5")
        self.cancel(shop, "one")

        with pytest.raises(stripe.InvalidRequestError, match="already been cancelled"):
            self.cancel(shop, "one")

        assert shop.total() == 0

    def test_cancelled_identifier_stays_taken(self, shop):
        shop.send("one", "5")
        self.cancel(shop, "one")

        with pytest.raises(stripe.InvalidRequestError, match="already exists"):
            shop.send("one", "5")

    def test_cancelled_before_it_counts_never_counts(self, shop):
        shop.emulator.settings.change(settle_lag_seconds=60)
        shop.send("one", "5")
        self.cancel(shop, "one")
        shop.emulator.clock.advance(3600)

        assert shop.total() == 0

    def test_cancelling_lags_like_counting(self, shop):
        shop.send("one", "5")
        shop.emulator.settings.change(settle_lag_seconds=60)
        self.cancel(shop, "one")
        before = shop.total()
        shop.emulator.clock.advance(60)

        assert (before, shop.total()) == (5, 0)

    def test_v2_has_an_id_and_its_own_error(self, shop):
        shop.send("one", "5")
        made = shop.client.v2.billing.meter_event_adjustments.create(
            {"event_name": "tokens", "type": "cancel", "cancel": {"identifier": "one"}}
        )
        with pytest.raises(stripe.StripeError) as caught:
            shop.client.v2.billing.meter_event_adjustments.create(
                {"event_name": "tokens", "type": "cancel", "cancel": {"identifier": "one"}}
            )

        assert made.id.startswith("mtr_event_adj_")
        assert (caught.value.http_status, caught.value.code) == (
            400,
            "invalid_cancel_configuration",
        )
        assert shop.total() == 0

    def test_former_value_of_a_window_comes_back(self, client, shop):
        meter = make_meter(client, "running", "last", event_time_window="day")
        for identifier, value in (("a", "5"), ("b", "9")):
            client.v1.billing.meter_events.create(
                {
                    "event_name": "running",
                    "identifier": identifier,
                    "payload": {"stripe_customer_id": shop.customer.id, "value": value},
                }
            )
        self.cancel(shop, "b", "running")

        page = client.v1.billing.meters.event_summaries.list(
            meter.id,
            {"customer": shop.customer.id, "start_time": NOW - 3600, "end_time": NOW + 3600},
        )
        assert page.data[0].aggregated_value == 5


def test_only_the_latest_sessions_are_kept(shop, client, monkeypatch):
    monkeypatch.setattr("stripe_emulator.core.sessions.KEPT", 2)
    tokens = [client.v2.billing.meter_event_session.create().authentication_token for _ in range(3)]
    create = client.v2.billing.meter_event_stream.create

    with pytest.raises(stripe.StripeError):
        create({"events": [event(shop, "old")]}, {"api_key": tokens[0]})
    for index, token in enumerate(tokens[1:]):
        create({"events": [event(shop, str(index))]}, {"api_key": token})

    assert shop.total() == 2
