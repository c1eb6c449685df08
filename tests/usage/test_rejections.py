"""Stripe's error reports: fetched, stored once, believed only so far as they go (F54, F70-F76, I20)."""

from __future__ import annotations

import json
import random
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
import stripe as sdk
import time_machine
from django.db import IntegrityError, connection, connections, transaction
from django.urls import reverse

from billing.cases import open_case
from billing.enums import CaseKind, WebhookState
from billing.gateway import values
from billing.gateway.client import connection as stripe
from billing.models import Case, Customer, Meter, WebhookEvent
from billing.webhooks import inbox
from billing_project.webhook_routes import ROUTES
from tests.factories.usage import make_submission, move, states
from usage import rejections
from usage.enums import Outcome, Wire
from usage.invariants.reports import REPORT_INVARIANTS
from usage.lifecycle import State
from usage.models import (
    Attempt,
    ErrorReport,
    ErrorReportSample,
    ErrorReportType,
    SubmissionState,
)

pytestmark = pytest.mark.integration

THIN = "/webhooks/stripe/thin"
EVENTS = "/v2/core/events/*"
INVALID = "meter_event_invalid_value"


def violated() -> list[str]:
    """The invariants of reports that do not hold now."""
    found = []
    with connection.cursor() as cursor:
        for invariant in REPORT_INVARIANTS:
            cursor.execute(invariant.query, {})
            found += [f"{invariant.id} {text}" for (text,) in cursor.fetchall()]
    return found


# --- through Stripe: streamed, reported, told, fetched --------------------------------------------


@pytest.fixture
def account(world, settings, client):  # noqa: C901 - what a story needs, in one place
    """Stripe with thin webhooks to us, and rows that went over its stream."""
    world.emulator.forward(
        f"http://us.invalid{THIN}", settings.STRIPE_THIN_WEBHOOK_SECRETS[0], thin=True
    )
    acme, meter = Customer.objects.get(), Meter.objects.get(slug="input_tokens")

    def row(value=10, **more):
        return make_submission(
            customer=acme, meter=meter, at=world.now - timedelta(minutes=5), value=value, **more
        )

    def stream(*submissions, bad=(), outcome=State.ACCEPTED):
        """Send the rows as one request; those in `bad` go with a value Stripe refuses."""
        for submission in submissions:
            SubmissionState.objects.filter(pk=submission.pk).update(wire=Wire.STREAM)
            move(submission, State.SENDING, at=world.now)
        session = stripe().v2.billing.meter_event_session.create()
        events = []
        for submission in submissions:
            event = json.loads(submission.payload)
            event["timestamp"] = submission.timestamp.isoformat()
            if submission in bad:
                event["payload"]["value"] = "much"
            events.append(event)
        for start in range(0, len(events), 100):
            stripe().v2.billing.meter_event_stream.create(
                {"events": events[start : start + 100]}, {"api_key": session.authentication_token}
            )
        for submission in submissions:
            move(submission, outcome, at=world.now)
            if outcome == State.ACCEPTED:
                SubmissionState.objects.filter(pk=submission.pk).update(
                    next_action_at=world.now + timedelta(hours=36)
                )

    def deliver(deliveries=None, *, status=200):
        """Post what the emulator owes, or these deliveries; return them."""
        deliveries = world.emulator.pop_deliveries() if deliveries is None else deliveries
        with time_machine.travel(world.now, tick=False):
            for delivery in deliveries:
                answer = client.generic(
                    "POST",
                    THIN,
                    delivery.body,
                    content_type="application/json",
                    HTTP_STRIPE_SIGNATURE=delivery.headers["Stripe-Signature"],
                )
                assert answer.status_code == status
        return deliveries

    def handle(**later):
        with time_machine.travel(world.now + timedelta(**later), tick=False):
            return inbox.process_due(routes=ROUTES, limit=1_000, seconds=60)

    return SimpleNamespace(
        world=world,
        emulator=world.emulator,
        acme=acme,
        meter=meter,
        row=row,
        stream=stream,
        deliver=deliver,
        handle=handle,
    )


