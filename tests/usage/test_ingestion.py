"""Events are stored once each, and every one's fate is told."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import connection, transaction
from django.utils import timezone

from billing.authentication import SourceReserved
from billing.enums import Aggregation
from billing.models import Meter, MeterVersion, Source
from tests.usage.conftest import make_meter, report
from usage.ingestion import Refused, accept, record
from usage.models import EventConflict, IngestBatch, UsageEvent
from usage.reports import CONFLICT, Outcome, Refusal, Stored

pytestmark = pytest.mark.integration


def stored_ids() -> list[str]:
    return sorted(UsageEvent.objects.values_list("event_id", flat=True))


def test_events_are_stored_as_one_batch(store, now, source):
    outcomes = store(report("a", at=now), report("b", at=None, input_tokens=3))

    assert outcomes == [Stored.ACCEPTED, Stored.ACCEPTED]
    [batch] = IngestBatch.objects.all()
    assert (batch.event_count, batch.run_id, batch.source) == (2, None, source)
    a, b = UsageEvent.objects.order_by("event_id")
    assert (a.subject, a.type, a.data, a.occurred_at, a.received_at, a.batch) == (
        "acme",
        "llm.call",
        {"input_tokens": 10},
        now,
        now,
        batch,
    )
    assert b.occurred_at == now


def test_a_repetition_is_a_duplicate_and_leaves_no_batch(store, now):
    store(report("a", at=now), report("b", at=None))

    outcomes = store(report("b", at=None), report("a", at=now), at=now + timedelta(days=200))

    assert outcomes == [Stored.DUPLICATE, Refusal("time", "is more than 34 days in the past")]
    outcomes = store(report("b", at=None), report("a", at=now), at=now + timedelta(hours=1))
    assert outcomes == [Stored.DUPLICATE, Stored.DUPLICATE]
    assert IngestBatch.objects.count() == 1


def test_the_same_instant_in_another_offset_is_a_duplicate(store, now):
    store(report("a", at=now.astimezone(UTC)))

    assert store(report("a", at=now)) == [Stored.DUPLICATE]


@pytest.mark.parametrize(
    "changed",
    [
        {"input_tokens": 11},
        {"input_tokens": 10, "model": "m"},
        {"subject": "other"},
        {"at": datetime(2026, 11, 20, 12, 30, 16, tzinfo=UTC)},
    ],
)
def test_a_known_id_with_another_payload_is_a_conflict_and_the_first_stays(store, now, changed):
    store(report("a", at=now))
    before = list(UsageEvent.objects.values())

    outcomes = [store(report("a", **{"at": now} | changed)) for _ in range(2)]

    assert outcomes == [[CONFLICT], [CONFLICT]]
    assert list(UsageEvent.objects.values()) == before
    assert EventConflict.objects.count() == 1
    assert EventConflict.objects.get().payload["subject"] == changed.get("subject", "acme")


def test_a_known_id_with_another_type_is_a_conflict(store, now):
    other = make_meter("other_calls")
    MeterVersion.objects.filter(meter=other).update(event_type="other.call")
    store(report("a", at=now))

    assert store(report("a", at=now, type="other.call")) == [CONFLICT]


SLOW_INSERTS = """
CREATE FUNCTION slow_insert() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END';
CREATE TRIGGER slow_insert BEFORE INSERT ON usage_usageevent
    FOR EACH ROW EXECUTE FUNCTION slow_insert();
