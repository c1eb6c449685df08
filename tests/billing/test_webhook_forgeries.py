"""Ten thousand bodies that Stripe did not sign for us just now, and none of them gets in (F72)."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from datetime import UTC, datetime

import pytest
import time_machine

from billing.models import WebhookEvent

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

NOW = datetime(2026, 11, 20, 12, 30, 15, tzinfo=UTC)
SECOND = int(NOW.timestamp())
SNAPSHOT, THIN = "/webhooks/stripe", "/webhooks/stripe/thin"


def signed(body, secret, *, at=SECOND, scheme="v1"):
    digest = hmac.new(secret.encode(), b"%d.%b" % (at, body), hashlib.sha256).hexdigest()
    return f"t={at},{scheme}={digest}"


def snapshot(number):
    return json.dumps(
        {
            "id": f"evt_{number}",
            "object": "event",
            "type": "invoice.paid",
            "livemode": False,
            "data": {"object": {"id": f"in_{number}"}},
        }
    ).encode()


def thin(number):
    return json.dumps(
        {
            "id": f"evt_thin_{number}",
            "object": "v2.core.event",
            "type": "v1.billing.meter.no_meter_found",
            "livemode": False,
        }
    ).encode()


MADE = {SNAPSHOT: snapshot, THIN: thin}


class Forger:
    """Knows how deliveries look and has captured genuine ones, but has no secret of ours."""

    def __init__(self, secrets):
        self.secrets = secrets
        self.draw = random.Random(72)  # noqa: S311 - a repeatable attack

    def forgery(self, kind, path, body):
        """Return a body and a header, or no header."""
        return getattr(self, kind)(path, body, self.secrets[path][0])

    def wrong_secret(self, _path, body, secret):
        wrong = self.draw.choice(["whsec_guess", secret[:-1], secret + "s", secret.upper()])
        return body, signed(body, wrong)

    def other_endpoints_secret(self, path, body, _):
        [other] = {SNAPSHOT, THIN} - {path}
        return body, signed(body, self.secrets[other][0])

    def body_of_the_other_kind(self, path, _, secret):
        [other] = {SNAPSHOT, THIN} - {path}
        body = MADE[other](self.draw.randrange(10_000))
        return body, signed(body, secret)

    def changed_after_signing(self, _path, body, secret):
        place = self.draw.randrange(len(body))
        changed = bytearray(body)
        changed[place] ^= self.draw.randrange(1, 256)
        return bytes(changed), signed(body, secret)

    def spaced_after_signing(self, _path, body, secret):
        return self.draw.choice([body + b"\n", b" " + body, body.replace(b": ", b":")]), signed(
            body, secret
        )

    def stale(self, _path, body, secret):
        return body, signed(body, secret, at=SECOND - self.draw.choice([301, 302, 3_600, 10**8]))

    def from_the_future(self, _path, body, secret):
        return body, signed(body, secret, at=SECOND + self.draw.choice([301, 302, 3_600, 10**8]))

    def stale_restamped(self, _path, body, secret):
        header = signed(body, secret, at=SECOND - 3_600)
        now = f"t={SECOND}"
        _, _, rest = header.partition(",")
        return body, self.draw.choice([f"{now},{rest}", f"{header},{now}", f"{now},{header}"])

    def without_a_header(self, _path, body, _):
        return body, self.draw.choice([None, "", " ", f"t={SECOND}", "v1=", f"t={SECOND},v1="])

    def older_scheme_only(self, _path, body, secret):
        return body, signed(body, secret, scheme=self.draw.choice(["v0", "v2", "V1"]))

    def several_of_which_none_is_right(self, _path, body, secret):
        wrong = [signed(body, f"whsec_{each}").partition(",")[2] for each in range(3)]
        halves = signed(body, secret).partition("v1=")[2]
        wrong += [f"v1={halves[:32]}", f"v1={halves[32:]}", f"v1={halves.upper()}"]
        self.draw.shuffle(wrong)
        return body, f"t={SECOND},{','.join(wrong)}"

    def nobodys_secret(self, _path, body, _):
        return body, signed(body, self.draw.choice(["", " ", "None", "whsec_"]))

    def truncated(self, _path, body, secret):
        """Signed as it is: not even a good signature makes it an event."""
        short = body[: self.draw.randrange(len(body))]
        return short, signed(short, secret)

    def no_event(self, path, _, secret):
        kind = {SNAPSHOT: "event", THIN: "v2.core.event"}[path]
        odd = [
            None,
            [],
            "evt_1",
            {"object": kind},
            {"object": kind, "id": "evt_1"},
            {"object": kind, "id": "", "type": "invoice.paid"},
            {"object": kind, "id": 7, "type": "invoice.paid"},
            {"object": kind, "id": "evt_\u0000", "type": "invoice.paid"},
            {"object": kind, "id": "e" * 300, "type": "invoice.paid"},
            {"object": kind, "id": "evt_1", "type": ["invoice.paid"]},
        ]
        body = json.dumps(self.draw.choice(odd)).encode()
        return body, signed(body, secret)


KINDS = sorted(name for name in vars(Forger) if not name.startswith("_") and name != "forgery")


@pytest.fixture
def secrets(settings):
    """Two secrets an endpoint, because one is being rolled."""
    settings.STRIPE_WEBHOOK_SECRETS = ["whsec_snapshot_new", "whsec_snapshot_old"]
    settings.STRIPE_THIN_WEBHOOK_SECRETS = ["whsec_thin_new", "whsec_thin_old"]
    with time_machine.travel(NOW, tick=False):
        yield {
            SNAPSHOT: settings.STRIPE_WEBHOOK_SECRETS,
            THIN: settings.STRIPE_THIN_WEBHOOK_SECRETS,
        }


def post(client, path, body, header):
    headers = {} if header is None else {"HTTP_STRIPE_SIGNATURE": header}
    return client.generic("POST", path, body, content_type="application/json", **headers)


def test_of_ten_thousand_forgeries_none_is_taken_and_the_genuine_ones_between_them_are(
    client, secrets, monkeypatch
):
    monkeypatch.setattr("billing.webhooks.views.log.warning", lambda *_, **__: None)
    forger, answers, genuine = Forger(secrets), dict.fromkeys(KINDS, 0), set()
    for number in range(10_000):
        path = (SNAPSHOT, THIN)[number % 2]
        body = MADE[path](number)
        kind = KINDS[number // 2 % len(KINDS)]

        forged, header = forger.forgery(kind, path, body)
        answer = post(client, path, forged, header)

        assert answer.status_code == 400, (kind, forged, header)
        answers[kind] += 1
        if number % 100 < 2:
            secret = secrets[path][number // 100 % 2]
            assert post(client, path, body, signed(body, secret)).status_code == 200
            genuine.add(json.loads(body)["id"])

    assert sum(answers.values()) == 10_000
    assert min(answers.values()) > 700
    assert len(genuine) == 200
    assert set(WebhookEvent.objects.values_list("stripe_event_id", flat=True)) == genuine


@pytest.mark.parametrize("configured", [[], [""], [" "], ["", " "]])
@pytest.mark.parametrize("path", [SNAPSHOT, THIN])
def test_an_endpoint_without_a_secret_is_off_whatever_is_signed_with(
    client, secrets, settings, configured, path
):
    settings.STRIPE_WEBHOOK_SECRETS = settings.STRIPE_THIN_WEBHOOK_SECRETS = configured
    body = MADE[path](1)

    for secret in ("", " ", "whsec_snapshot_new"):
        answer = post(client, path, body, signed(body, secret))
        assert answer.status_code == 400
        assert answer.json()["detail"] == "no webhook secret is configured"
    assert WebhookEvent.objects.count() == 0


def test_a_body_larger_than_any_event_is_refused_unread(client, secrets, settings):
    limit = settings.BILLING_WEBHOOK_BODY_BYTES
    body = snapshot(1)
    for size, status in ((limit, 200), (limit + 1, 413), (4 * limit, 413)):
        padded = body + b" " * (size - len(body))
        answer = post(client, SNAPSHOT, padded, signed(padded, secrets[SNAPSHOT][0]))
        assert answer.status_code == status

    assert WebhookEvent.objects.get().body == (body + b" " * (limit - len(body))).decode()


def test_an_object_that_is_none_is_stored_without_an_id(client, secrets):
    for number, data in enumerate((None, [], {"object": "in_1"}, {"object": {"id": 7}})):
        body = json.dumps(json.loads(snapshot(number)) | {"data": data}).encode()
        assert post(client, SNAPSHOT, body, signed(body, secrets[SNAPSHOT][0])).status_code == 200

    assert set(WebhookEvent.objects.values_list("object_id", flat=True)) == {""}