def test_a_named_refusal_is_rejected_and_its_neighbour_is_not(account):
    good, bad = account.row(10), account.row(7)
    account.stream(good, bad, bad=[bad])
    account.world.advance(seconds=10)

    account.deliver()
    result = account.handle()

    assert result.processed == 1
    assert states(good, bad) == ["accepted", "rejected"]
    standing = SubmissionState.objects.get(pk=bad.pk)
    report = ErrorReport.objects.get()
    assert standing.next_action_at is None
    assert report.stripe_event_id in standing.reason
    [case] = Case.objects.all()
    assert (case.kind, case.reference, case.quantity) == ("rejected", bad.identifier, 7)
    assert case.reason == standing.reason
    assert (report.meter, report.type) == (
        account.meter,
        "v1.billing.meter.error_report_triggered",
    )
    counts = (report.error_count, report.named_count, report.foreign_count, report.unsampled_count)
    assert counts == (1, 1, 0, 0)
    assert report.validation_end - report.validation_start == timedelta(seconds=10)
    assert report.resolution == "it names every event it counts"
    assert list(ErrorReportType.objects.values_list("code", "error_count", "named_count")) == [
        (INVALID, 1, 1)
    ]
    assert list(ErrorReportSample.objects.values_list("identifier", "submission", "effect")) == [
        (bad.identifier, bad.pk, "rejected")
    ]
    assert violated() == []


def test_five_hundred_refusals_ten_of_them_named_are_all_accounted_for(account):
    """F54: what is named is rejected at once, the rest is read at Stripe before anything else."""
    account.emulator.settings.change(report_samples=10)
    rows = [account.row(1) for _ in range(520)]
    account.stream(*rows, bad=rows[:500])
    account.world.advance(seconds=10)
    account.deliver()

    assert account.handle().processed == 1

    report = ErrorReport.objects.get()
    assert (report.error_count, report.named_count, report.unsampled_count) == (500, 10, 490)
    assert report.closed_at is None
    assert states(*rows) == ["rejected"] * 10 + ["accepted"] * 510
    due = SubmissionState.objects.filter(state="accepted", next_action_at__lte=report.received_at)
    assert due.count() == 510
    later = report.attempts_until
    assert rejections.close_resolved(now=later) == 0

    # As settlement ends: twenty were counted, the others proven absent and replaced.
    for number, row in enumerate(rows[10:], start=10):
        if number >= 500:
            move(row, State.SETTLED, at=later)
        else:
            move(row, State.UNPROVEN, at=later)
            if number == 499:
                assert rejections.close_resolved(now=later) == 0
            move(row, State.SUPERSEDED, at=later)

    assert rejections.close_resolved(now=later) == 1
    report.refresh_from_db()
    assert report.closed_at == later
    assert report.resolution == ("of what was sent then: 10 rejected, 20 settled, 490 superseded")
    assert rejections.close_resolved(now=later) == 0
    assert violated() == []


def test_a_delivery_only_names_what_to_fetch(account, client, settings):
    """F72, F75: a signed body with data of its own decides nothing; a report nobody made is none."""
    row = account.row(5)
    account.stream(row)
    body = json.dumps(
        {
            "id": "evt_made_up",
            "object": "v2.core.event",
            "type": "v1.billing.meter.error_report_triggered",
            "livemode": False,
            "related_object": {"id": account.meter.stripe_meter_id},
            "data": {
                "validation_start": account.world.now.isoformat(),
                "validation_end": account.world.now.isoformat(),
                "reason": {
                    "error_count": 1,
                    "error_types": [
                        {
                            "code": INVALID,
                            "error_count": 1,
                            "sample_errors": [{"request": {"identifier": row.identifier}}],
                        }
                    ],
                },
            },
        }
    )
    stamp = int(account.world.now.timestamp())
    secret = settings.STRIPE_THIN_WEBHOOK_SECRETS[0]
    header = sdk.WebhookSignature.generate_signature_header(body, secret, stamp)
    with time_machine.travel(account.world.now, tick=False):
        client.post(THIN, body, content_type="application/json", HTTP_STRIPE_SIGNATURE=header)

    assert account.handle().failed == 1

    assert (states(row), ErrorReport.objects.count()) == (["accepted"], 0)


