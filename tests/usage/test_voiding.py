"""Events are taken back by linked ones of sign -1, and Stripe's books follow exactly (F111, I21)."""

from __future__ import annotations

import threading
from collections import defaultdict
from datetime import timedelta
from decimal import Decimal
from io import StringIO

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, connections, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import authentication
from billing.enums import Scope
from billing.gateway.client import connection as stripe
from billing.models import ApiKey, Case, Customer, MeterVersion, PeriodBoundary, Source
from tests.usage.conftest import report
from usage import flush, holding, invariants, statements
from usage.lifecycle import State
from usage.models import HeldUsage, IngestBatch, Submission, SubmissionState, UsageEvent, Void
from usage.quantities import MAX_VALUE
from usage.queries import books
from usage.reports import Stored
from usage.voiding import (
    CORRECTIONS,
    EventKey,
    Unexplained,
    UnknownEvents,
    VoidsAlready,
    void,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def take_back(source, now):
    """Void events of `source` by their ids."""

    def take_back(*event_ids, at=now, author="ada", reason="reported twice"):
        return void(
            [EventKey(source.pk, event_id) for event_id in event_ids],
            author=author,
            reason=reason,
            now=at,
        )

    return take_back


def values(meter) -> list[int]:
    return [int(s.value) for s in Submission.objects.filter(meter=meter).order_by("pk")]


def recorded(meter) -> Decimal:
    return next(m.recorded for m in books().meters if m.meter_id == meter.pk)


def unexplained_rows() -> list[str]:
    return [violation.invariant.id for violation in invariants.violations()]


def test_void_is_the_original_again_of_our_own_source_with_its_author(store, take_back, now):
    store(report("a", at=now - timedelta(hours=3), input_tokens=10))
    original = UsageEvent.objects.get()

    answer = take_back("a", at=now + timedelta(minutes=1))

    negative = UsageEvent.objects.get(voids=original.pk)
    same = ("type", "subject", "occurred_at", "data")
    assert [getattr(negative, f) for f in same] == [getattr(original, f) for f in same]
    assert (negative.source.name, negative.event_id) == (CORRECTIONS, f"void:{original.pk}")
    assert negative.received_at == now + timedelta(minutes=1)
    assert len(bytes(negative.digest)) == 16
    assert bytes(negative.digest) != bytes(original.digest)
    assert negative.batch.run is None
    row = Void.objects.get()
    assert (row.void_event_id, row.original_event_id, row.author, row.reason) == (
        negative.pk,
        original.pk,
        "ada",
        "reported twice",
    )
    assert (row.source, row.event_id) == (original.source, "a")
    assert answer.voided == (EventKey(original.source_id, "a"),)
    assert answer.batches == ((negative.batch_id, 1),)
    assert unexplained_rows() == []


def test_voiding_again_adds_nothing_and_says_so(store, take_back, now, source):
    store(report("a", at=now), report("b", at=now))
    take_back("a")

    answer = take_back("a", "b", "b", author="bob")

    assert answer.already == (EventKey(source.pk, "a"),)
    assert answer.voided == (EventKey(source.pk, "b"),)
    assert list(Void.objects.order_by("pk").values_list("event_id", "author")) == [
        ("a", "ada"),
        ("b", "bob"),
    ]
    assert UsageEvent.objects.filter(voids__isnull=False).count() == 2
    assert take_back("a", "b").batches == ()
    assert IngestBatch.objects.count() == 3
    assert unexplained_rows() == []


def test_unknown_ids_are_named_and_nothing_is_voided(store, take_back, now):
    store(report("a", at=now))

    with pytest.raises(UnknownEvents, match="'nope'") as refused:
        take_back("a", "nope")

    assert [key.event_id for key in refused.value.keys] == ["nope"]
    assert not Void.objects.exists()
    assert UsageEvent.objects.count() == 1


def test_an_id_of_another_source_is_unknown(store, now):
    store(report("a", at=now))
    other = Source.objects.create(name="other")

    with pytest.raises(UnknownEvents):
        void([EventKey(other.pk, "a")], author="ada", reason="wrong", now=now)


def test_a_void_is_not_voided(store, take_back, now):
    store(report("a", at=now))
    take_back("a")
    negative = UsageEvent.objects.get(voids__isnull=False)

    with pytest.raises(VoidsAlready, match=negative.event_id):
        void([EventKey(negative.source_id, negative.event_id)], author="ada", reason="oh", now=now)

    assert UsageEvent.objects.count() == 2


@pytest.mark.parametrize(("author", "reason"), [("", "why"), (" ", "why"), ("ada", " \n")])
def test_a_void_without_author_or_reason_is_refused(store, take_back, now, author, reason):
    """I21."""
    store(report("a", at=now))

    with pytest.raises(Unexplained):
        take_back("a", author=author, reason=reason)

    assert not Void.objects.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage_void SET reason = 'another'",
        "DELETE FROM usage_void",
        """INSERT INTO usage_void (void_event_id, original_event_id, source_id, event_id, author,
           reason, created_at) SELECT 0, 0, source_id, event_id, author, ' ', created_at
           FROM usage_void""",
    ],
)
def test_the_database_keeps_who_voided_and_why(store, take_back, now, statement):
    """I21."""
    store(report("a", at=now))
    take_back("a")
    before = list(Void.objects.values())

    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)

    assert list(Void.objects.values()) == before


