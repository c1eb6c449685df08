import json
import random
from datetime import UTC, datetime

import pytest
import stripe

from billing.enums import WebhookKind
from billing.gateway.notifications import NotGenuine, error_report, verify
from billing.gateway.values import (
    ErrorReport,
    ErrorSample,
    Notification,
    ReportedErrors,
    ThinEvent,
)

pytestmark = pytest.mark.unit

SECRET = "whsec_of_the_endpoint"
BODY = json.dumps(
    {
        "id": "evt_1",
        "object": "event",
        "type": "invoice.paid",
        "livemode": False,
        "data": {"object": {"id": "in_1", "object": "invoice", "note": "größer"}},
    },
    ensure_ascii=False,
)
THIN = json.dumps(
    {
        "id": "evt_2",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "livemode": True,
        "related_object": {"id": "mtr_1", "type": "billing.meter"},
    }
)


def signature(now, *, secret=SECRET, body=BODY, seconds=0):
    return stripe.WebhookSignature.generate_signature_header(
        body, secret, int(now.timestamp()) + seconds
    )


def verified(now, *, header=None, body=BODY, secrets=(SECRET,), kind=WebhookKind.SNAPSHOT):
    return verify(
        body=body.encode() if isinstance(body, str) else body,
        signature=signature(now, body=body) if header is None else header,
        secrets=secrets,
        kind=kind,
        now=now,
    )


def test_genuine_snapshot_is_told_by_id_type_object_and_mode(now):
    assert verified(now) == Notification(
        event_id="evt_1", type="invoice.paid", object_id="in_1", live_mode=False
    )


def test_genuine_thin_event_is_told_by_its_related_object(now):
    assert verified(now, body=THIN, kind=WebhookKind.THIN) == Notification(
        event_id="evt_2",
        type="v1.billing.meter.error_report_triggered",
        object_id="mtr_1",
        live_mode=True,
    )


@pytest.mark.parametrize("seconds", [-300, -1, 0, 1, 300])
def test_stamp_within_the_tolerance_is_taken(now, seconds):
    assert verified(now.replace(microsecond=0), header=signature(now, seconds=seconds))


@pytest.mark.parametrize("seconds", [-86_400, -301, 301, 86_400])
def test_stamp_too_old_or_too_far_ahead_is_refused(now, seconds):
    with pytest.raises(NotGenuine, match="300 s"):
        verified(now.replace(microsecond=0), header=signature(now, seconds=seconds))


def test_either_secret_is_good_while_one_is_rolled(now):
    secrets = ("whsec_old", "whsec_new")

    for secret in secrets:
        assert verified(now, header=signature(now, secret=secret), secrets=secrets)
    with pytest.raises(NotGenuine):
        verified(now, secrets=secrets)


def test_one_good_signature_among_several_is_enough(now):
    stamp, _, good = signature(now).partition(",")

    assert verified(now, header=f"{stamp},v1={'0' * 64},{good},v0=abc")


@pytest.mark.parametrize("secrets", [(), ("",), ("  ",)])
def test_without_a_secret_everything_is_refused(now, secrets):
    for secret in ("", "  ", SECRET):
        with pytest.raises(NotGenuine):
            verified(now, header=signature(now, secret=secret), secrets=secrets)


@pytest.mark.parametrize(
    "header",
    ["", "t=", "t=1", "v1=abc", "nonsense", "t=x,v1=y", "t=1,v1=é", "t=1,v0=abc", ",,,", "t=1=2"],
)
def test_malformed_header_is_refused(now, header):
    with pytest.raises(NotGenuine):
        verified(now, header=header)


def test_altered_stamp_is_refused(now):
    old = signature(now, seconds=-1_000)
    stamp, _, rest = old.partition(",")

    for forged in (f"t={int(now.timestamp())},{rest}", f"{stamp}=9,{rest}", f"{old},t=1"):
        with pytest.raises(NotGenuine):
            verified(now, header=forged)


def test_ten_thousand_mutations_are_all_refused(now):
    draw = random.Random(7)  # noqa: S311 - a repeatable shuffle
    header = signature(now)
    refused = 0
    for _ in range(10_000):
        body, forged = bytearray(BODY.encode()), bytearray(header.encode())
        target = draw.choice((body, forged))
        position = draw.randrange(len(target))
        target[position] ^= draw.randrange(1, 256)
        mutated = forged.decode("latin-1")
        try:
            verified(now, header=mutated, body=bytes(body))
        except NotGenuine:
            refused += 1
        else:
            # The only bytes that may differ are the names of parts nobody reads.
            assert mutated.partition("t=")[2] == header.partition("t=")[2]
    assert refused == 10_000


@pytest.mark.parametrize(
    ("body", "kind"), [(BODY, WebhookKind.THIN), (THIN, WebhookKind.SNAPSHOT), ("[]", "snapshot")]
)
def test_body_of_the_other_kind_is_refused(now, body, kind):
    with pytest.raises(NotGenuine, match="the body is no"):
        verified(now, body=body, kind=WebhookKind(kind))


def thin(now, **reason):
    return ThinEvent(
        id="evt_1",
        type="v1.billing.meter.error_report_triggered",
        created_at=now,
        object_id="mtr_1",
        data={
            "developer_message_summary": "There are 5 invalid events",
            "validation_start": "2026-11-20T12:30:00.000Z",
            "validation_end": "2026-11-20T12:30:10.000Z",
            "reason": reason,
        },
    )


def test_error_report_is_read_with_every_count_and_sample(now):
    report = error_report(
        thin(
            now,
            error_count=5,
            error_types=[
                {
                    "code": "no_such_code_yet",
                    "error_count": 3,
                    "sample_errors": [
                        {"error_message": "Bad.", "request": {"identifier": "a"}},
                        {"error_message": "Bad.", "request": {}},
                    ],
                },
                {"code": "archived_meter", "error_count": 1},
                {
                    "code": "no_such_code_yet",
                    "error_count": 1,
                    "sample_errors": [{"request": {"identifier": "b"}}],
                },
            ],
        )
    )

    assert report == ErrorReport(
        event_id="evt_1",
        type="v1.billing.meter.error_report_triggered",
        created_at=now,
        meter_id="mtr_1",
        validation_start=datetime(2026, 11, 20, 12, 30, tzinfo=UTC),
        validation_end=datetime(2026, 11, 20, 12, 30, 10, tzinfo=UTC),
        summary="There are 5 invalid events",
        error_count=5,
        types=(
            ReportedErrors(
                "no_such_code_yet",
                4,
                (ErrorSample("a", "Bad."), ErrorSample("", "Bad."), ErrorSample("b", "")),
            ),
            ReportedErrors("archived_meter", 1, ()),
        ),
    )


def test_error_report_whose_total_is_below_its_types_counts_the_types(now):
    types = [{"code": "a", "error_count": 2}, {"code": "b", "error_count": 3}]

    assert error_report(thin(now, error_count=4, error_types=types)).error_count == 5
    assert error_report(thin(now, error_count=6, error_types=types)).error_count == 6


def test_error_report_of_an_unknown_shape_is_refused(now):
    with pytest.raises(KeyError):
        error_report(thin(now, error_types=[]))