def test_a_report_that_cannot_be_fetched_is_fetched_later(account):
    """F75."""
    bad = account.row()
    account.stream(bad, bad=[bad])
    account.world.advance(seconds=10)
    account.deliver()
    account.emulator.faults.switch_on("500_before", path=EVENTS, count=2)
    account.emulator.faults.switch_on("429", path=EVENTS, count=1)

    passes = [account.handle(hours=tries) for tries in range(4)]

    assert [each.failed for each in passes] == [1, 1, 1, 0]
    assert states(bad) == ["rejected"]
    assert ErrorReport.objects.count() == 1


@pytest.mark.parametrize("seed", range(8))
def test_reports_shuffled_doubled_and_forged_end_in_the_same_state(account, seed):
    """F70-F72, F76: the submissions decide, not the order; a forgery is nobody's event."""
    draw = random.Random(seed)  # noqa: S311 - a repeatable shuffle
    once = [account.row(value) for value in range(1, 5)]
    twice = account.row(20)
    account.stream(*once[:2], bad=once[:1])
    account.stream(twice, bad=[twice], outcome=State.IN_DOUBT)
    account.world.advance(seconds=10)
    owed = account.emulator.pop_deliveries()
    account.stream(*once[2:], bad=once[2:])
    account.stream(twice, bad=[twice])
    account.world.advance(seconds=10)
    owed += account.emulator.pop_deliveries()
    assert len(owed) == 2
    forged = [
        SimpleNamespace(body=each.body, headers={"Stripe-Signature": "t=1,v1=00"}) for each in owed
    ]

    mixed = owed * 3
    draw.shuffle(mixed)
    account.deliver(forged, status=400)
    for number in range(len(mixed)):
        account.deliver([mixed[number]])
        account.handle(minutes=number)
    for webhook in WebhookEvent.objects.all():
        inbox.handle_again(webhook, now=account.world.now)
    account.handle(minutes=30)

    assert states(*once, twice) == ["rejected", "accepted", "rejected", "rejected", "unproven"]
    assert ErrorReport.objects.count() == WebhookEvent.objects.count() == 2
    assert sorted(Case.objects.values_list("kind", "quantity")) == [
        ("rejected", 1),
        ("rejected", 3),
        ("rejected", 4),
        ("unproven", 20),
    ]
    assert set(WebhookEvent.objects.values_list("state", flat=True)) == {WebhookState.PROCESSED}
    assert violated() == []


def test_a_meter_that_stripe_does_not_find_is_a_persons_matter(account):
    lost = account.row(5)
    move(lost, State.SENDING, at=account.world.now)
    event = json.loads(lost.payload)
    event |= {"event_name": "nothing", "timestamp": lost.timestamp.isoformat()}
    session = stripe().v2.billing.meter_event_session.create()
    stripe().v2.billing.meter_event_stream.create(
        {"events": [event]}, {"api_key": session.authentication_token}
    )
    move(lost, State.ACCEPTED, at=account.world.now)
    account.world.advance(seconds=10)
    account.deliver()

    assert account.handle().processed == 1

    assert states(lost) == ["rejected"]
    report = ErrorReport.objects.get()
    assert (report.type, report.meter) == ("v1.billing.meter.no_meter_found", None)
    case = Case.objects.get(kind="meter")
    assert case.reference == "input_tokens"
    assert "no_meter" in case.reason


# --- what a report means for a submission ---------------------------------------------------------


@pytest.fixture
def made(acme, meters, now):
    """Make a submission of the hour, attempted a minute ago."""

    def made(state, value=10, **fields):
        fields.setdefault("attempted_at", now - timedelta(minutes=1))
        fields.setdefault("meter", meters.input)
        return make_submission(
            customer=acme, at=now - timedelta(minutes=5), value=value, state=state, **fields
        )

    return made