def test_a_negative_event_that_nobody_explained_violates_i21(store, now, source):
    store(report("a", at=now))
    original = UsageEvent.objects.get()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO usage_usageevent (source_id, event_id, digest, type, subject, occurred_at,"
            " received_at, data, batch_id, voids) SELECT source_id, 'x', digest, type, subject,"
            " occurred_at, received_at, data, batch_id, id FROM usage_usageevent"
        )

    assert "I21" in unexplained_rows()
    assert original.pk == UsageEvent.objects.get(event_id="x").voids


def test_a_caller_may_use_ids_that_look_like_ours(store, take_back, now):
    """The void's id lives in a source of our own, so none of a caller's can be in its way."""
    store(report("a", at=now, input_tokens=10))
    original = UsageEvent.objects.get()

    assert store(report(f"void:{original.pk}", at=now, input_tokens=4)) == [Stored.ACCEPTED]
    assert len(take_back("a").voided) == 1

    assert recorded_in("input_tokens") == 4


def recorded_in(slug: str) -> Decimal:
    return next(m.recorded for m in books().meters if m.meter == slug)


def test_no_key_is_issued_for_our_own_source(db, admin_client):
    with pytest.raises(authentication.SourceReserved, match="corrections"):
        authentication.issue(CORRECTIONS, [Scope.INGEST])
    with pytest.raises(CommandError, match="choose another name"):
        call_command("issue_api_key", source=CORRECTIONS, scopes=[Scope.INGEST])
    answer = admin_client.post(
        "/admin/billing/apikey/add/",
        {"source_name": CORRECTIONS, "scopes": "ingest", "expires_at_0": "", "expires_at_1": ""},
    )

    assert b"choose another name" in answer.content
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("subject", ["acme", "who"])
def test_original_and_void_in_one_run_come_to_nothing(store, take_back, acme, meters, now, subject):
    store(report("a", at=now, subject=subject, input_tokens=10, cached_tokens=3))
    take_back("a")

    result = flush.flush_batches(now=now)

    assert (result.event_count, result.submission_count, result.held_count) == (2, 0, 0)
    assert books().is_conserved
    assert [meter.recorded for meter in books().meters] == [0, 0, 0]
    assert unexplained_rows() == []


def test_a_void_counts_minus_its_value_and_minus_one_call(store, take_back, acme, meters, now):
    store(report("a", at=now, input_tokens=10, cached_tokens=3), report("b", at=now))
    flush.flush_batches(now=now)
    take_back("a")
    flush.flush_batches(now=now)

    assert values(meters.input) == [20, -10]
    assert values(meters.cached) == [3, -3]
    assert values(meters.calls) == [2, -1]
    assert books().is_conserved
    assert recorded(meters.input) == 10
    assert unexplained_rows() == []


def test_a_void_goes_to_its_originals_own_cell(store, take_back, acme, meters, now):
    boundary = now.replace(minute=20, second=0)
    PeriodBoundary.objects.create(customer=acme, at=boundary)
    before, after = boundary - timedelta(minutes=1), boundary + timedelta(minutes=1)
    store(report("a", at=before, input_tokens=10), report("b", at=after, input_tokens=7))
    flush.flush_batches(now=now)
    take_back("a", at=now + timedelta(days=2))
    flush.flush_batches(now=now + timedelta(days=2))

    first, second, negative = Submission.objects.filter(meter=meters.input).order_by("pk")
    assert (negative.value, negative.segment_start) == (-10, first.segment_start)
    assert negative.timestamp == first.timestamp == before.replace(microsecond=0)
    assert second.segment_start == boundary


