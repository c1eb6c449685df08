"""A meter that cannot take what we would send is blocked, with a sentence, until it can."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django_celery_beat.models import PeriodicTask

from billing import meter_checks
from billing.enums import Aggregation, CaseKind
from billing.gateway import client
from billing.gateway.client import connection as stripe
from billing.models import Case, Meter
from billing.tasks import check_meters
from stripe_emulator import Emulator
from tests.factories.usage import make_meter

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

METERS = "/v1/billing/meters"


def at_stripe(meter: Meter, *, formula="sum", **fields) -> str:
    """Create the meter at Stripe and link ours to it; return Stripe's id."""
    created = stripe().v1.billing.meters.create(
        {
            "display_name": meter.slug,
            "event_name": meter.event_name,
            "default_aggregation": {"formula": formula},
            **fields,
        }
    )
    Meter.objects.filter(pk=meter.pk).update(stripe_meter_id=created.id)
    return created.id


def lists(emulator: Emulator) -> int:
    return sum(arrival.path == METERS and arrival.method == "GET" for arrival in emulator.arrivals)


def standing(meter: Meter) -> tuple:
    meter.refresh_from_db()
    return meter.checked_at, meter.blocked


def open_cases() -> dict[str, str]:
    return dict(
        Case.objects.filter(kind=CaseKind.METER, closed_at=None).values_list("reference", "reason")
    )


def test_linked_meters_are_checked_once_with_one_list(emulator, now):
    one, other, unlinked = make_meter("one"), make_meter("other"), make_meter("unlinked")
    at_stripe(one), at_stripe(other)

    result = meter_checks.check_due(now)
    again = meter_checks.check_due(now + timedelta(hours=23))

    assert (result.checked_count, result.blocked, result.answered) == (2, (), True)
    assert again == meter_checks.CheckResult()
    assert lists(emulator) == 1
    assert standing(one) == standing(other) == (now, "")
    assert standing(unlinked) == (None, "")
    assert open_cases() == {}


def test_a_meter_is_checked_again_after_a_day(emulator, now):
    meter = make_meter()
    at_stripe(meter)
    meter_checks.check_due(now)

    assert meter_checks.check_due(now + timedelta(days=1)).checked_count == 1
    assert standing(meter) == (now + timedelta(days=1), "")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"formula": "count"}, "has the formula count; a meter of sum needs sum."),
        ({"formula": "last"}, "has the formula last; a meter of sum needs sum."),
        ({"event_time_window": "hour"}, "keeps one event of each hour and drops the others."),
        (
            {"customer_mapping": {"type": "by_id", "event_payload_key": "who"}},
            "reads who and value of an event; we send stripe_customer_id and value.",
        ),
        (
            {"value_settings": {"event_payload_key": "tokens"}},
            "reads stripe_customer_id and tokens of an event; we send stripe_customer_id and value.",
        ),
    ],
)
def test_a_meter_that_counts_otherwise_is_blocked_with_a_sentence(emulator, now, fields, said):
    """F29: an hour's total to a `count` meter would bill one unit."""
    meter, good = make_meter("wrong"), make_meter("good")
    stripe_id = at_stripe(meter, **fields)
    at_stripe(good)

    result = meter_checks.check_due(now)

    assert (result.checked_count, result.blocked) == (2, ("wrong",))
    checked_at, blocked = standing(meter)
    assert checked_at == now
    assert blocked == f"Stripe's meter {stripe_id} {said}"
    assert standing(good) == (now, "")
    assert open_cases() == {"wrong": f"{blocked} Its usage waits."}


def test_a_running_value_needs_a_meter_that_keeps_the_last(emulator, now):
    right, wrong = make_meter("right"), make_meter("wrong")
    at_stripe(right, formula="last"), at_stripe(wrong, formula="sum")
    Meter.objects.update(aggregation="max")

    assert meter_checks.check_due(now).blocked == ("wrong",)
    assert standing(right) == (now, "")


def test_every_aggregation_has_a_formula():
    assert set(Aggregation.values) <= set(meter_checks.FORMULAS)


def test_a_deactivated_meter_is_blocked_and_goes_on_once_it_is_reactivated(emulator, now):
    """F59."""
    meter = make_meter()
    stripe_id = at_stripe(meter)
    stripe().v1.billing.meters.deactivate(stripe_id)
    meter_checks.check_due(now)
    assert standing(meter) == (now, f"Stripe's meter {stripe_id} is deactivated.")

    stripe().v1.billing.meters.reactivate(stripe_id)
    early = meter_checks.check_due(now + timedelta(minutes=4))
    later = now + timedelta(minutes=5)
    result = meter_checks.check_due(later)

    assert early.checked_count == 0
    assert (result.checked_count, result.blocked) == (1, ())
    assert standing(meter) == (later, "")
    assert open_cases() == {}
    assert Case.objects.get().resolution == "Stripe's meter is as it should be."