def reported(
    now,
    *identifiers,
    code=INVALID,
    count=None,
    event_id="evt_1",
    meter_id="mtr_input_tokens",
    more=(),
):
    """A report of the last seconds that names `identifiers` under one code."""
    types = (
        values.ReportedErrors(
            code,
            len(identifiers) if count is None else count,
            tuple(values.ErrorSample(each, "No such thing.") for each in identifiers),
        ),
        *more,
    )
    return values.ErrorReport(
        event_id=event_id,
        type="v1.billing.meter.error_report_triggered"
        if meter_id
        else "v1.billing.meter.no_meter_found",
        created_at=now,
        meter_id=meter_id,
        validation_start=now - timedelta(seconds=10),
        validation_end=now,
        summary="There are invalid events",
        error_count=sum(each.error_count for each in types),
        types=types,
    )


def call(submission, state, *, at):
    """One more attempt."""
    move(submission, State.SENDING, at=at)
    move(submission, state, at=at)


def accepted_after(first):
    """How a row gets accepted at the second call."""

    def prepare(made, now):
        submission = made(first)
        call(submission, State.ACCEPTED, at=now)
        return submission

    return prepare


def known_before(made, now):
    """Accepted because Stripe knew the identifier: some call no longer on record was taken."""
    submission = made(State.SENDING)
    Attempt.objects.filter(submission=submission).update(outcome=Outcome.DUPLICATE, finished_at=now)
    SubmissionState.objects.filter(pk=submission.pk).update(state=State.ACCEPTED)
    return submission


def believed(made, now):
    """Accepted because Stripe's total holds it."""
    submission = made(State.UNPROVEN)
    SubmissionState.objects.filter(pk=submission.pk).update(state=State.ACCEPTED, doubt_since=None)
    return submission


def recounted(made, now):
    submission = made(State.ACCEPTED)
    SubmissionState.objects.filter(pk=submission.pk).update(recount=True)
    return submission


def doubtful_retry(made, now):
    submission = made(State.IN_DOUBT)
    call(submission, State.RETRY, at=now)
    return submission


def simply(state):
    return lambda made, _: made(state)


@pytest.mark.parametrize(
    ("prepare", "state", "effect", "case"),
    [
        (simply(State.ACCEPTED), "rejected", "rejected", "rejected"),
        (accepted_after(State.RETRY), "rejected", "rejected", "rejected"),
        (accepted_after(State.IN_DOUBT), "unproven", "unproven", "unproven"),
        (known_before, "unproven", "unproven", "unproven"),
        (believed, "unproven", "unproven", "unproven"),
        (recounted, "unproven", "unproven", "unproven"),
        (simply(State.IN_DOUBT), "unproven", "unproven", "unproven"),
        (doubtful_retry, "unproven", "unproven", "unproven"),
        (simply(State.RETRY), "retry", "unchanged", None),
        (simply(State.READY), "ready", "contradicted", "error_report"),
        (simply(State.SETTLED), "settled", "contradicted", "error_report"),
        (simply(State.UNPROVEN), "unproven", "unchanged", None),
        (simply(State.REJECTED), "rejected", "unchanged", None),
        (simply(State.SUPERSEDED), "superseded", "unchanged", None),
        (simply(State.EXPIRED), "expired", "unchanged", None),
        (simply(State.WRITTEN_OFF), "written_off", "unchanged", None),
    ],
)
def test_a_named_submission_goes_where_its_calls_allow(made, now, prepare, state, effect, case):
    """F54: REJECTED only where no other call can have been counted."""
    submission, bystander = prepare(made, now), made(State.ACCEPTED)

    assert rejections.record(reported(now, submission.identifier), now=now)
    first = SubmissionState.objects.filter(pk=submission.pk).values().get()
    assert rejections.record(reported(now, submission.identifier), now=now + timedelta(hours=1))
    second = reported(now, submission.identifier, event_id="evt_2")
    assert rejections.record(second, now=now + timedelta(hours=1))

    assert states(submission, bystander) == [state, "accepted"]
    assert SubmissionState.objects.filter(pk=submission.pk).values().get() == first
    assert list(Case.objects.values_list("kind", "reference", "quantity")) == (
        [(case, submission.identifier, 10)] if case else []
    )
    told = list(ErrorReportSample.objects.order_by("id").values_list("effect", flat=True))
    assert told == [effect, effect if effect == "contradicted" else "unchanged"]
    assert violated() == []


