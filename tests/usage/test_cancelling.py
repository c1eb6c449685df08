"""A submission that is wrong as a whole is cancelled at Stripe, once, or taken back by a delta."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from io import StringIO

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from billing.gateway import adjustments, client, errors
from billing.models import Case, Customer, MeterVersion, PeriodBoundary
from tests.factories.usage import make_submission
from tests.usage.conftest import EVENTS_PATH, report
from usage import (
    calling,
    cancelling,
    claiming,
    delivery,
    flush,
    invariants,
    outcomes,
    statements,
    voiding,
)
from usage.cancelling import CannotCancel, cancel_submission
from usage.enums import Wire
from usage.in_flight import Calls
from usage.lifecycle import State
from usage.models import Attempt, Cancellation, Submission, SubmissionState, UsageEvent, Void
from usage.queries import books
from usage.settlement import settle
from usage.voiding import EventKey, void

pytestmark = pytest.mark.integration

PATH = "/v1/billing/meter_event_adjustments"


@pytest.fixture
def sent(world, store, meters) -> Submission:
    """Two events of 10 and 5 input tokens and no cached ones, delivered as 15 tokens, 2 calls."""
    store(report("a", at=world.now, input_tokens=10), report("b", at=world.now, input_tokens=5))
    flush.flush_batches(now=world.now)
    assert world.deliver() == {"accepted": 2}
    return Submission.objects.get(meter=meters.input)


def cancel(submission: Submission, world) -> cancelling.Requested:
    return cancel_submission(submission, author="ada", reason="a wrong import", now=world.now)


def cancel_due(world, **span) -> dict[str, int]:
    """Take only the lane of cancellations, so that what else waits stays where it is."""
    world.advance(**span)
    counts = cancelling.sweep(now=world.now)
    with Calls(1) as calls:
        lane = delivery.Lane(Wire.CANCEL, Wire.CANCEL)
        delivery._Pass(lambda: world.now, calls, counts).drain(lane, until=time.monotonic() + 60)
    return dict(counts)


def claimed(world) -> claiming.Claim:
    """Take the oldest cancellation that is due."""
    [claim] = claiming.claim(
        clock=lambda: world.now, stored_wire=Wire.CANCEL, wire=Wire.CANCEL, limit=1
    )
    return claim


def negative_of(submission: Submission) -> Submission:
    return Submission.objects.get(cancellation__original=submission)


def standing(submission: Submission) -> SubmissionState:
    return SubmissionState.objects.get(submission=submission)


def cancelled_at_stripe(world) -> list[str]:
    """The identifiers Stripe cancelled, in order."""
    return [a.cancelled.identifier for a in world.emulator.arrivals if a.cancelled]


def assert_exact(world, meters, *, tokens: int, calls: int) -> None:
    """Our books, Stripe's and the tables' invariants agree."""
    truth = world.emulator.truth.as_dict()["event_names"]
    assert world.counted() == tokens
    assert Decimal(truth["mk_llm_calls"]["sum"]) == calls
    found = statements.statement()
    assert found.is_balanced
    assert {m.meter: m.recorded for m in found.books.meters if m.recorded} == {
        name: value for name, value in {"input_tokens": tokens, "llm_calls": calls}.items() if value
    }
    assert invariants.violations() == ()


def test_a_wrong_submission_is_cancelled_and_no_negative_event_is_sent(world, sent, meters):
    answer = cancel(sent, world)

    assert answer.event_count == 2
    assert {s.meter.slug for s in answer.cancelled} == {"input_tokens", "llm_calls"}
    assert answer.negative_count == 0
    assert world.deliver(seconds=1) == {"accepted": 2}
    assert world.deliver(seconds=1) == {}

    assert_exact(world, meters, tokens=0, calls=0)
    assert sorted(cancelled_at_stripe(world)) == sorted(
        Submission.objects.filter(value__gt=0).values_list("identifier", flat=True)
    )
    assert world.calls() == ["accepted", "accepted"]
    negative = negative_of(sent)
    assert (negative.value, standing(negative).state, standing(negative).wire) == (
        -15,
        State.ACCEPTED,
        "cancel",
    )
    assert standing(sent).state == State.ACCEPTED
    attempt = Attempt.objects.get(submission=negative)
    assert (attempt.wire, attempt.outcome) == ("cancel", "accepted")
    assert set(Void.objects.values_list("author", "reason")) == {("ada", "a wrong import")}


def test_what_is_asked_for_is_the_originals_identifier(world, sent):
    cancel(sent, world)
    cancel_due(world)

    asked = {
        (a.params["event_name"], a.params["type"], a.params["cancel"]["identifier"])
        for a in world.emulator.arrivals
        if a.path == PATH
    }
    assert ("mk_input_tokens", "cancel", sent.identifier) in asked
    keys = [a.idempotency_key for a in world.emulator.arrivals if a.path == PATH]
    assert len(set(keys)) == 2


def test_a_cancelled_hour_settles_once_stripes_total_shows_it(world, sent, meters):
    world.emulator.settings.change(settle_lag_seconds=600)
    cancel(sent, world)
    cancel_due(world)
    acme = Customer.objects.get()

    def look(observed: int) -> int:
        hour = sent.window_start
        return settle(
            customer_id=acme.pk,
            meter_id=meters.input.pk,
            observed={hour: Decimal(observed)},
            observed_at=world.now,
        ).settled_count

    world.advance(seconds=5)
    assert statements.statement().stripe == {meters.input.pk: 15, meters.calls.pk: 2}
    assert look(15) == 0
    world.advance(seconds=600)
    assert statements.statement().stripe == {meters.input.pk: 0, meters.calls.pk: 0}
    assert look(0) == 2
    assert {standing(sent).state, standing(negative_of(sent)).state} == {State.SETTLED}
    assert invariants.violations() == ()


def test_what_is_only_a_part_of_another_submission_goes_there_by_a_negative_event(
    world, store, meters
):
    """The meter of calls began within the hour, and so counts one of two calls."""
    MeterVersion.objects.filter(meter=meters.calls).update(effective_from=world.now)
    store(
        report("a", at=world.now - timedelta(minutes=5), input_tokens=10),
        report("b", at=world.now, input_tokens=5),
    )
    flush.flush_batches(now=world.now)
    world.deliver()
    calls = Submission.objects.get(meter=meters.calls)

    answer = cancel(calls, world)
    assert (answer.cancelled, answer.event_count, answer.negative_count) == ((calls,), 1, 1)
    assert cancel_due(world) == {"accepted": 1}
    assert world.deliver(seconds=1) == {"accepted": 1}

    assert_exact(world, meters, tokens=10, calls=0)
    assert cancelled_at_stripe(world) == [calls.identifier]


@pytest.mark.parametrize("kind", ["answer_lost", "500_after", "reset_mid_body"])
def test_a_lost_answer_is_a_doubt_and_the_repetition_finds_it_cancelled(world, sent, meters, kind):
    cancel(sent, world)
    world.emulator.faults.switch_on(kind, path=PATH, count=1)

    assert cancel_due(world) == {"unknown": 1, "accepted": 1}
    doubtful = SubmissionState.objects.get(state=State.IN_DOUBT)
    assert (doubtful.wire, doubtful.doubt_since) == ("cancel", world.now)
    assert world.deliver(seconds=5) == {"duplicate": 1}

    assert_exact(world, meters, tokens=0, calls=0)
    assert sorted(cancelled_at_stripe(world)) == sorted(
        Submission.objects.filter(value__gt=0).values_list("identifier", flat=True)
    )


@pytest.mark.parametrize("kind", ["drop_before", "503", "429", "409"])
def test_a_cancellation_that_was_not_taken_is_asked_for_again(world, sent, meters, kind):
    cancel(sent, world)
    world.emulator.faults.switch_on(kind, path=PATH, count=2)

    for _ in range(4):
        cancel_due(world, seconds=30)

    assert_exact(world, meters, tokens=0, calls=0)
    assert world.calls() == ["accepted", "accepted"]


def test_a_worker_that_died_in_the_call_leaves_a_doubt_that_is_asked_again(world, sent, meters):
    cancel(sent, world)
    claim = claimed(world)
    calling.call([claim])

    assert world.deliver(minutes=2) == {"stalled": 1, "duplicate": 1, "accepted": 1}

    assert_exact(world, meters, tokens=0, calls=0)


def test_a_late_outcome_changes_nothing(world, sent):
    """F47."""
    cancel(sent, world)
    claim = claimed(world)
    ended = calling.call([claim])
    world.deliver(minutes=2)
    before = SubmissionState.objects.values().get(submission=claim.submission_id)

    outcomes.record(ended, now=world.now)

    assert SubmissionState.objects.values().get(submission=claim.submission_id) == before


def test_a_refusal_falls_back_to_a_negative_event(world, sent, meters):
    """Stripe may count its day otherwise than we do."""
    cancel(sent, world)
    world.emulator.settings.change(adjustment_span_seconds=60)
    world.advance(seconds=60)

    assert cancel_due(world) == {"not_accepted": 2}
    row = standing(negative_of(sent))
    assert (row.state, row.wire, row.doubt_since) == (State.RETRY, "", None)
    assert cancel_due(world, seconds=5) == {}
    assert world.deliver() == {"accepted": 2}

    assert_exact(world, meters, tokens=0, calls=0)
    assert world.calls() == ["accepted"] * 4


def test_past_the_day_an_unasked_cancellation_is_sent_as_a_negative_event(world, sent, meters):
    cancel(sent, world)

    world.advance(hours=22.9)
    assert world.deliver(hours=0.2) == {"fell_back": 2, "accepted": 2}

    assert_exact(world, meters, tokens=0, calls=0)
    assert cancelled_at_stripe(world) == []


@pytest.mark.parametrize("was_taken", [True, False])
def test_past_the_day_a_doubt_is_not_sent_but_left_to_stripes_total(world, sent, meters, was_taken):
    cancel(sent, world)
    SubmissionState.objects.filter(submission__meter=meters.calls, wire="cancel").update(
        next_action_at=world.now + timedelta(days=2)
    )
    world.emulator.faults.switch_on("answer_lost" if was_taken else "drop_before", path=PATH)
    assert cancel_due(world) == {"unknown": 1}

    assert cancel_due(world, hours=23.1) == {"fell_back": 1, "unproven": 1}

    negative = negative_of(sent)
    assert standing(negative).state == State.UNPROVEN
    assert Case.objects.get(reference=negative.identifier).quantity == -15
    world.emulator.faults.clear()
    world.deliver(days=3)
    assert world.counted() == (0 if was_taken else 15)
    assert books().is_conserved
    assert invariants.violations() == ()
    if was_taken:
        believed = settle(
            customer_id=sent.customer_id,
            meter_id=sent.meter_id,
            observed={sent.window_start: Decimal(0)},
            observed_at=world.now,
        )
        assert (believed.believed_count, believed.settled_count) == (1, 2)


def test_a_refusal_after_a_doubt_is_not_sent_but_left_to_stripes_total(world, sent, meters):
    """It says nothing of the earlier attempt; R3."""
    cancel(sent, world)
    world.emulator.faults.switch_on("drop_before", path=PATH, count=1)
    assert cancel_due(world) == {"unknown": 1, "accepted": 1}
    doubtful = SubmissionState.objects.get(state=State.IN_DOUBT)
    world.emulator.settings.change(adjustment_span_seconds=1)

    cancel_due(world, seconds=5)

    doubtful.refresh_from_db()
    assert doubtful.state == State.UNPROVEN
    assert Case.objects.filter(reference=doubtful.submission.identifier).count() == 1


def test_a_hour_whose_doubt_only_the_total_settles_is_left_alone(world, sent, meters):
    """F88."""
    cancel(sent, world)
    stuck = make_submission(
        customer=sent.customer, meter=meters.input, at=world.now, value=4, state=State.UNPROVEN
    )
    assert stuck.window_start == sent.window_start

    assert cancel_due(world) == {"accepted": 1}

    assert standing(negative_of(sent)).state == State.READY


def test_a_stray_repeat_of_the_original_is_over_before_it_is_cancelled(world, store, meters):
    """Whether a cancelled identifier is still refused is not known."""
    store(report("a", at=world.now, input_tokens=10))
    flush.flush_batches(now=world.now)
    world.emulator.faults.switch_on("answer_lost", path=EVENTS_PATH, count=1)
    began = world.now
    world.deliver()
    world.deliver(seconds=30)
    submission = Submission.objects.get(attempts__outcome="unknown")

    cancel(submission, world)

    row = standing(negative_of(submission))
    assert row.next_action_at == began + timedelta(minutes=15)


def expired(world, sent):
    world.advance(hours=23)


def in_doubt(world, sent):
    SubmissionState.objects.filter(submission=sent).update(state=State.UNPROVEN)


def on_the_stream(world, sent):
    SubmissionState.objects.filter(submission=sent).update(wire="stream")


def partly_voided(world, sent):
    event = UsageEvent.objects.get(event_id="a")
    void([EventKey(event.source_id, "a")], author="bob", reason="mine", now=world.now)


def cancelled_before(world, sent):
    cancel(sent, world)


def folded_otherwise(world, sent):
    PeriodBoundary.objects.create(customer=sent.customer, at=world.now.replace(minute=1))


def customer_moved(world, sent):
    Customer.objects.update(stripe_customer_id="cus_other")


def customer_lost(world, sent):
    Customer.objects.update(stripe_customer_id=None)


@pytest.mark.parametrize(
    ("happened", "obstacle"),
    [
        (expired, "too long ago"),
        (in_doubt, "not known to have it"),
        (on_the_stream, "not known to have it"),
        (partly_voided, "voided before"),
        (cancelled_before, "has been cancelled"),
        (folded_otherwise, "do not fold into it any more"),
        (customer_moved, "do not fold into it any more"),
        (customer_lost, "do not fold into it any more"),
    ],
)
def test_what_cannot_be_cancelled_is_refused_and_nothing_is_voided(world, sent, happened, obstacle):
    happened(world, sent)
    tables = (UsageEvent, Void, Submission, Cancellation)
    before = [list(table.objects.values()) for table in tables]

    with pytest.raises(CannotCancel, match=obstacle):
        cancel(sent, world)

    assert [list(table.objects.values()) for table in tables] == before


def test_what_takes_usage_back_is_not_cancelled_itself(world, sent, source, meters):
    void([EventKey(source.pk, "a")], author="bob", reason="mine", now=world.now)
    flush.flush_batches(now=world.now)
    world.deliver(seconds=10)
    negative = Submission.objects.get(meter=meters.input, value=-10)

    with pytest.raises(CannotCancel, match="takes usage back itself"):
        cancel(negative, world)


def test_a_settled_submission_of_the_stream_can_be_cancelled(world, sent, meters):
    SubmissionState.objects.filter(submission=sent).update(
        wire="stream", state=State.SETTLED, next_action_at=None
    )

    assert sent in cancel(sent, world).cancelled


def test_a_request_without_an_author_changes_nothing(world, sent):
    with pytest.raises(voiding.Unexplained):
        cancel_submission(sent, author="", reason="why", now=world.now)

    assert not Cancellation.objects.exists()
    assert UsageEvent.objects.count() == 2


def test_cancellations_are_facts(world, sent):
    cancel(sent, world)

    for statement in (
        "UPDATE usage_cancellation SET author = 'x'",
        "DELETE FROM usage_cancellation",
    ):
        with (
            pytest.raises(IntegrityError),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)

    assert Cancellation.objects.filter(author="ada").count() == 2


def test_a_refused_key_ends_the_pass_with_a_case(world, sent, settings):
    """F55."""
    cancel(sent, world)
    settings.STRIPE_SECRET_KEY = "nonsense"
    client._connection.cache_clear()

    assert cancel_due(world) == {"not_accepted": 1}

    assert Case.objects.get().kind == "misconfigured"
    assert standing(negative_of(sent)).wire == "cancel"
    client._connection.cache_clear()


def test_a_lease_that_is_over_sends_nothing(world, sent):
    cancel(sent, world)
    late = replace(claimed(world), lease_ends=0)

    [(_, verdict)] = calling.call([late])

    assert (verdict.state, verdict.outcome) == (State.RETRY, "not_accepted")
    assert cancelled_at_stripe(world) == []


@pytest.mark.parametrize(
    "words",
    [
        "The event with identifier x has already been cancelled.",
        "This meter event was already canceled",
    ],
)
def test_a_second_cancellation_is_told_in_either_spelling(words):
    assert adjustments.ALREADY.search(words)


def test_an_unknown_identifier_is_a_final_refusal(world):
    with pytest.raises(errors.Rejected):
        adjustments.cancel(
            event_name="mk_input_tokens",
            identifier="nobody",
            check=lambda: None,
            idempotency_key="k",
        )


@pytest.fixture
def sent_just_now(world, store, meters) -> Submission:
    """The same by the database's clock, which the admin and the command go by."""
    world.now = timezone.now()
    store(
        report("a", at=world.now, input_tokens=10),
        report("b", at=world.now, input_tokens=5),
        at=world.now,
    )
    flush.flush_batches(now=world.now)
    world.deliver()
    return Submission.objects.get(meter=meters.input)


