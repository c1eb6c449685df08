"""The dispatch fence: a database that may have forgotten what it sent sends nothing (F18, F61)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing.enums import Aggregation, CaseKind
from billing.models import Case, Customer, Meter
from tests.factories.usage import arrive, make_submission, states
from tests.usage.conftest import report
from usage import fence
from usage.lifecycle import State
from usage.models import Attempt, Fence, IngestBatch, Submission, SubmissionState

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

LIFTED = {"reason": "restored from last night's backup", "by": "ada"}


@pytest.fixture
def here(monkeypatch) -> fence.Identity:
    """Where we are; `move` changes it."""
    here = replace(fence.identity())
    monkeypatch.setattr(fence, "identity", lambda: here)
    return here


@pytest.fixture
def move(monkeypatch, here):
    """Wake up as another deployment, or on another database."""

    def move(**what: object) -> None:
        monkeypatch.setattr(fence, "identity", lambda: replace(here, **what))

    return move


def open_cases() -> list[tuple[str, str]]:
    return list(
        Case.objects.filter(closed_at=None, kind=CaseKind.QUARANTINE).values_list(
            "reference", "reason"
        )
    )


def test_identity_is_what_the_server_says(db, settings):
    found = fence.identity()

    assert (found.deployment, found.live_mode) == (settings.DEPLOYMENT, False)
    assert found.cluster.isdecimal()
    assert len(found.timeline) == 8
    assert int(found.timeline, 16) >= 1


def test_the_first_inspection_of_a_database_that_never_sent_opens_it(here, now):
    assert not fence.is_open()

    assert fence.inspect(now)
    assert fence.inspect(now + timedelta(hours=1))

    assert fence.is_open()
    stored = Fence.objects.get()
    assert (stored.cluster, stored.timeline) == (here.cluster, here.timeline)
    assert (stored.recorded_at, stored.recorded_by) == (now, "")
    assert open_cases() == []


def test_calls_on_record_without_a_fence_close_it(here, world, now):
    Fence.objects.all().delete()
    make_submission(
        customer=Customer.objects.get(),
        meter=Meter.objects.first(),
        at=now - timedelta(hours=2),
        state=State.ACCEPTED,
    )

    assert not fence.inspect(now)

    assert not fence.is_open()
    assert Fence.objects.get().quarantined_at == now
    [(_, reason)] = open_cases()
    assert reason.startswith("Calls are on record, but not which database made them.")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cluster": "7000000000000000000"}, "The cluster is 7000000000000000000 and was "),
        ({"timeline": "000000F2"}, "The timeline is 000000F2 and was "),
        # A production dump in staging: the same rows, another deployment's name or key.
        ({"deployment": "staging"}, "The deployment is staging and was default."),
        ({"live_mode": True}, "The live mode is True and was False."),
    ],
)
def test_another_database_or_deployment_sends_nothing_until_lifted(here, move, now, changed, said):
    assert fence.inspect(now)
    move(**changed)

    # Already before anybody inspects: the claim asks.
    assert not fence.is_open()
    later = now + timedelta(minutes=1)
    assert not fence.inspect(later)
    assert not fence.inspect(later + timedelta(minutes=1))

    stored = Fence.objects.get()
    assert stored.quarantined_at == later
    assert stored.quarantine_reason.startswith(said)
    [(reference, reason)] = open_cases()
    assert reference == "sending"
    assert reason.startswith(said)


def test_a_fence_stays_closed_when_the_difference_goes_away(here, move, now):
    fence.inspect(now)
    move(timeline="000000F2")
    fence.inspect(now)
    move()

    assert not fence.inspect(now + timedelta(minutes=1))
    assert not fence.is_open()
    [(_, reason)] = open_cases()
    assert "000000F2" in reason


def test_a_case_closed_by_hand_lifts_nothing_and_comes_back(here, move, now):
    fence.inspect(now)
    move(timeline="000000F2")
    fence.inspect(now)
    Case.objects.update(closed_at=now)

    assert not fence.inspect(now + timedelta(minutes=1))
    assert len(open_cases()) == 1


def test_sending_is_stopped_by_hand_before_a_disk_is_put_back(here, now):
    fence.inspect(now)

    call_command("quarantine", reason="restoring the disk", stdout=StringIO())

    assert not fence.is_open()
    assert not fence.inspect(now)
    assert Fence.objects.get().quarantine_reason == "restoring the disk"


@pytest.mark.parametrize("words", [{"reason": " "}, {"by": ""}])
def test_a_quarantine_is_lifted_by_somebody_for_a_reason(here, move, now, words):
    fence.inspect(now)
    move(timeline="000000F2")
    fence.inspect(now)

    with pytest.raises(CommandError, match="by somebody, for a reason"):
        call_command("lift_quarantine", **LIFTED | words)
    with pytest.raises(CommandError, match="required"):
        call_command("lift_quarantine")

    assert not fence.is_open()
    assert len(open_cases()) == 1


def test_a_loss_in_the_future_is_refused(here, now):
    with pytest.raises(fence.NotLifted):
        fence.lift(**LIFTED, lost_since=now + timedelta(minutes=1), now=now)

    assert not Fence.objects.exists()


def test_a_planned_move_moves_no_submission(here, move, world, now):
    fence.inspect(now)
    rows = in_every_state(now)
    before = list(SubmissionState.objects.order_by("pk").values())
    move(cluster="7000000000000000000")
    fence.inspect(now)

    call_command("lift_quarantine", reason="new server", by="ada", stdout=StringIO())

    assert fence.is_open()
    assert list(SubmissionState.objects.order_by("pk").values()) == before
    assert len(before) == len(rows)
    stored = Fence.objects.get()
    assert (stored.recorded_by, stored.reason, stored.lost_since) == ("ada", "new server", None)
    assert stored.quarantined_at is None
    assert Case.objects.get(kind=CaseKind.QUARANTINE).resolution == "ada: new server"


def in_every_state(now) -> dict[State, Submission]:
    """A submission of each state, of a customer of its own, so that two can be in flight."""
    meter = Meter.objects.get(slug="input_tokens")
    return {
        state: make_submission(
            customer=Customer.objects.create(external_id=state, stripe_customer_id=f"cus_{state}"),
            meter=meter,
            at=now - timedelta(days=4),
            state=state,
        )
        for state in State
    }


def test_after_a_loss_nothing_that_is_not_final_is_believed(here, move, world, now):
    fence.inspect(now)
    rows = in_every_state(now)
    move(timeline="000000F2")
    fence.inspect(now)

    lifted = fence.lift(**LIFTED, lost_since=now - timedelta(hours=1), now=now)

    final = {
        State.SETTLED, State.REJECTED, State.SUPERSEDED, State.EXPIRED, State.WRITTEN_OFF
    }  # fmt: skip
    assert dict(zip(rows, states(*rows.values()), strict=True)) == {
        state: state if state in final else State.UNPROVEN for state in State
    }
    assert lifted.unproven_count == 6
    moved = SubmissionState.objects.filter(state=State.UNPROVEN)
    assert set(moved.values_list("recount", "doubt_since", "lease_until", "next_action_at")) == {
        (True, now, None, now + timedelta(hours=36))
    }
    assert not SubmissionState.objects.exclude(state=State.UNPROVEN).filter(recount=True).exists()
    assert Fence.objects.get().lost_since == now - timedelta(hours=1)
    assert fence.is_open()


def test_a_lift_broken_off_leaves_the_fence_closed_and_can_be_repeated(
    here, move, world, now, monkeypatch
):
    fence.inspect(now)
    rows = in_every_state(now)
    move(timeline="000000F2")
    fence.inspect(now)
    before = states(*rows.values())

    def crash(*_, **__):
        raise ConnectionError

    with monkeypatch.context() as broken:
        broken.setattr(fence.cases, "close_case", crash)
        with pytest.raises(ConnectionError):
            fence.lift(**LIFTED, lost_since=now, now=now)

    assert states(*rows.values()) == before
    assert not fence.is_open()
    assert fence.lift(**LIFTED, lost_since=now, now=now).unproven_count == 6


def test_a_running_value_is_told_anew_and_not_left_to_a_sum(here, world, now):
    """I7: a call that is forgotten may have used its identifier up, however long ago."""
    [meter] = Meter.objects.filter(slug="input_tokens")
    Meter.objects.filter(pk=meter.pk).update(aggregation="max")
    rows = in_every_state(now)
    assert "max" not in {aggregation.value for aggregation in fence.ADDITIVE}

    lifted = fence.lift(**LIFTED, lost_since=now, now=now)

    moved = SubmissionState.objects.filter(state=State.UNPROVEN, meter=meter)
    # What is unproven is superseded by the present value at the next upkeep.
    assert set(moved.values_list("recount", "doubt_since", "lease_until", "next_action_at")) == {
        (False, now, None, now)
    }
    assert {state for state, row in rows.items() if states(row) == [State.UNPROVEN]} == {
        State.READY,
        State.SENDING,
        State.RETRY,
        State.IN_DOUBT,
        State.ACCEPTED,
        State.UNPROVEN,
    }
    assert lifted.unproven_count == 0


def test_what_was_sent_in_the_time_that_is_missing_is_not_sent_again(here, move, world, store, now):
    """F18: sent, forgotten by a restore, replayed by the producer, flushed again."""
    fence.inspect(now)
    customer, meter = Customer.objects.get(), Meter.objects.get(slug="input_tokens")
    # Stripe took it; after the restore neither the submission nor its events are here.
    forgotten = make_submission(customer=customer, meter=meter, at=now, value=10)
    arrive(forgotten)
    SubmissionState.objects.all().update(state=State.SUPERSEDED)
    assert world.counted() == 10
    move(timeline="000000F2")
    fence.inspect(now)
    store(report("e-1", at=now, input_tokens=10))
    assert IngestBatch.objects.filter(run=None).count() == 1

    fence.lift(**LIFTED, lost_since=now - timedelta(hours=1), now=now)
    world.deliver()
    world.deliver(hours=1)

    assert not IngestBatch.objects.filter(run=None).exists()
    again = Submission.objects.filter(meter=meter).exclude(pk=forgotten.pk).get()
    assert states(again) == [State.UNPROVEN]
    assert not Attempt.objects.exists()
    assert world.counted() == 10


def test_additive_meters_are_those_whose_submissions_add_up():
    assert set(fence.ADDITIVE) <= set(Aggregation)


def test_staff_see_the_fence_and_who_lifted_it(here, admin_client, now):
    fence.lift(**LIFTED, lost_since=None, now=now)

    page = admin_client.get("/admin/usage/fence/")
    one = admin_client.get("/admin/usage/fence/1/change/")

    assert page.status_code == one.status_code == 200
    assert "restored from last night" in one.content.decode()
    assert "ada" in page.content.decode()
    assert "open" in page.content.decode()
    assert admin_client.get("/admin/usage/fence/add/").status_code == 403