def test_a_report_waits_for_a_call_that_is_not_over(made, now):
    done, flying = made(State.ACCEPTED), made(State.SENDING)
    report = reported(now, done.identifier, flying.identifier)

    with pytest.raises(rejections.StillSending):
        rejections.record(report, now=now)
    assert (states(done, flying), ErrorReport.objects.count()) == (["accepted", "sending"], 0)
    assert Case.objects.count() == 0

    move(flying, State.ACCEPTED, at=now)
    assert rejections.record(report, now=now)
    assert states(done, flying) == ["rejected", "rejected"]


@pytest.mark.parametrize("code", ["duplicate_meter_event", "meter_event_DUPLICATE_identifier"])
def test_a_report_of_a_duplicate_never_rejects(made, now, code):
    submission = made(State.ACCEPTED)
    flying = made(State.SENDING)

    rejections.record(reported(now, submission.identifier, flying.identifier, code=code), now=now)

    assert states(submission, flying) == ["accepted", "sending"]
    assert Case.objects.count() == 0
    assert set(ErrorReportSample.objects.values_list("effect", flat=True)) == {"duplicate"}
    assert ErrorReport.objects.get().named_count == 2


def test_a_refusal_counts_although_a_duplicate_is_reported_as_well(made, now):
    submission = made(State.ACCEPTED)
    duplicate = values.ReportedErrors(
        "duplicate_meter_event", 1, (values.ErrorSample(submission.identifier, "known"),)
    )

    rejections.record(reported(now, submission.identifier, more=[duplicate]), now=now)

    assert states(submission) == ["rejected"]
    report = ErrorReport.objects.get()
    assert (report.error_count, report.named_count, report.unsampled_count) == (2, 1, 1)
    assert violated() == []


def test_a_key_that_begins_with_the_identifier_names_it_too(made, now):
    submission = made(State.ACCEPTED)

    rejections.record(reported(now, f"{submission.identifier}.5f3a"), now=now)

    assert states(submission) == ["rejected"]


def test_events_of_others_are_counted_as_foreign(made, now):
    submission = made(State.ACCEPTED)

    rejections.record(reported(now, submission.identifier, "theirs", "", count=7), now=now)

    report = ErrorReport.objects.get()
    counts = (report.error_count, report.named_count, report.foreign_count, report.unsampled_count)
    assert counts == (7, 1, 1, 5)
    assert list(ErrorReportSample.objects.order_by("id").values_list("submission", "effect")) == [
        (submission.pk, "rejected"),
        (None, "foreign"),
        (None, "foreign"),
    ]
    assert violated() == []


def test_a_report_that_names_more_than_it_counts_counts_what_it_names(made, now):
    submissions = made(State.ACCEPTED), made(State.ACCEPTED)

    rejections.record(reported(now, *(each.identifier for each in submissions), count=1), now=now)

    report = ErrorReport.objects.get()
    assert (report.error_count, report.named_count, report.unsampled_count) == (2, 2, 0)
    assert violated() == []


@pytest.mark.parametrize(
    ("report", "concerns"),
    [
        (lambda now: reported(now, "theirs", count=9, meter_id="mtr_theirs"), False),
        (lambda now: reported(now, "theirs", meter_id=""), False),
        (lambda now: reported(now, "theirs", count=9, meter_id=""), True),
    ],
)
def test_what_others_did_wrong_leaves_no_trace(made, now, report, concerns):
    """Unless it may be ours after all: uncounted events of no meter, while we were sending."""
    made(State.ACCEPTED)

    assert rejections.record(report(now), now=now) is concerns
    assert ErrorReport.objects.count() == int(concerns)


@pytest.mark.parametrize("code", ["no_meter", "archived_meter"])
def test_a_meter_that_is_not_active_is_a_case(made, now, code):
    made(State.ACCEPTED)

    rejections.record(reported(now, code=code, count=3), now=now)

    case = Case.objects.get()
    assert (case.kind, case.reference) == ("meter", "input_tokens")
    assert code in Meter.objects.get(slug="input_tokens").blocked


# --- the unsampled rest ---------------------------------------------------------------------------


def minutes_before(now, minutes):
    return now - timedelta(seconds=10) - timedelta(minutes=minutes)


