"""The judge itself: whatever is planted, it must find, or a clean run shows nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.db import connection
from django.test import Client

from tests.chaos import audit, shop
from tests.chaos.audit import Stored, compare_counted, compare_stored
from tests.chaos.ledger import Event, Ledger

AT = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)


def event(event_id="a", **changes) -> Event:
    return replace(
        Event(event_id, "llm.call", "acme", AT.isoformat(), {"input_tokens": 7}), **changes
    )


def row(event_id="a", **changes) -> Stored:
    return replace(Stored(event_id, "llm.call", "acme", AT, AT, {"input_tokens": 7}), **changes)


def ledger(*events: Event, is_whole=True, is_acknowledged=True) -> Ledger:
    made = Ledger()
    made.make(events)
    if is_whole:
        made.send_whole(events)
    if is_acknowledged:
        made.acknowledge(events)
    return made


@pytest.mark.unit
@pytest.mark.parametrize(
    ("known", "rows", "findings"),
    [
        (ledger(event()), [row()], []),
        (ledger(event(time=None)), [row()], []),
        (ledger(event(), is_acknowledged=False), [row()], []),
        (ledger(event(), is_acknowledged=False), [], []),
        (ledger(event(), event("b")), [row()], ["acknowledged and not stored: b"]),
        (ledger(event()), [row(), row()], ["stored twice: a"]),
        (
            ledger(event(), is_whole=False, is_acknowledged=False),
            [row()],
            ["stored and never sent whole: a"],
        ),
        (ledger(), [row()], ["stored and never sent whole: a"]),
        (ledger(event(is_good=False)), [row()], ["refused and stored: a"]),
        (ledger(event()), [row(subject="else")], ["not stored as sent: a"]),
        (ledger(event()), [row(data={"input_tokens": 8})], ["not stored as sent: a"]),
        (ledger(event()), [row(occurred_at=AT.replace(second=1))], ["not stored as sent: a"]),
        (
            ledger(*(event(str(number)) for number in range(7))),
            [],
            ["acknowledged and not stored: 0, 1, 2, 3, 4 and 2 more"],
        ),
    ],
)
def test_what_is_stored_is_compared_with_what_was_told(known, rows, findings):
    assert compare_stored(known, rows) == findings


@pytest.mark.unit
def test_a_quantity_that_differs_is_named():
    expected = {("acme", "calls"): Decimal(3), ("acme", "tokens"): Decimal(5)}
    counted = {("acme", "calls"): Decimal(4), ("other", "calls"): Decimal(1)}

    assert compare_counted(expected, expected) == []
    assert compare_counted(expected, counted) == [
        "counted 4 calls of acme, where the events come to 3",
        "counted 0 tokens of acme, where the events come to 5",
        "counted 1 calls of other, where the events come to 0",
    ]


@pytest.fixture
def told(db) -> Ledger:
    """Three events of a known customer and two of an unknown one, acknowledged by the API."""
    key = shop.open_shop(["acme"])
    now = datetime.now(UTC).isoformat()
    events = [event(f"e{number}", time=now) for number in range(3)]
    events += [event(f"u{number}", time=None, subject="nobody-yet-1") for number in range(2)]
    answer = Client().post(
        "/api/v1/events",
        data=json.dumps([each.as_json() for each in events]),
        content_type="application/json",
        headers={"Authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 204
    return ledger(*events)


def tamper(statement: str) -> None:
    """Change what the database refuses to have changed."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement)
        cursor.execute("SET LOCAL session_replication_role = origin")


@pytest.mark.integration
def test_an_honest_run_passes(told):
    verdict = audit.audit(told)

    assert verdict.findings == []
    assert (verdict.stored, verdict.acknowledged, verdict.lost, verdict.double) == (5, 5, 0, 0)
    assert verdict.units == 5 * 7 + 5


@pytest.mark.integration
def test_a_lost_event_is_found(told):
    tamper("DELETE FROM usage_usageevent WHERE event_id = 'e1'")

    verdict = audit.audit(told)

    assert verdict.lost == 1
    assert verdict.findings[0] == "acknowledged and not stored: e1"
    # The batch knows as well: its count and its checksum are no longer those of its events.
    assert any(finding.startswith("I1: ") for finding in verdict.findings)


@pytest.mark.integration
def test_usage_that_is_counted_twice_is_found(told):
    audit.audit(told)
    tamper(
        "INSERT INTO usage_heldusage (run_id, subject, meter_id, window_start, segment_start,"
        " event_count, quantity, reason, held_at) SELECT run_id, 'acme', meter_id, window_start,"
        " segment_start, event_count, quantity, reason, held_at FROM usage_heldusage"
        " WHERE quantity = 14"
    )

    findings = audit.audit(told).findings

    assert findings[0] == "counted 35 input_tokens of acme, where the events come to 21"


@pytest.mark.integration
def test_usage_that_no_run_counts_is_found(told):
    tamper("UPDATE usage_ingestbatch SET run_id = 0")

    findings = audit.audit(told).findings

    assert findings[0] == "counted 0 input_tokens of acme, where the events come to 21"