"""


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_two_requests_with_the_same_ids_in_another_order_do_not_deadlock(store, now):
    with connection.cursor() as cursor:
        cursor.execute(SLOW_INSERTS)
    outcomes: list[list[Outcome]] = []

    def request(*ids: str) -> None:
        try:
            outcomes.append(store(*(report(event_id, at=now) for event_id in ids)))
        finally:
            connection.close()

    threads = [threading.Thread(target=request, args=ids) for ids in (("a", "b"), ("b", "a"))]
    try:
        for thread in threads:
            thread.start()
    finally:
        for thread in threads:
            thread.join()
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION slow_insert CASCADE")

    assert sorted(outcomes) == [[Stored.ACCEPTED] * 2, [Stored.DUPLICATE] * 2]


def test_ids_inside_one_request_are_judged_like_those_of_two(store, now):
    outcomes = store(
        report("a", at=now),
        report("a", at=now),
        report("a", at=now, input_tokens=99),
        report("b", at=now),
    )

    assert outcomes == [Stored.ACCEPTED, Stored.DUPLICATE, CONFLICT, Stored.ACCEPTED]
    assert stored_ids() == ["a", "b"]


def test_a_repetition_and_its_conflict_in_one_request_are_told_apart(store, now):
    store(report("a", at=now))

    outcomes = store(report("a", at=now, input_tokens=99), report("a", at=now))

    assert outcomes == [CONFLICT, Stored.DUPLICATE]


def test_another_source_has_ids_of_its_own(store, meters, now):
    store(report("a", at=now))
    other = Source.objects.create(name="other")

    assert accept(source_id=other.pk, reports=[report("a", at=now)], now=now) == [Stored.ACCEPTED]
    assert stored_ids() == ["a", "a"]


@pytest.mark.parametrize(
    ("bad", "refusal"),
    [
        ({"type": "llm.cal"}, Refusal("type", "'llm.cal' is read by no meter of the catalogue")),
        ({"model": "m"}, Refusal("data.input_tokens", "is required by input_tokens")),
        ({"input_tokens": True}, Refusal("data.input_tokens", "must be a number")),
        ({"input_tokens": -1}, Refusal("data.input_tokens", "must not be negative")),
        (
            {"input_tokens": 1, "cached_tokens": "x"},
            Refusal("data.cached_tokens", "must be a number"),
        ),
    ],
)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_bad_event_is_refused_and_its_neighbours_stored(store, now, bad, refusal, position):
    reports = [report("a", at=now), report("b", at=now)]
    reports.insert(position, report("bad", at=now, **bad))

    outcomes = store(*reports)

    assert outcomes[position] == refusal
    assert outcomes.count(Stored.ACCEPTED) == 2
    assert stored_ids() == ["a", "b"]
    assert IngestBatch.objects.get().event_count == 2


@pytest.mark.parametrize(
    ("age", "taken"),
    [
        (timedelta(days=34), True),
        (timedelta(days=34, microseconds=1), False),
        (timedelta(days=36), False),
        (timedelta(seconds=-120), True),
        (timedelta(seconds=-120, microseconds=-1), False),
        (timedelta(days=-1), False),
    ],
)
def test_time_limits_hold_to_the_microsecond(store, now, age, taken):
    [outcome] = store(report("a", at=now - age))

    assert (outcome == Stored.ACCEPTED) is taken
    assert isinstance(outcome, Refusal) is not taken
    assert stored_ids() == (["a"] if taken else [])


def test_a_property_is_asked_for_from_its_definitions_start_on(store, meters, now):
    MeterVersion.objects.filter(meter=meters.input).update(effective_from=now)

    before, after = store(
        report("before", at=now - timedelta(microseconds=1), model="m"),
        report("after", at=now, model="m"),
    )

    assert before == Stored.ACCEPTED
    assert after == Refusal("data.input_tokens", "is required by input_tokens")


@pytest.mark.parametrize(
    "text", ['"', "\\", "{a,b}", "NULL", "", "é", "日本", "'; --", "\\x41", "a b"]
)
def test_awkward_text_is_stored_to_the_letter(store, now, text):
    outcomes = store(report(f"id {text}", at=now, subject=f"s {text}", input_tokens=1, note=text))

    assert outcomes == [Stored.ACCEPTED]
    event = UsageEvent.objects.get()
    assert (event.event_id, event.subject, event.data["note"]) == (f"id {text}", f"s {text}", text)


def test_a_request_of_refusals_stores_nothing(store):
    assert store(Refusal("id", "is required")) == [Refusal("id", "is required")]
    assert not IngestBatch.objects.exists()


def running_meter(aggregation: Aggregation, value_property: str, *, required: bool = True) -> None:
    meter = make_meter(f"{aggregation}_{value_property}", value_property, required=required)
    Meter.objects.filter(pk=meter.pk).update(aggregation=aggregation)


@pytest.mark.parametrize("user", ["u", "ü" * 200, "7", 7, 0, -3, 10**199, " ", 'a"b\\'], ids=repr)
def test_what_can_be_told_apart_is_stored(store, now, user):
    running_meter(Aggregation.UNIQUE, "user")

    assert store(report("a", at=now, input_tokens=1, user=user)) == [Stored.ACCEPTED]

    assert UsageEvent.objects.get().data["user"] == user


NO_NAME = "must be a text or a whole number, written without decimals"
NAME_LENGTH = "must have 1 to 200 characters"


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ("", NAME_LENGTH),
        ("u" * 201, NAME_LENGTH),
        (10**200, NAME_LENGTH),
        (Decimal("7.0"), NO_NAME),
        (Decimal("1e3"), NO_NAME),
        (True, NO_NAME),
        (["u"], NO_NAME),
        ({"id": "u"}, NO_NAME),
        (None, "is required by unique_user"),
    ],
    ids=repr,
)
def test_what_cannot_be_told_apart_is_refused_and_its_neighbour_stored(store, now, user, reason):
    """F08, F12."""
    running_meter(Aggregation.UNIQUE, "user")

    outcomes = store(
        report("a", at=now, input_tokens=1, user=user),
        report("b", at=now, input_tokens=1, user="u"),
    )

    assert outcomes == [Refusal("data.user", reason), Stored.ACCEPTED]
    assert stored_ids() == ["b"]


@pytest.mark.parametrize("aggregation", [Aggregation.MAX, Aggregation.LATEST])
@pytest.mark.parametrize(
    ("seats", "outcome"),
    [
        (3, Stored.ACCEPTED),
        ("3", Stored.ACCEPTED),
        (0, Stored.ACCEPTED),
        (None, Stored.ACCEPTED),
        (-1, Refusal("data.seats", "must not be negative")),
        (Decimal("1.5"), Refusal("data.seats", "must be a whole number")),
        ("many", Refusal("data.seats", "must be a number")),
    ],
    ids=repr,
)
def test_the_largest_and_the_latest_need_a_number(store, now, aggregation, seats, outcome):
    running_meter(aggregation, "seats", required=False)

    assert store(report("a", at=now, input_tokens=1, seats=seats)) == [outcome]


# --- in process ------------------------------------------------------------------------------------


def recorded(**changes) -> Stored:
    told = {
        "source": "chat",
        "event_id": "a",
        "type": "llm.call",
        "customer": "acme",
        "data": {"input_tokens": 10},
    }
    return record(**(told | changes))


def test_an_event_recorded_in_process_is_stored_and_repeated(meters, now):
    at = timezone.now()

    assert recorded(occurred_at=at) == Stored.ACCEPTED
    assert recorded(occurred_at=at) == Stored.DUPLICATE

    event = UsageEvent.objects.get()
    assert (event.source.name, event.event_id, event.subject, event.occurred_at, event.data) == (
        "chat",
        "a",
        "acme",
        at,
        {"input_tokens": 10},
    )


@pytest.mark.django_db(transaction=True)
def test_an_event_recorded_in_a_transaction_goes_with_it(meters):
    with transaction.atomic():
        recorded()
        transaction.set_rollback(True)
    assert not UsageEvent.objects.exists()

    with transaction.atomic():
        recorded()
    assert UsageEvent.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"data": {"input_tokens": -1}}, "data.input_tokens", "must not be negative"),
        ({"data": {"input_tokens": float("nan")}}, "data.input_tokens", "JSON has, not NaN"),
        ({"data": {"input_tokens": {1}}}, "data", "must hold JSON values only"),
        ({"type": "unknown"}, "type", "is read by no meter"),
        ({"customer": ""}, "subject", "length"),
        ({"event_id": "a\nb"}, "id", "must not hold control characters"),
        ({"occurred_at": datetime(2026, 1, 1)}, "time", "with an offset"),  # noqa: DTZ001 - on purpose
    ],
    ids=repr,
)
def test_what_cannot_be_recorded_in_process_is_refused_by_field(meters, changes, field, reason):
    with pytest.raises(Refused, match=reason) as refused:
        recorded(**changes)

    assert refused.value.field == field
    assert not UsageEvent.objects.exists()


def test_a_decimal_recorded_in_process_is_exact(meters):
    with pytest.raises(Refused, match="must be a whole number"):
        recorded(data={"input_tokens": Decimal("0.1")})

    assert recorded(data={"input_tokens": Decimal(12)}) == Stored.ACCEPTED


def test_our_own_sources_are_not_recorded_for(meters):
    with pytest.raises(SourceReserved):
        recorded(source="meterkeeper:corrections")