def test_suspects_are_what_was_sent_to_that_meter_in_that_window(made, meters, now):
    inside = made(State.ACCEPTED, attempted_at=minutes_before(now, 17))
    doubtful = made(State.UNPROVEN, attempted_at=now)
    before = made(State.ACCEPTED, attempted_at=minutes_before(now, 17.01))
    after = made(State.ACCEPTED, attempted_at=now + timedelta(minutes=2))
    settled = made(State.SETTLED)
    elsewhere = made(State.ACCEPTED, meter=meters.calls)
    later = now + timedelta(hours=36)
    SubmissionState.objects.filter(next_action_at__isnull=False).update(next_action_at=later)

    rejections.record(reported(now, count=1), now=now)

    hurried = SubmissionState.objects.filter(next_action_at=now)
    assert [each.pk for each in hurried] == [inside.pk]
    assert set(rejections._suspected(ErrorReport.objects.get()).values_list("pk", flat=True)) == {
        inside.pk,
        doubtful.pk,
    }
    assert states(before, after, settled, elsewhere) == [
        "accepted",
        "accepted",
        "settled",
        "accepted",
    ]


def test_a_wait_between_two_calls_is_left_alone(made, now):
    waits = made(State.RETRY)
    later = now + timedelta(minutes=4)
    SubmissionState.objects.filter(pk=waits.pk).update(next_action_at=later)

    rejections.record(reported(now, count=1), now=now)

    assert SubmissionState.objects.get(pk=waits.pk).next_action_at == later
    assert ErrorReport.objects.get().closed_at is None


def test_a_report_does_not_close_while_a_call_may_still_join_its_window(made, now):
    rejections.record(reported(now, count=1), now=now)
    until = ErrorReport.objects.get().attempts_until

    assert rejections.close_resolved(now=until - timedelta(microseconds=1)) == 0
    assert rejections.close_resolved(now=until) == 1
    assert ErrorReport.objects.get().resolution == "of what was sent then: nothing"


def test_a_report_open_for_three_days_is_a_case_until_it_closes(made, now):
    submission = made(State.ACCEPTED)
    rejections.record(reported(now, count=4), now=now)
    rejections.record(reported(now, count=5, event_id="evt_2"), now=now + timedelta(hours=1))

    rejections.close_resolved(now=now + timedelta(hours=72) - timedelta(microseconds=1))
    assert Case.objects.count() == 0
    rejections.close_resolved(now=now + timedelta(hours=72))
    case = Case.objects.get()
    assert (case.kind, case.reference) == ("error_report", "input_tokens")
    assert case.reason.startswith("4 events that Stripe refused are not found after 72 h: 1 open")
    rejections.close_resolved(now=now + timedelta(hours=73))
    case.refresh_from_db()
    assert "9 events" in case.reason

    move(submission, State.SETTLED, at=now)
    assert rejections.close_resolved(now=now + timedelta(hours=74)) == 2
    case.refresh_from_db()
    assert case.closed_at is not None
    assert violated() == []


# --- the guards -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda: ErrorReportType.objects.update(error_count=0),
        lambda: ErrorReportSample.objects.all().delete(),
        lambda: ErrorReport.objects.update(unsampled_count=0, error_count=1),
        lambda: ErrorReport.objects.create(
            **{
                key: value
                for key, value in ErrorReport.objects.values().get().items()
                if key != "id"
            }
        ),
    ],
)
def test_the_database_refuses_to_change_a_report(made, now, change):
    rejections.record(reported(now, made(State.ACCEPTED).identifier, count=3), now=now)

    with pytest.raises(IntegrityError), transaction.atomic():
        change()


def test_a_closed_report_stays_closed(made, now):
    rejections.record(reported(now, made(State.ACCEPTED).identifier), now=now)

    with pytest.raises(IntegrityError), transaction.atomic():
        ErrorReport.objects.update(closed_at=None)


TAMPERING = {
    "I20": "DELETE FROM usage_errorreportsample",
    "I20a": "UPDATE usage_errorreport SET stripe_event_id = 'evt_other'",
    "I20b": "UPDATE usage_submissionstate SET state = 'accepted' WHERE state = 'rejected'",
    "I20c": "UPDATE usage_errorreport SET closed_at = now()",
}


