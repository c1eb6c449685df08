"""The nightly sweep over Stripe's events: what never arrived is fetched, once, however it goes."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.core.management import CommandError
from django.db import connection

from billing import tasks
from billing.enums import Arrival, CaseKind, WebhookKind, WebhookState
from billing.gateway import events as at_stripe
from billing.gateway.errors import Rejected
from billing.models import Case, WebhookEvent, WebhookSweep
from billing.webhooks import outage, sweep
from billing.webhooks.sweep import PassResult
from billing_project.webhook_routes import ROUTES
from stripe_emulator.core import events
from tests.factories.billing import make_webhook_event

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

NOW = datetime(2026, 11, 20, 12, 30, 15, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def stripe_(emulator):
    """Stripe at our instant, whose clock the test moves."""
    emulator.clock.set(NOW.timestamp(), frozen=True)
    return emulator


def happen(emulator, count=1, *, type_="invoice.paid", ago=HOUR, livemode=False):
    """Let events happen at Stripe; return their ids."""
    emulator.clock.set((NOW - ago).timestamp(), frozen=True)
    made = [
        events.emit(
            emulator.world, type_, {"id": f"in_{number}", "object": "invoice", "livemode": livemode}
        )["id"]
        for number in range(count)
    ]
    emulator.clock.set(NOW.timestamp(), frozen=True)
    return made


def happen_thinly(emulator, type_="v1.billing.meter.error_report_triggered", *, ago=HOUR):
    emulator.clock.set((NOW - ago).timestamp(), frozen=True)
    made = events.emit_thin(
        emulator.world,
        type_,
        livemode=False,
        data={"reason": {}},
        related_object={"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
    )
    emulator.clock.set(NOW.timestamp(), frozen=True)
    return made["id"]


def swept(*, at=NOW, seconds=30, **more):
    return sweep.sweep(routes=ROUTES, clock=lambda: at, seconds=seconds, **more)


def stored():
    return set(WebhookEvent.objects.values_list("stripe_event_id", flat=True))


def reads(emulator):
    return [
        each.path for each in emulator.arrivals if each.path in {"/v1/events", "/v2/core/events"}
    ]


# --- what is fetched ------------------------------------------------------------------------------


def test_only_what_never_arrived_is_fetched_and_waits_in_the_inbox(stripe_):
    arrived, lost = happen(stripe_, 2)
    make_webhook_event(arrived, body="as it was signed")

    result = swept()

    assert (result.listed, result.missing, result.is_finished) == (2, 1, True)
    row = WebhookEvent.objects.get(stripe_event_id=lost)
    assert (row.arrived_by, row.state, row.attempt_count) == (
        Arrival.SWEEP,
        WebhookState.PENDING,
        0,
    )
    assert (row.kind, row.type, row.object_id) == (WebhookKind.SNAPSHOT, "invoice.paid", "in_1")
    assert (row.live_mode, row.received_at, row.next_attempt_at) == (False, NOW, NOW)
    assert f'"id": "{lost}"' in row.body
    assert '"object": "event"' in row.body
    row = WebhookEvent.objects.get(stripe_event_id=arrived)
    assert (row.arrived_by, row.body) == (Arrival.WEBHOOK, "as it was signed")


def test_thin_events_are_fetched_as_thin_ones(stripe_):
    lost = happen_thinly(stripe_)

    assert swept().missing == 1

    row = WebhookEvent.objects.get()
    assert (row.stripe_event_id, row.kind, row.object_id) == (lost, WebhookKind.THIN, "mtr_1")


def test_a_type_nobody_handles_is_not_fetched(stripe_):
    happen(stripe_, type_="charge.succeeded")
    happen(stripe_, type_="invoiceitem.created")

    assert swept() == PassResult(sweep_id=WebhookSweep.objects.get().pk)
    assert stored() == set()


def test_a_change_told_in_both_kinds_is_fetched_as_the_snapshot_an_endpoint_waits_for(stripe_):
    happen_thinly(stripe_, "v1.customer.subscription.updated")

    assert swept().missing == 0


def test_every_route_is_listed_or_has_a_snapshot_twin_that_is():
    asked = sweep.queries(ROUTES)

    assert asked == sorted(asked)
    for key in ROUTES:
        assert key in asked or key.removeprefix("v1.") in asked
    # A list of thin events takes no patterns.
    assert [key for key in asked if key.startswith("v") and key.endswith("*")] == []


def test_events_of_the_other_mode_are_not_fetched(stripe_):
    happen(stripe_, livemode=True)

    assert swept().listed == 0


def test_all_pages_of_both_lists_are_read(stripe_):
    made = set(happen(stripe_, 2 * at_stripe.PER_PAGE + 1))
    made |= {happen_thinly(stripe_) for _ in range(at_stripe.PER_PAGE + 1)}

    result = swept()

    assert (result.listed, result.missing) == (302, 302)
    assert stored() == made


@pytest.mark.parametrize("number", [at_stripe.PER_PAGE, 2 * at_stripe.PER_PAGE])
def test_a_whole_last_page_is_no_trouble(stripe_, number):
    happen(stripe_, number)

    assert swept().missing == number
    assert swept().missing == 0


def test_a_webhook_that_may_be_on_its_way_is_left_to_come(stripe_):
    happen(stripe_, ago=sweep.UNDER_WAY - timedelta(seconds=1))
    [older] = happen(stripe_, ago=sweep.UNDER_WAY + timedelta(seconds=1))

    swept()

    assert stored() == {older}


def test_a_late_webhook_of_a_fetched_event_changes_nothing(client, stripe_, settings):
    stripe_.forward("http://us.invalid/webhooks/stripe", settings.STRIPE_WEBHOOK_SECRETS[0])
    happen(stripe_)
    swept()
    WebhookEvent.objects.update(state=WebhookState.PROCESSED, next_attempt_at=None)

    with time_machine.travel(NOW, tick=False):
        [delivery] = stripe_.pop_deliveries()
        answer = client.generic(
            "POST",
            "/webhooks/stripe",
            delivery.body,
            content_type="application/json",
            HTTP_STRIPE_SIGNATURE=delivery.headers["Stripe-Signature"],
        )

    assert answer.status_code == 200
    [row] = WebhookEvent.objects.all()
    assert (row.state, row.arrived_by) == (WebhookState.PROCESSED, Arrival.SWEEP)


# --- how far back ---------------------------------------------------------------------------------


def test_days_of_the_setting_are_listed(stripe_, settings):
    settings.BILLING_WEBHOOK_SWEEP_DAYS = 2
    happen(stripe_, ago=2 * DAY + HOUR)
    [within] = happen(stripe_, ago=2 * DAY)

    swept()

    assert stored() == {within}


def test_where_no_sweep_has_been_for_longer_it_reaches_back_to_the_last_one(stripe_):
    swept(at=NOW - 9 * DAY)
    lost = happen(stripe_, ago=9 * DAY) + happen(stripe_, ago=6 * DAY)

    assert swept().missing == 2
    assert stored() == set(lost)


def test_it_reaches_back_as_far_as_it_is_told_and_no_further_than_stripe_keeps(stripe_):
    happen(stripe_, ago=29 * DAY)
    assert swept().missing == 0

    assert swept(since=NOW - 300 * DAY).missing == 1
    assert WebhookSweep.objects.first().since == (NOW - at_stripe.KEPT)


def test_a_sweep_under_way_begins_anew_when_it_is_to_reach_further(stripe_):
    happen(stripe_, ago=20 * DAY)
    assert not swept(seconds=0).is_finished

    result = swept(since=NOW - 21 * DAY)

    assert (result.is_finished, result.missing) == (True, 1)
    assert WebhookSweep.objects.count() == 1


# --- interrupted, repeated, at once ---------------------------------------------------------------


def test_one_sweep_begins_a_day_and_is_gone_on_with_until_it_is_done(stripe_):
    midnight = NOW.replace(hour=0, minute=0, second=0)
    happen(stripe_, ago=DAY)

    def nightly(at, seconds=30):
        return sweep.sweep_nightly(routes=ROUTES, clock=lambda: at, seconds=seconds)

    first = nightly(midnight, seconds=0)
    assert (first.is_finished, first.may_go_on, first.missing) == (False, True, 0)
    assert nightly(midnight + HOUR) == PassResult(first.sweep_id, listed=1, missing=1)
    assert nightly(midnight + 2 * HOUR) == PassResult()
    assert nightly(midnight + DAY - timedelta(seconds=1)) == PassResult()
    assert nightly(midnight + DAY).sweep_id == first.sweep_id + 1


def test_a_sweep_that_stripe_interrupts_goes_on_from_its_last_page(stripe_):
    made = happen(stripe_, 250)
    # Two queries about customers come first; the third page of the next one fails.
    stripe_.faults.switch_on("503", path="/v1/events", skip=4, count=1)

    first = swept()
    assert (first.missing, first.is_finished, first.may_go_on) == (200, False, False)
    row = WebhookSweep.objects.get()
    assert (row.query, row.missing_count, bool(row.last_error)) == ("invoice.*", 200, True)
    second = swept()

    assert (second.listed, second.missing, second.is_finished) == (50, 50, True)
    assert stored() == set(made)
    row.refresh_from_db()
    assert (row.listed_count, row.missing_count, row.last_error) == (250, 250, "")
    assert Case.objects.filter(kind=CaseKind.MISCONFIGURED).count() == 0


def test_a_place_that_stripe_has_forgotten_has_its_type_listed_again(stripe_):
    happen(stripe_, 150)
    stripe_.faults.switch_on("503", path="/v1/events", skip=3, count=1)
    swept()
    WebhookSweep.objects.update(cursor="evt_forgotten")

    result = swept()

    assert (result.is_finished, result.listed, result.missing) == (True, 150, 50)


@pytest.mark.parametrize("fault", ["400", "401", "403"])
def test_a_list_that_is_refused_becomes_a_case_until_it_is_answered(stripe_, fault):
    happen(stripe_)
    stripe_.faults.switch_on(fault, path="/v1/events")

    result = swept()
    assert (result.is_finished, result.may_go_on, bool(result.error)) == (False, False, True)
    [case] = Case.objects.all()
    assert (case.kind, case.reference, case.closed_at) == (CaseKind.MISCONFIGURED, "events", None)
    stripe_.faults.clear()
    assert swept().missing == 1

    case.refresh_from_db()
    assert case.closed_at is not None


def test_a_pass_without_time_lists_nothing(stripe_):
    happen(stripe_)

    assert swept(seconds=0).may_go_on
    assert reads(stripe_) == []


def test_reads_are_taken_from_the_shared_limit(stripe_, settings):
    happen(stripe_, 3, type_="customer.subscription.updated")
    settings.STRIPE_RATE_LIMITS = dict.fromkeys(settings.STRIPE_RATE_LIMITS, 2)

    # On a clock that stands still a bucket of two is never filled again.
    result = swept(seconds=0.2)

    assert len(reads(stripe_)) == 2
    assert (result.may_go_on, result.missing) == (True, 3)


def test_a_pass_that_another_overtook_changes_nothing(stripe_, monkeypatch):
    made = happen(stripe_, 120)
    page, others = at_stripe.page, []

    def overtaken(**asked):
        answer = page(**asked)
        if not others:
            others.append(None)
            others[0] = swept()
        return answer

    monkeypatch.setattr(at_stripe, "page", overtaken)
    slow = swept()

    assert (others[0].missing, others[0].is_finished) == (120, True)
    assert (slow.listed, slow.missing, slow.may_go_on) == (0, 0, False)
    [row] = WebhookSweep.objects.all()
    assert (row.listed_count, row.missing_count) == (120, 120)
    assert stored() == set(made)


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_two_sweeps_at_once_fetch_each_event_once(stripe_):
    made = happen(stripe_, 350)
    results, meeting = [], threading.Barrier(2, timeout=10)

    def work():
        try:
            meeting.wait()
            results.append(swept())
        finally:
            connection.close()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert sum(each.missing for each in results) == 350
    assert stored() == set(made)
    assert sum(WebhookSweep.objects.values_list("missing_count", flat=True)) == 350


@pytest.mark.parametrize("struck", range(1, 6))
def test_a_process_that_ends_while_it_records_leaves_a_whole_page_or_none(
    stripe_, monkeypatch, struck
):
    made = happen(stripe_, 250)
    record_missing, calls = sweep.inbox.record_missing, []

    class Killed(BaseException):
        pass

    def killed(*arguments, **named):
        count = record_missing(*arguments, **named)
        calls.append(count)
        if len(calls) == struck:
            raise Killed
        return count

    monkeypatch.setattr(sweep.inbox, "record_missing", killed)
    with pytest.raises(Killed):
        swept()
    result = swept()

    assert result.is_finished
    assert stored() == set(made)
    assert WebhookSweep.objects.get().missing_count == 250


# --- telling staff --------------------------------------------------------------------------------


def cases():
    return Case.objects.filter(kind=CaseKind.WEBHOOKS_MISSING)


def test_a_few_missing_events_are_fetched_without_a_case(stripe_):
    happen(stripe_, outage.FEW)

    assert swept().missing == outage.FEW
    assert cases().count() == 0


def test_many_missing_events_are_one_case_that_says_what_to_do(stripe_):
    happen(stripe_, outage.FEW, type_="invoice.paid")
    happen(stripe_, 2, type_="customer.subscription.updated")

    swept()
    happen(stripe_, 9, type_="invoice.created")
    swept(at=NOW + HOUR)

    [case] = cases()
    assert (case.closed_at, case.owner, case.deadline_at) == (None, None, NOW + DAY)
    assert case.reason.startswith("9 of the 16 events")
    assert "9 invoice.created" in case.reason
    assert "Check the endpoints at Stripe" in case.reason


def test_the_case_is_closed_when_webhooks_arrive_again_and_none_is_missing(stripe_):
    happen(stripe_, outage.FEW + 1)
    swept()
    [case] = cases()

    # A quiet night: nothing was missing, because nothing happened.
    swept(at=NOW + DAY)
    case.refresh_from_db()
    assert case.closed_at is None
    # One arrives, but another is still missing.
    [arrived, _] = happen(stripe_, 2)
    make_webhook_event(arrived, received_at=case.opened_at + HOUR)
    assert swept(at=NOW + DAY + HOUR).missing == 1
    case.refresh_from_db()
    assert case.closed_at is None
    assert swept(at=NOW + 2 * DAY).missing == 0

    case.refresh_from_db()
    assert case.closed_at is not None


# --- task and command -----------------------------------------------------------------------------


def test_the_task_sweeps_by_the_projects_routes_and_asks_for_the_rest(
    emulator, monkeypatch, django_capture_on_commit_callbacks
):
    for _ in range(2):
        events.emit(
            emulator.world, "invoice.paid", {"id": "in_1", "object": "invoice", "livemode": False}
        )
    emulator.clock.advance(3600)
    monkeypatch.setattr(tasks.sweep, "UNDER_WAY", -HOUR)
    asked = []
    monkeypatch.setattr(tasks.wakeups, "after_commit", asked.append)

    monkeypatch.setattr(tasks, "EVENT_SWEEP_SECONDS", 0)
    tasks.sweep_webhooks()
    assert asked == ["billing.sweep_webhooks"]
    monkeypatch.undo()
    monkeypatch.setattr(tasks.wakeups, "after_commit", asked.append)
    tasks.sweep_webhooks()
    tasks.sweep_webhooks()

    assert asked == ["billing.sweep_webhooks", "billing.process_webhooks"]
    assert WebhookEvent.objects.count() == 2


def test_the_command_tells_what_it_fetched(emulator, run):
    emulator.clock.advance(-3 * 86_400)
    events.emit(
        emulator.world, "invoice.paid", {"id": "in_1", "object": "invoice", "livemode": False}
    )
    emulator.clock.run()

    first, second = run("sweep_webhooks"), run("sweep_webhooks")

    assert first.stdout.startswith("Events: 1 listed, 1 had not arrived")
    assert second.stdout.startswith("Events: 1 listed, 0 had not arrived")


def test_the_command_reaches_back_as_far_as_it_is_told(emulator, run):
    emulator.clock.advance(-20 * 86_400)
    events.emit(
        emulator.world, "invoice.paid", {"id": "in_1", "object": "invoice", "livemode": False}
    )
    emulator.clock.run()
    since = datetime.now(UTC) - 21 * DAY

    assert run("sweep_webhooks").stdout.startswith("Events: 0 listed")
    assert run("sweep_webhooks", f"--since={since.isoformat()}").stdout.startswith("Events: 1 ")
    for nonsense in ("2026-11-20", "yesterday", "2020-01-31T00:00:00Z"):
        with pytest.raises(CommandError):
            run("sweep_webhooks", f"--since={nonsense}")


def test_the_command_says_that_it_is_not_done(emulator, run):
    with pytest.raises(CommandError, match="run it again"):
        run("sweep_webhooks", "--seconds=0")
    emulator.faults.switch_on("503")
    with pytest.raises(CommandError, match="listed at the next run"):
        run("sweep_webhooks")


def test_a_cursor_of_nobodys_is_refused_by_stripe(stripe_):
    """What `begun_again` answers: the emulator refuses as Stripe does."""
    for kind, type_, after in (
        (WebhookKind.SNAPSHOT, "invoice.*", "evt_gone"),
        (WebhookKind.THIN, "v1.billing.meter.no_meter_found", "/v2/core/events?page=gone"),
    ):
        with pytest.raises(Rejected):
            at_stripe.page(kind=kind, type_=type_, since=NOW - DAY, until=NOW, after=after)