def test_staff_cancel_a_submission_after_saying_why(world, sent_just_now, admin_client, meters):
    form = {"action": "cancel", "_selected_action": [sent_just_now.pk]}
    address = "/admin/usage/submission/"

    asked = admin_client.post(address, form, follow=True)
    assert b"Cancel submissions at Stripe" in asked.content
    assert not Void.objects.exists()
    done = admin_client.post(address, form | {"confirmed": "yes", "reason": "wrong"}, follow=True)
    again = admin_client.post(address, form | {"confirmed": "yes", "reason": "wrong"}, follow=True)

    assert b"Voided the events of 1 submission; Stripe is asked" in done.content
    assert b"it has been cancelled" in again.content
    assert LogEntry.objects.get().change_message == "Events voided, cancelled at Stripe: wrong"
    assert cancel_due(world, seconds=60) == {"accepted": 2}
    assert_exact(world, meters, tokens=0, calls=0)


def test_staff_without_the_permission_cannot_cancel(sent_just_now, client, django_user_model):
    staff = django_user_model.objects.create_user("eve", password="x", is_staff=True)
    staff.user_permissions.add(Permission.objects.get(codename="view_submission"))
    client.force_login(staff)
    form = {"action": "cancel", "_selected_action": [sent_just_now.pk]}

    client.post("/admin/usage/submission/", form | {"confirmed": "yes", "reason": "mine"})

    assert not Void.objects.exists()


def test_the_command_cancels_a_submission(world, sent_just_now, meters):
    out = StringIO()
    arguments = {"submission": sent_just_now.identifier, "reason": "wrong", "by": "ada"}

    call_command("void_events", **arguments, stdout=out)
    with pytest.raises(CommandError, match="it has been cancelled"):
        call_command("void_events", **arguments)
    with pytest.raises(CommandError, match="There is no submission 'nobody'"):
        call_command("void_events", submission="nobody", reason="wrong", by="ada")
    call_command("deliver", seconds=5, stdout=out)

    assert out.getvalue().startswith(
        "voided 2 events; Stripe is asked to cancel 2 submissions, 0 taken back by a negative meter"
        " event\n        2 accepted\n"
    )
    assert_exact(world, meters, tokens=0, calls=0)