@pytest.mark.parametrize("invariant", [each.id for each in REPORT_INVARIANTS])
def test_tampering_with_reports_past_the_guards_is_found(made, now, invariant):
    """I20."""
    made(State.ACCEPTED)
    WebhookEvent.objects.create(
        stripe_event_id="evt_1",
        kind="thin",
        type="v1.billing.meter.error_report_triggered",
        live_mode=False,
        body="{}",
        state=WebhookState.PROCESSED,
    )
    rejections.record(reported(now, made(State.ACCEPTED).identifier, count=3), now=now)
    assert violated() == []

    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(TAMPERING[invariant])
        assert cursor.rowcount
        cursor.execute("SET LOCAL session_replication_role = origin")

    assert invariant in {each.partition(" ")[0] for each in violated()}


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_two_workers_with_one_report_record_it_once(transactional_db, made, now):
    """F70."""
    submission = made(State.ACCEPTED)
    start = threading.Barrier(4)
    answers = []

    def worker() -> None:
        start.wait()
        answers.append(rejections.record(reported(now, submission.identifier), now=now))
        connections.close_all()

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [True] * 4
    assert (ErrorReport.objects.count(), ErrorReportSample.objects.count()) == (1, 1)
    assert (states(submission), Case.objects.count()) == (["rejected"], 1)


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_call_that_begins_while_a_report_waits_for_its_row_is_waited_for(
    transactional_db, made, now
):
    doubtful = made(State.IN_DOUBT)
    raised = []

    def worker() -> None:
        try:
            rejections.record(reported(now, doubtful.identifier), now=now)
        except rejections.StillSending as waits:
            raised.append(waits)
        connections.close_all()

    with transaction.atomic():
        SubmissionState.objects.select_for_update().get(pk=doubtful.pk)
        thread = threading.Thread(target=worker)
        thread.start()
        thread.join(timeout=0.5)
        assert thread.is_alive()
        move(doubtful, State.SENDING, at=now)
    thread.join()

    assert len(raised) == 1
    assert (states(doubtful), ErrorReport.objects.count()) == (["sending"], 0)


# --- in the admin ---------------------------------------------------------------------------------


def address(name, page="changelist", *args):
    return reverse(f"admin:{name}_{page}", args=args)


def test_the_admin_leads_from_a_case_to_the_report_and_back(admin_client, made, now):
    named, plain = made(State.ACCEPTED), made(State.UNPROVEN)
    rejections.record(reported(now, named.identifier, "theirs", count=1_500), now=now)
    open_case(kind=CaseKind.UNPROVEN, reference=plain.identifier, reason="?", deadline_at=now)
    report = ErrorReport.objects.get()
    cases = {case.reference: case for case in Case.objects.all()}

    shown = {
        reference: admin_client.get(address("billing_case", "change", case.pk)).content.decode()
        for reference, case in cases.items()
    }
    listed = admin_client.get(address("usage_errorreport"), {"q": named.identifier})
    page = admin_client.get(address("usage_errorreport", "change", report.pk)).content.decode()

    to_report = f"{address('usage_errorreport')}?q={named.identifier}"
    assert to_report in shown[named.identifier]
    assert address("usage_errorreport") + "?q=" not in shown[plain.identifier]
    assert f"{address('usage_submission')}?q={plain.identifier}" in shown[plain.identifier]
    assert "1,498" in listed.content.decode()
    assert f"{address('usage_submission')}?q={named.identifier}" in page
    assert "theirs" in page
    assert 'name="_save"' not in page
    other = admin_client.get(address("usage_errorreport"), {"q": plain.identifier})
    assert "evt_1" not in other.content.decode()
    for state, is_listed in (("open", True), ("closed", False)):
        found = admin_client.get(address("usage_errorreport"), {"state": state}).content.decode()
        assert ("evt_1" in found) is is_listed
    assert admin_client.get(address("usage_errorreport", "add")).status_code == 403
    delete = address("usage_errorreport", "delete", report.pk)
    assert admin_client.post(delete).status_code == 403