def test_a_void_is_folded_by_the_definition_its_original_was(store, take_back, acme, meters, now):
    """By `occurred_at`, whichever definition is in force when it is voided."""
    changed_at = now + timedelta(minutes=5)
    store(report("a", at=now, input_tokens=10, billed_tokens=4))
    flush.flush_batches(now=now)
    MeterVersion.objects.filter(meter=meters.input).update(effective_until=changed_at)
    MeterVersion.objects.create(
        meter=meters.input,
        event_type="llm.call",
        value_property="billed_tokens",
        required=True,
        measures=["input_tokens"],
        effective_from=changed_at,
    )

    take_back("a", at=now + timedelta(hours=1))
    flush.flush_batches(now=now + timedelta(hours=1))

    assert values(meters.input) == [10, -10]
    assert books().is_conserved
    assert recorded(meters.input) == 0


def deliver_all(world, **span) -> None:
    while world.deliver(**(span or {"seconds": 10})):
        pass


def test_stripe_counts_what_is_left(world, store, take_back, meters):
    store(*(report(f"e{n}", at=world.now, input_tokens=10 + n) for n in range(5)))
    flush.flush_batches(now=world.now)
    deliver_all(world)
    assert world.counted() == 60

    take_back("e1", "e4")
    flush.flush_batches(now=world.now)
    deliver_all(world)

    assert world.counted() == recorded(meters.input) == 35
    assert world.emulator.truth.as_dict()["event_names"]["mk_llm_calls"]["sum"] == "3"
    found = statements.statement()
    assert found.is_balanced
    assert unexplained_rows() == []


def test_the_negative_may_arrive_before_the_positive(world, store, take_back, meters):
    store(report("a", at=world.now, input_tokens=10), report("b", at=world.now, input_tokens=1))
    flush.flush_batches(now=world.now)
    SubmissionState.objects.update(next_action_at=world.now + timedelta(hours=1))
    take_back("a")
    flush.flush_batches(now=world.now)

    deliver_all(world)
    assert world.counted() == -10
    assert statements.statement().is_balanced
    deliver_all(world, hours=2)

    assert world.counted() == recorded(meters.input) == 1


def test_usage_taken_back_is_not_called_overbilled_while_its_negative_waits(
    world, store, take_back, meters
):
    """I8: with voids, Stripe may have up to what was ever reported, and no more."""
    store(report("a", at=world.now, input_tokens=10))
    flush.flush_batches(now=world.now)
    deliver_all(world)
    take_back("a")

    found = statements.statement()

    [books_of_input] = [m for m in found.books.meters if m.meter_id == meters.input.pk]
    assert (books_of_input.recorded, books_of_input.voided) == (0, 10)
    assert found.is_balanced
    assert not found.is_at_rest


@pytest.mark.parametrize("kind", ["answer_lost", "500_after", "drop_before", "429"])
def test_a_fault_on_the_negative_takes_it_back_once(world, store, take_back, meters, kind):
    """F41, F42."""
    store(report("a", at=world.now, input_tokens=10), report("b", at=world.now, input_tokens=5))
    flush.flush_batches(now=world.now)
    deliver_all(world)
    take_back("a")
    flush.flush_batches(now=world.now)
    world.emulator.faults.switch_on(kind, path="/v1/billing/meter_events", count=2)

    deliver_all(world)
    deliver_all(world, minutes=5)

    assert world.counted() == recorded(meters.input) == 5
    assert world.emulator.truth.as_dict()["event_names"]["mk_llm_calls"]["sum"] == "1"


def test_void_of_held_usage_is_held_and_released_with_it(world, store, take_back, meters):
    store(report("a", at=world.now, subject="who", input_tokens=10))
    flush.flush_batches(now=world.now)
    take_back("a")
    flush.flush_batches(now=world.now)
    assert sorted(
        HeldUsage.objects.filter(meter=meters.input).values_list("quantity", flat=True)
    ) == [-10, 10]
    assert books().is_conserved
    assert unexplained_rows() == []

    Customer.objects.create(
        external_id="who", stripe_customer_id=stripe().v1.customers.create({"name": "Who"}).id
    )
    while holding.release(now=world.now):
        pass
    deliver_all(world)

    assert sorted(values(meters.input)) == [-10, 10]
    assert world.counted() == recorded(meters.input) == 0
    assert books().is_conserved