def test_a_meter_stripe_does_not_have_is_blocked(emulator, now):
    make_meter("gone", stripe_meter_id="mtr_gone")

    assert meter_checks.check_due(now).blocked == ("gone",)
    assert open_cases() == {
        "gone": "Stripe has no meter for mk_gone in test mode. Its usage waits."
    }


def test_a_meter_stripe_routes_elsewhere_is_blocked(emulator, now):
    meter = make_meter("moved")
    stripe_id = at_stripe(meter)
    Meter.objects.update(stripe_meter_id="mtr_before")

    meter_checks.check_due(now)

    assert standing(meter) == (now, f"Stripe routes mk_moved to {stripe_id}, not to mtr_before.")


def test_a_meter_of_the_other_mode_is_blocked(emulator, now, settings):
    """F61."""
    meter = make_meter()
    stripe_id = at_stripe(meter)
    settings.STRIPE_LIVE_MODE = True

    meter_checks.check_due(now)

    assert standing(meter) == (
        now,
        f"Stripe's meter {stripe_id} is of the other mode than our key.",
    )


def test_a_refusal_blocks_a_meter_until_it_is_looked_at_again(emulator, now):
    meter = make_meter()
    at_stripe(meter)
    meter_checks.check_due(now)

    meter_checks.block(meter.pk, "No active meter found for event name mk_input_tokens", now)

    blocked = "No active meter found for event name mk_input_tokens"
    assert standing(meter) == (now, blocked)
    assert open_cases() == {"input_tokens": f"{blocked} Its usage waits."}
    assert meter_checks.check_due(now + timedelta(minutes=5)).blocked == ()
    assert open_cases() == {}


@pytest.mark.parametrize("fault", ["500_after", "429", "drop_before"])
def test_silence_changes_nothing_and_the_next_call_asks_again(emulator, now, fault):
    fresh, blocked = make_meter("fresh"), make_meter("blocked")
    at_stripe(fresh), at_stripe(blocked)
    meter_checks.block(blocked.pk, "no active meter", now)
    emulator.faults.switch_on(fault, path=METERS)
    later = now + timedelta(minutes=5)

    result = meter_checks.check_due(later)

    assert result == meter_checks.CheckResult(answered=False)
    assert standing(fresh) == (None, "")
    assert standing(blocked) == (now, "no active meter")
    emulator.faults.clear()
    assert meter_checks.check_due(later).checked_count == 2


def test_a_refused_key_opens_a_case_that_the_next_list_closes(emulator, now, settings):
    at_stripe(make_meter())
    settings.STRIPE_SECRET_KEY = "nonsense"
    client._connection.cache_clear()

    assert not meter_checks.check_due(now).answered

    case = Case.objects.get()
    assert (case.kind, case.reference) == (CaseKind.MISCONFIGURED, "meters")
    settings.STRIPE_SECRET_KEY = "sk_test_emulator"
    client._connection.cache_clear()
    meter_checks.check_due(now)
    case.refresh_from_db()
    assert case.closed_at is not None


def test_the_nightly_task_checks_every_linked_meter(emulator, now):
    meter = make_meter()
    at_stripe(meter)
    meter_checks.check_due(now)

    check_meters()

    assert standing(meter)[0] != now
    assert PeriodicTask.objects.get(name="billing.check_meters").crontab is not None


def test_the_command_names_what_is_wrong_and_fails(emulator, capsys):
    good, wrong = make_meter("good"), make_meter("wrong")
    make_meter("unlinked")
    at_stripe(good)
    stripe_id = at_stripe(wrong)
    stripe().v1.billing.meters.deactivate(stripe_id)

    with pytest.raises(SystemExit):
        call_command("check_meters")
    blocked = capsys.readouterr().out
    stripe().v1.billing.meters.reactivate(stripe_id)
    call_command("check_meters")

    assert blocked.splitlines() == [
        "good: good",
        "unlinked: not at Stripe yet",
        f"wrong: Stripe's meter {stripe_id} is deactivated.",
    ]
    assert "wrong: good" in capsys.readouterr().out


def test_the_command_says_when_stripe_is_silent(emulator, run):
    at_stripe(make_meter())
    emulator.faults.switch_on("drop_before", path=METERS)

    with pytest.raises(CommandError, match="did not list its meters"):
        run("check_meters")


def test_staff_see_what_blocks_a_meter(emulator, admin_client, now):
    at_stripe(make_meter(), formula="count")
    meter_checks.check_due(now)

    page = admin_client.get("/admin/billing/meter/").content.decode()

    assert "has the formula count" in page