def test_a_negative_too_old_for_stripe_expires_with_a_case(world, store, take_back, meters):
    store(report("a", at=world.now, input_tokens=10))
    flush.flush_batches(now=world.now)
    deliver_all(world)
    world.advance(days=34.6)
    take_back("a", at=world.now)
    flush.flush_batches(now=world.now)

    assert world.deliver() == {"expired": 2}

    negative = Submission.objects.get(meter=meters.input, value=-10)
    assert negative.standing.state == State.EXPIRED
    case = Case.objects.get(reference=negative.identifier)
    assert (case.kind, case.quantity) == ("expired", -10)
    assert world.counted() == 10
    assert books().is_conserved


def test_a_negative_total_beyond_15_digits_is_split(world, store, take_back, meters):
    store(*(report(f"e{n}", at=world.now, input_tokens=MAX_VALUE) for n in range(3)))
    flush.flush_batches(now=world.now)
    take_back("e0", "e1", "e2")
    flush.flush_batches(now=world.now)

    assert values(meters.input) == [MAX_VALUE] * 3 + [-MAX_VALUE] * 3
    deliver_all(world)
    assert world.counted() == 0
    negative = Submission.objects.filter(meter=meters.input, value__lt=0).first()
    assert '"value":"-999999999999999"' in negative.payload
    assert unexplained_rows() == []


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**6),  # value
            st.integers(0, 3),  # hours ago
            st.sampled_from(["acme", "who"]),
            st.integers(-1, 4),  # flush after the step, or void this one of the earlier events
            st.booleans(),
        ),
        max_size=14,
    )
)
def test_random_voids_agree_with_plain_sums(db, store, acme, meters, source, now, steps):
    """I2: cell by cell, submitted, held and unflushed come to the plain sum of what is not voided."""
    with transaction.atomic():
        left: dict[str, tuple[int, str, int]] = {}
        given_ids: list[str] = []
        for number, (value, hours, subject, voided, is_flushed) in enumerate(steps):
            event_id = f"e{number}"
            store(
                report(
                    event_id, at=now - timedelta(hours=hours), subject=subject, input_tokens=value
                )
            )
            given_ids.append(event_id)
            left[event_id] = (value, subject, hours)
            if voided >= 0:
                chosen = given_ids[voided % len(given_ids)]
                void([EventKey(source.pk, chosen)], author="ada", reason="wrong", now=now)
                left.pop(chosen, None)
            if is_flushed:
                flush.flush_batches(now=now)
        assert books().is_conserved
        flush.flush_batches(now=now)

        expected: defaultdict[tuple[str, int], int] = defaultdict(int)
        for value, subject, hours in left.values():
            expected[subject, hours] += value
        found: defaultdict[tuple[str, int], int] = defaultdict(int)
        for submission in Submission.objects.filter(meter=meters.input):
            hours = int((now.replace(minute=0, second=0) - submission.window_start).seconds / 3600)
            found["acme", hours] += int(submission.value)
        for held in HeldUsage.objects.filter(meter=meters.input, released_at=None):
            hours = int((now.replace(minute=0, second=0) - held.window_start).seconds / 3600)
            found[held.subject, hours] += int(held.quantity)
        nonzero = {cell: total for cell, total in expected.items() if total}
        assert {cell: total for cell, total in found.items() if total} == nonzero
        assert books().is_conserved
        assert unexplained_rows() == []
        transaction.set_rollback(True)


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_two_who_void_the_same_events_at_once_void_each_once(store, source, now):
    store(*(report(f"e{n}", at=now) for n in range(20)))
    keys = [EventKey(source.pk, f"e{n}") for n in range(20)]
    start = threading.Barrier(2)
    answers = []

    def run(author: str) -> None:
        start.wait()
        answers.append(void(keys, author=author, reason="wrong", now=now))
        connections.close_all()

    threads = [threading.Thread(target=run, args=(name,)) for name in ("ada", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(len(answer.voided) for answer in answers) == [0, 20]
    assert sorted(len(answer.already) for answer in answers) == [0, 20]
    assert Void.objects.count() == 20
    assert unexplained_rows() == []


def run_command(*arguments: str) -> str:
    out = StringIO()
    call_command("void_events", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_voids_by_ids_and_says_what_it_did(store, now, source):
    store(report("a", at=now), report("b", at=now))

    told = run_command("--source", "gateway", "--ids", "a,b", "--reason", "twice", "--by", "ada")
    again = run_command("--source", "gateway", "--ids", "a", "--reason", "twice", "--by", "ada")

    assert told == "voided 2 events\n"
    assert again == "voided 0 events; 1 had been voided before\n"
    assert set(Void.objects.values_list("author", "reason")) == {("ada", "twice")}


def test_the_command_reads_ids_from_a_file(store, now, source, tmp_path):
    store(report("a", at=now), report("b,c", at=now))
    file = tmp_path / "ids.txt"
    file.write_text("a\n\nb,c\n")

    told = run_command(
        "--source", "gateway", "--ids-file", str(file), "--reason", "twice", "--by", "ada"
    )

    assert told == "voided 2 events\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--source", "gateway", "--ids", "x", "--reason", "r", "--by", "ada"], "'x'"),
        (["--source", "nobody", "--ids", "a", "--reason", "r", "--by", "ada"], "nobody"),
        (["--source", "gateway", "--ids", "a", "--reason", " ", "--by", "ada"], "why"),
        (["--source", "gateway", "--ids-file", "/none", "--reason", "r", "--by", "a"], "/none"),
    ],
)
def test_the_command_refuses_in_a_sentence(store, now, source, arguments, said):
    store(report("a", at=now))

    with pytest.raises(CommandError, match=said):
        run_command(*arguments)

    assert not Void.objects.exists()


def select(admin_client, *events, **form):
    return admin_client.post(
        "/admin/usage/usageevent/",
        {"action": "void", "_selected_action": [event.pk for event in events], **form},
        follow=True,
    )


def test_staff_void_selected_events_after_saying_why(store, admin_client, admin_user, now):
    store(report("a", at=now), report("b", at=now), report("c", at=now))
    a, b = (UsageEvent.objects.get(event_id=name) for name in "ab")

    asked = select(admin_client, a, b)
    assert b"Void usage events" in asked.content
    assert f"a · {a.subject} · {a.type} · {a.occurred_at:%Y-%m-%d}" in asked.content.decode()
    assert not Void.objects.exists()
    unanswered = select(admin_client, a, b, confirmed="yes", reason=" ")
    assert b"This field is required" in unanswered.content
    assert not Void.objects.exists()
    done = select(admin_client, a, b, confirmed="yes", reason="a <wrong> import")

    assert b"Voided 2 events." in done.content
    author = admin_user.get_username()
    assert set(Void.objects.values_list("event_id", "author", "reason")) == {
        ("a", author, "a <wrong> import"),
        ("b", author, "a <wrong> import"),
    }
    assert set(LogEntry.objects.values_list("object_repr", "change_message")) == {
        ("a", "Voided: a <wrong> import"),
        ("b", "Voided: a <wrong> import"),
    }
    again = select(admin_client, a, confirmed="yes", reason="again")
    assert b"Voided 0 events. 1 had been voided before." in again.content
    page = admin_client.get(f"/admin/usage/usageevent/{a.pk}/change/").content
    assert f"by {author}".encode() in page
    listed = admin_client.get("/admin/usage/void/")
    assert b"a &lt;wrong&gt; import" in listed.content
    assert admin_client.get("/admin/usage/void/add/").status_code == 403
    shown = admin_client.get(f"/admin/usage/void/{Void.objects.first().pk}/change/").content
    assert b'name="_save"' not in shown


def test_staff_who_void_a_void_are_refused_in_a_sentence(store, take_back, admin_client, now):
    store(report("a", at=now))
    take_back("a")

    told = select(
        admin_client, UsageEvent.objects.get(voids__isnull=False), confirmed="yes", reason="oh"
    )

    assert b"A void stays" in told.content
    assert Void.objects.count() == 1


def test_staff_without_the_permission_cannot_void(store, client, django_user_model, now):
    store(report("a", at=now))
    staff = django_user_model.objects.create_user("eve", password="x", is_staff=True)
    staff.user_permissions.add(Permission.objects.get(codename="view_usageevent"))
    client.force_login(staff)

    select(client, UsageEvent.objects.get(), confirmed="yes", reason="mine")

    assert not Void.objects.exists()
    staff.user_permissions.add(Permission.objects.get(codename="add_void"))
    select(client, UsageEvent.objects.get(), confirmed="yes", reason="mine")
    assert Void.objects.count() == 1
